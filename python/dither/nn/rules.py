"""What each site of a model gets.

A site starts with the recipe if the recipe names its kind; then every rule that matches changes it, the last
one having the last word; what is exempt stays out whatever the rules say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from dither.errors import UserError, suggest
from dither.nn.counterparts import OPT_IN
from dither.nn.kept import kept
from dither.nn.recipe import SITES, Recipe
from dither.nn.sites import Candidate, Site, candidates, covers, listing, matching

Where = str | Callable[[nn.Module, str], bool]
Rule = tuple[Where, "Recipe | str | Mapping[str, Any] | None"]
"""(glob or function, what): a recipe or its name takes the place of what the site had, if it names the site's
kind; a mapping changes fields of it (and makes a site of any kind); None exempts it."""

PLAIN = Recipe(name="plain")


def opted_in(
    model: nn.Module, also: Mapping[str, Iterable[str] | str], found: list[Candidate]
) -> list[Candidate]:
    """The modules that `also` names and `candidates` does not know, as sites of the kind it says."""
    if not isinstance(also, Mapping):
        raise UserError(f'also= says which modules are of which kind, as {{"norm": "*.ln"}}; it is {also!r}')
    have = {id(candidate.module) for candidate in found}
    modules = dict(model.named_modules())
    extra = []
    for kind, globs in also.items():
        if kind not in SITES:
            raise UserError(f"also= names the unknown kind {kind!r}{suggest(kind, SITES)}")
        for glob in _listed(globs):
            names = [name for name in modules if covers(glob, name)]
            if not names and not any(c.answers(glob) for c in found):
                names = "\n  ".join(f"{n} ({type(m).__name__})" for n, m in modules.items() if n)
                raise UserError(f"also pattern {glob!r} matches no module. Modules:\n  {names or 'none'}")
            taken = [name for name in names if id(modules[name]) not in have]
            if not taken and not any(c.kind == kind and c.answers(glob) for c in found + extra):
                raise UserError(
                    f"also pattern {glob!r} takes no module as {kind}: {names[0]!r} is a site of "
                    "another kind, and a module is one alone"
                )
            for name in taken:
                have.add(id(modules[name]))
                extra += _taken(name, modules[name], kind)
    return extra


def _taken(name: str, module: nn.Module, kind: str) -> list[Candidate]:
    if kind not in OPT_IN:
        raise UserError(
            f"{name!r} is a {type(module).__name__}, which cannot be taken as {kind}: modules of any class "
            f"can be {', '.join(OPT_IN)}"
        )
    if kind == "norm" and module._parameters.get("weight") is None:
        raise UserError(
            f"{name!r} is a {type(module).__name__} without a parameter `weight`: no norm to quantize"
        )
    return [Candidate(f"{name}.{part}".strip("."), module, kind) for part, kind in OPT_IN[kind].parts]


def decide(
    model: nn.Module,
    recipe: Recipe,
    *,
    exempt: Iterable[str] | str = (),
    rules: Sequence[Rule] = (),
    also: Mapping[str, Iterable[str] | str] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> list[tuple[nn.Module, Site]]:
    """All sites of the model with what each gets, in the order of named_modules; nothing is changed."""
    known_ones = candidates(model)
    opted = opted_in(model, also or {}, known_ones)
    found = known_ones + opted  # opting in leaves the random streams of the others alone
    asked = {c.name for c in found for kind, globs in (also or {}).items() for glob in _listed(globs)
             if c.kind == kind and c.answers(glob)}  # fmt: skip
    for glob in _listed(exempt):
        matching(found, [glob])
    whole = kept([c.name for c in found if c.kind in recipe.sites], *recipe.keep_blocks)
    matched = [
        _matches(*_pair(rule, number), found, number) for number, rule in enumerate(_in_order(rules), start=1)
    ]
    decided = []
    for index, candidate in enumerate(found):
        name, module, kind = candidate
        now = recipe if kind in recipe.sites or name in asked else PLAIN
        why = f"recipe {recipe.name}" if now is recipe else f"{kind} is no site of the recipe"
        if now is recipe and name in whole:
            now, why = PLAIN, f"keep_blocks of recipe {recipe.name}"
        for number, ((_, what), names) in enumerate(zip(rules, matched, strict=True), start=1):
            if name in names:
                now, why = _changed(now, what), f"rule {number}"
        left_out = next((glob for glob in _listed(exempt) if candidate.answers(glob)), None)
        if left_out is not None:
            now, why = PLAIN, f"exempt {left_out!r}"
        elif filter_fn is not None and now is not PLAIN and not filter_fn(module, candidate.owner):
            now, why = PLAIN, "filter_fn"
        switch = _switch_step(now, steps)
        decided.append(
            (module, Site(name, kind, now, index, seed, candidate.part, candidate.shape, why, switch))
        )
    order = {id(module): number for number, module in enumerate(model.modules())}
    return sorted(decided, key=lambda entry: order[id(entry[0])])


def _switch_step(recipe: Recipe, steps: int | None) -> int | None:
    if recipe.forward_bf16_from is None or steps is None:
        return None
    return math.ceil(recipe.forward_bf16_from * steps)


def _changed(now: Recipe, what: Recipe | str | Mapping[str, Any] | None) -> Recipe:
    if what is None:
        return PLAIN
    return now.replace(**what) if isinstance(what, Mapping) else Recipe.get(what)


def _in_order(rules: Any) -> Sequence[Rule]:
    if isinstance(rules, Mapping | str) or not isinstance(rules, Sequence):
        raise TypeError(
            'rules= is a list of pairs such as [("*.mlp.*", "mxfp4"), ("head", None)], '
            f"not a {type(rules).__name__}"
        )
    return rules


def _pair(rule: Any, number: int) -> Rule:
    if isinstance(rule, str) or not isinstance(rule, Sequence) or len(rule) != 2:
        raise TypeError(f"rule {number} is {rule!r}, not a pair of where and what")
    return rule[0], rule[1]


def _matches(where: Where, what: Any, found: list[Candidate], number: int) -> set[str]:
    """Names of the sites that rule `number` changes. UserError where it has no effect on any."""
    if what is not None and not isinstance(what, Recipe | str | Mapping):
        raise TypeError(
            f"rule {number} gives a {type(what).__name__}: a rule is (glob or function, and a recipe, the "
            "name of one, a dict of operands, or None)"
        )
    if isinstance(where, str):
        covered = matching(found, [where], f"rule {number}: pattern")
    elif callable(where):
        covered = {c.name for c in found if where(c.module, c.owner)}
        if not covered:
            raise UserError(f"rule {number}: the function holds for no site.{listing(found)}")
    else:
        raise TypeError(f"rule {number} starts with a {type(where).__name__}, not a glob or a function")
    if what is None or isinstance(what, Mapping):
        return covered
    kinds = Recipe.get(what).sites
    fitting = {c.name for c in found if c.name in covered and c.kind in kinds}
    if not fitting:
        have = ", ".join(sorted({c.kind for c in found if c.name in covered}))
        raise UserError(
            f"rule {number} matches sites of kind {have}, but its recipe applies to {', '.join(kinds)}; "
            "change its sites="
        )
    return fitting


def _listed(globs: Iterable[str] | str) -> list[str]:
    return [globs] if isinstance(globs, str) else list(globs)
