"""Turn a model into one that trains under a recipe, in place, and back.

`prepare_` changes the class of leaf modules and nothing else: parameters, their order, hooks and state-dict
keys stay, so optimizers, checkpoints, DDP and a copy of the model go on as before. `restore_` gives every
module its class back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import nn

from dither import arrays
from dither.errors import UserError
from dither.nn.kernels import WORDS
from dither.nn.layers import COUNTERPARTS, Quantized, counterpart, plain_base
from dither.nn.products import operands_of
from dither.nn.recipe import SITES, Recipe
from dither.nn.streams import OPERANDS, SECOND_PRODUCT, signed, stream
from dither.quantizer import Quantizer

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
) -> nn.Module:
    """Make the sites of `model` compute as `recipe` says, in place; returns `model`.

    Args:
        recipe: a Recipe or the name of a preset (`Recipe.presets()`). A plain one changes nothing.
        exempt: globs of module names to leave out; "*.head" also means a top-level "head".
        filter_fn: called as filter_fn(module, name) for every site that is left; False leaves it out.
        seed: of stochastic roundings. Their position in the run is set by `set_clock_`.

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
    if recipe.is_plain:
        return model
    chosen = [
        (module, Site(name, kind, recipe, index, seed, type(module)))
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
    streams = {site.index: _streams(site, 0, 0) for _, site in chosen} if recipe.is_stochastic else {}
    _warn_of_fused(model)
    for module, site in chosen:
        _swap_(module, site, streams.get(site.index))
    return model


def _swap_(module: nn.Module, site: Site, rng: torch.Tensor | None) -> None:
    base = plain_base(module)
    assert base is not None
    module.__class__ = counterpart(module, base)
    vars(module).update(dither_site=site, dither_operands=operands_of(site.recipe))
    weight = getattr(module, "weight", None)
    if rng is not None and isinstance(weight, torch.Tensor):
        rng = rng.to(weight.device)
    module.register_buffer("dither_rng", rng, persistent=False)


def restore_(model: nn.Module) -> nn.Module:
    """Undo `prepare_` in place: every module has its class back; weights keep what they learned."""
    for module in list(model.modules()):
        if isinstance(module, Quantized):
            plain_class = module.dither_site.plain_class
            del module.dither_site, module.dither_operands, module.dither_rng
            module.__class__ = plain_class  # pyright: ignore[reportAttributeAccessIssue]
    return model


def sites(model: nn.Module) -> list[Site]:
    """What of the model is quantized, and how; empty for a plain model."""
    return [module.dither_site for module in model.modules() if isinstance(module, Quantized)]


def set_clock_(model: nn.Module, step: int, microbatch: int = 0) -> None:
    """Tell all sites where in the run the next forward is: the position that enters their random streams.

    step (0..2^32-1) counts optimizer steps, microbatch (0..4095) the forwards within one. A backward uses the
    position of its own forward. Costs nothing where no rounding is stochastic, and recompiles nothing.
    """
    for module in model.modules():
        if isinstance(module, Quantized) and module.dither_rng is not None:
            module.dither_rng.copy_(_streams(module.dither_site, step, microbatch))


def _streams(site: Site, step: int, microbatch: int) -> torch.Tensor:
    """[seed, stream] of every operand: six rows, twelve for the two products of an attention."""
    numbers = list(range(len(OPERANDS)))
    if site.kind == "attention":
        numbers += [SECOND_PRODUCT + number for number in numbers]
    seed = signed(site.seed)
    rows = [[seed, signed(stream(site.index, number, microbatch, step))] for number in numbers]
    return torch.tensor(rows, dtype=torch.int64)


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
            for q in site.recipe.operands:
                if isinstance(q, Quantizer):
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
