"""Turn a model into one that trains under a recipe, in place, and back.

`prepare_` changes the class of leaf modules and nothing else: parameters, their order, hooks and state-dict
keys stay, so optimizers, checkpoints, DDP and a copy of the model go on as before. `restore_` gives every
module its class back.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from dither import arrays
from dither.errors import UserError
from dither.nn.clock import addresses_of, attach_, detach_
from dither.nn.kept import kept
from dither.nn.kernels import WORDS
from dither.nn.layers import COUNTERPARTS, Quantized, counterpart, plain_base
from dither.nn.recipe import SITES, Recipe

HEAD_NAMES = ("head", "lm_head", "output")


@dataclass(frozen=True)
class Site:
    """A module that a recipe applies to."""

    name: str
    kind: str
    recipe: Recipe
    index: int
    """Position among all modules that could be sites; enters the random streams."""
    seed: int
    plain_class: type[nn.Module] = field(repr=False)
    switch_step: int | None = None
    """The step from which the forward is in bf16 (Recipe.forward_bf16_from); None: never, or not known."""


def candidates(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(name, module, kind) of all that could be a site under some recipe, in the order of named_modules.

    A linear is a head if its name ends in head, lm_head or output, or if an embedding shares its weight.
    """
    modules = list(model.named_modules())
    embeddings = {id(m.weight) for _, m in modules if isinstance(m, nn.Embedding)}
    inside = {id(m.out_proj) for _, m in modules if isinstance(m, nn.MultiheadAttention)}
    found = []
    for name, module in modules:
        base = _base(module)
        if base is None or id(module) in inside:
            continue
        kind = COUNTERPARTS[base][0]
        if kind == "norm" and module.weight is None:
            continue
        if kind == "linear" and (name.rpartition(".")[2] in HEAD_NAMES or id(module.weight) in embeddings):
            kind = "head"
        found.append((name, module, kind))
    return found


def _base(module: nn.Module) -> type[nn.Module] | None:
    if isinstance(module, Quantized):
        return next(base for base in COUNTERPARTS if issubclass(module.dither_site.plain_class, base))
    return plain_base(module)


def prepare_(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    exempt: Iterable[str] | str = (),
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> nn.Module:
    """Make the sites of `model` compute as `recipe` says, in place; returns `model`.

    Args:
        recipe: a Recipe or the name of a preset (`Recipe.presets()`). A plain one changes nothing.
        exempt: globs of module names to leave out; "*.head" also means a top-level "head".
        filter_fn: called as filter_fn(module, name) for every site that is left; False leaves it out.
        seed: of stochastic roundings and rotations. Their position in the run is set by `set_clock_`.
        steps: optimizer steps of the run, for recipes that change at a part of it; without it they do not.

    Raises UserError where the model is prepared already (restore_ it first), a glob matches no module that
    could be a site, no site is left, or an embedding to be quantized has max_norm. A failed call changes
    nothing.
    """
    recipe = Recipe.get(recipe)
    prepared = sites(model)
    if prepared:
        raise UserError(
            f"the model is prepared already ({prepared[0].name!r} has recipe {prepared[0].recipe.name!r}); "
            "call dither.nn.restore_(model) first"
        )
    found = candidates(model)
    left_out = matching(found, [exempt] if isinstance(exempt, str) else list(exempt))
    left_out |= kept([name for name, _, kind in found if kind in recipe.sites], *recipe.keep_blocks)
    if recipe.is_plain:
        return model
    switch = _switch_step(recipe, steps)
    chosen = [
        (module, Site(name, kind, recipe, index, seed, type(module), switch))
        for index, (name, module, kind) in enumerate(found)
        if kind in recipe.sites and name not in left_out and (filter_fn is None or filter_fn(module, name))
    ]
    if not chosen:
        kinds = sorted({kind for _, _, kind in found}, key=SITES.index)
        raise UserError(
            f"recipe {recipe.name!r} applies to {', '.join(recipe.sites)}, but no such module is left in the "
            f"model (it has: {', '.join(kinds) or 'none that could be a site'}); change sites=, exempt= or "
            "filter_fn="
        )
    for module, site in chosen:
        if site.kind == "embedding" and module.max_norm is not None:
            raise UserError(f"{site.name!r} renormalises its weight in place (max_norm); exempt it")
    _warn_of_inexact(chosen)
    addresses_of(chosen[-1][1], 0, 0)  # a position that does not fit is found before anything changes
    _warn_of_fused(model)
    for module, site in chosen:
        base = plain_base(module)
        assert base is not None
        module.__class__ = counterpart(module, base)
        vars(module)["dither_site"] = site
        attach_(module, site)
    return model


def _switch_step(recipe: Recipe, steps: int | None) -> int | None:
    if recipe.forward_bf16_from is None:
        return None
    if steps is None:
        warnings.warn(
            f"recipe {recipe.name!r} turns its forward to bf16 at {recipe.forward_bf16_from:g} of the run: "
            "pass steps=, the length of the run, to prepare_ and call set_clock_, or it never does",
            stacklevel=3,
        )
        return None
    return math.ceil(recipe.forward_bf16_from * steps)


def restore_(model: nn.Module) -> nn.Module:
    """Undo `prepare_` in place: every module has its class back; weights keep what they learned."""
    for module in list(model.modules()):
        if isinstance(module, Quantized):
            plain_class = module.dither_site.plain_class
            detach_(module)
            del module.dither_site
            module.__class__ = plain_class  # pyright: ignore[reportAttributeAccessIssue]
    return model


def sites(model: nn.Module) -> list[Site]:
    """What of the model is quantized, and how; empty for a plain model."""
    return [module.dither_site for module in model.modules() if isinstance(module, Quantized)]


def matching(found: list[tuple[str, nn.Module, str]], globs: list[str]) -> set[str]:
    """Names that a glob covers. UserError for a glob that covers none."""
    covered = set()
    for glob in globs:
        names = {name for name, _, _ in found if fnmatchcase(name, glob) or fnmatchcase("." + name, glob)}
        if not names:
            listing = "\n  ".join(f"{name} ({kind})" for name, _, kind in found) or "none"
            raise UserError(
                f"exempt pattern {glob!r} matches no module. Modules that can be sites:\n  {listing}"
            )
        covered |= names
    return covered


def _warn_of_inexact(chosen: list[tuple[nn.Module, Site]]) -> None:
    """Say once which quantizers lose exactness in a 16-bit model."""
    for module, site in chosen:
        for parameter in module.parameters(recurse=False):
            for q in site.recipe.quantizers:
                arrays.warn_inexact(q, WORDS[parameter.dtype])


def _warn_of_fused(model: nn.Module) -> None:
    """torch's fused attention modules multiply without calling their linears, out of reach of a recipe."""
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            warnings.warn(
                f"{name!r} is an nn.MultiheadAttention, whose products run in one torch function and stay "
                "unquantized; write it with nn.Linear and dither.nn.AttentionProducts to quantize them",
                stacklevel=3,
            )
        elif isinstance(module, nn.TransformerEncoderLayer):
            warnings.warn(
                f"{name!r} is an nn.TransformerEncoderLayer, whose eval mode without gradients skips its "
                "linears; call torch.backends.mha.set_fastpath_enabled(False) to evaluate it quantized",
                stacklevel=3,
            )
