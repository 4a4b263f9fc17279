"""Which site of a model gets what: to read, to save beside a checkpoint, and to check when it is loaded.

A recipe leaves the state dict as it is, so a checkpoint does not say under which recipe its weights were
trained. `recipe_of` gives a text to save beside it; `check_recipe` compares. `save_model` and `load_model_`
do both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields

import torch
from torch import nn

from dither.errors import UserError
from dither.nn.layers import Quantized
from dither.nn.recipe import Recipe
from dither.nn.rules import Rule, decide
from dither.nn.sites import USED, Site
from dither.nn.states import rows_of
from dither.nn.streams import OPERANDS, PRODUCTS


class Description(tuple[Site, ...]):
    """The sites of a model, quantized or not, in the order of its modules; prints as a table, with a row for
    each parameter's state where an optimizer was given (`states`)."""

    states: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        head = ("site", "kind", "shape", "what it gets", "why")
        rows = [head, *(_row(site) for site in self), *self.states]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        counts = Counter(site.kind for site in self if site.is_quantized)
        total = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing"
        return "\n".join([*lines, f"quantized: {total}; {len(self) - counts.total()} sites are not"])

    __repr__ = __str__


def _row(site: Site) -> tuple[str, ...]:
    shape = " x ".join(map(str, site.shape)) or "-"
    return site.name or "(the model)", site.kind, shape, summary(site), site.why


def summary(site: Site) -> str:
    """What a site gets, in short: its operands, those with the same quantizer together, its rotations, how
    its
    products are added, and when the forward switches."""
    if not site.is_quantized:
        return "not quantized"
    operands = site.operands
    groups: dict[str, list[str]] = {}
    for name, q in operands.items():
        if q is not None:
            groups.setdefault("the forward's weight" if q == "fprop" else str(q), []).append(name)
    if len(groups) == 1 and len(operands) > 1 and all(q is not None for q in operands.values()):
        parts = [f"all: {next(iter(groups))}"]
    else:
        parts = [f"{' '.join(names)}: {spec}" for spec, names in groups.items()]
    if site.kind not in USED:
        rotations = zip(PRODUCTS, site.recipe.rotations, strict=True)
        parts += [f"{product}: {rotation}" for product, rotation in rotations if rotation]
        parts += [str(site.recipe.accumulate)] if site.recipe.accumulate else []
    if site.recipe.forward_bf16_from:
        when = "" if site.switch_step is None else f", step {site.switch_step}"
        parts.append(f"forward in bf16 from {site.recipe.forward_bf16_from:g} of the run{when}")
    return "; ".join(parts)


def describe(
    model: nn.Module,
    recipe: Recipe | str | None = None,
    *,
    exempt: Iterable[str] | str = (),
    rules: Sequence[Rule] = (),
    also: Mapping[str, Iterable[str] | str] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Description:
    """Which site of the model gets what; `print` it for a table. With `optimizer`, also how it stores the
    state of each parameter (`dither.optim.named_groups` says it by name).

    A prepared model is described as it is. A plain one as `prepare_` with the same arguments would make it
    (without a recipe: what could be a site). The result is a tuple of `Site`. UserError as for `prepare_`,
    and for a recipe given with a model that is prepared already.
    """
    plans = [module.dither_prepared.plan for module in model.modules() if isinstance(module, Quantized)]
    if plans:
        if recipe is not None:
            raise UserError(
                "the model is prepared already: describe it without a recipe, or restore_ it first"
            )
        described = Description(site for plan in dict.fromkeys(plans) for site in plan)
        return _with_states(described, model, optimizer)
    chosen = Recipe.get("fp32" if recipe is None else recipe)
    decided = decide(model, chosen, exempt=exempt, rules=rules, also=also, filter_fn=filter_fn)
    return _with_states(Description(site for _, site in decided), model, optimizer)


def _with_states(
    described: Description, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> Description:
    if optimizer is not None:
        described.states = tuple(rows_of(model, optimizer))
    return described


def recipe_of(model: nn.Module) -> str:
    """What the model trains under, as text: a line for each quantized site with its operands; empty for a
    plain model. The same text means the same arithmetic."""
    return "\n".join(f"{site.name}\t{_facts(site)}" for site in describe(model) if site.is_quantized)


def _facts(site: Site) -> str:
    """The kind, the operands in use, and whatever else of the recipe differs from a plain one."""
    plain = Recipe()
    others = [f.name for f in fields(Recipe) if f.name not in (*OPERANDS, "sites", "name")]
    values = {
        **{name: q for name, q in site.operands.items() if q is not None},
        **{n: getattr(site.recipe, n) for n in others if getattr(site.recipe, n) != getattr(plain, n)},
    }
    return " ".join([site.kind, *(f"{name}={value}" for name, value in values.items())])


def check_recipe(model: nn.Module, saved: str, *, way_out: str = "leave the check out") -> None:
    """Raise UserError where `saved`, a `recipe_of`, is not what the model is prepared for; names what
    differs. `way_out`: what the message advises where the change is meant."""
    texts = (saved, recipe_of(model))
    before, now = (dict(line.split("\t") for line in text.splitlines()) for text in texts)
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        was, is_ = (sites.get(name, "not quantized") for sites in (before, now))
        raise UserError(
            f"the weights were trained under another recipe: {len(changed)} sites differ, the first is "
            f"{name!r}: it was {was}, and is now {is_}; prepare_ the model as it was, or {way_out} where the "
            "change is meant"
        )
