"""Turn a model into one that trains under a recipe, in place, and back.

`prepare_` changes the class of modules and nothing else: parameters, their order, hooks and state-dict keys
stay, so optimizers, checkpoints, DDP and a copy of the model go on as before. `restore_` gives every module
its class back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from dither.checks import check_address, warn_inexact
from dither.errors import UserError
from dither.nn.clock import addresses_of, attach_, detach_
from dither.nn.counterparts import OPT_IN, known, mixed
from dither.nn.kernels import WORDS
from dither.nn.layers import Quantized
from dither.nn.ragged import check_whole_blocks
from dither.nn.recipe import SITES, Recipe
from dither.nn.rules import Rule, decide
from dither.nn.sites import Prepared, Site
from dither.scaling import whole

RAGGED = ("shorter", "error")


def prepare_(
    model: nn.Module,
    recipe: Recipe | str,
    *,
    exempt: Iterable[str] | str = (),
    rules: Sequence[Rule] = (),
    also: Mapping[str, Iterable[str] | str] | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    ragged: str = "shorter",
    seed: int = 0,
    steps: int | None = None,
    rank: int | None = None,
) -> nn.Module:
    """Make the sites of `model` compute as `recipe` says, in place; returns `model`.

    Args:
        recipe: a Recipe or the name of a preset (`Recipe.presets()`). A plain one changes nothing.
        exempt: globs of names of modules or sites to leave out, whatever the rules say; "*.head" also means a
            top-level "head".
        rules: (where, what) pairs, the later ones win. `where` is a glob or a function of (module,
            name). `what` is a recipe or its name, which takes the place of the site's (for the kinds that it
            names); a dict such as {"wgrad_g": None} that changes operands, also those of a site which the
            recipe leaves out; or None, which exempts.
        also: globs by kind, {"norm": "*.ln_?"}: modules to be sites of that kind although the recipe does not
            name the kind, or this package not their class ("norm": with a `weight`; "attention": what calls
            F.scaled_dot_product_attention; "output": any, its output is quantized;
            "residual": a block, its sums x + f(x) are).
        filter_fn: called as filter_fn(module, name) for every site that is left; False leaves it out.
        ragged: "shorter" lets the last block of an axis be shorter (a tile at an edge smaller); "error"
            refuses a layer whose features do not fill whole blocks, and in the run whatever does not, above
            all wgrad where the tokens do not.
        seed: of stochastic roundings and rotations. Their position in the run is set by `set_clock_`.
        steps: optimizer steps of the run, for recipes that change at a part of it; without it they do not.
        rank: which of the batch's equal shares this process holds, so that the random bits of an element do
            not depend on the number of processes; by default the rank in torch.distributed, 0 without it.

    Raises UserError where the model is prepared already (restore_ it first), a glob or function matches
    nothing, no site is left, an embedding to be quantized has max_norm, a lazy layer has no shape yet, a
    number does not mean anything, or a ragged layer is refused. A failed call changes nothing.
    """
    recipe = Recipe.get(recipe)
    if not isinstance(model, nn.Module):
        raise TypeError(f"prepare_ takes a torch.nn.Module, not {type(model).__name__}")
    seed, steps, rank = _check_numbers(seed, steps, _rank() if rank is None else rank)
    prepared = sites(model)
    if prepared:
        raise UserError(
            f"the model is prepared already ({prepared[0].name!r} has recipe {prepared[0].recipe.name!r}); "
            "call dither.nn.restore_(model) first"
        )
    if ragged not in RAGGED:
        raise UserError(f"ragged must be one of {', '.join(RAGGED)}, not {ragged!r}")
    decided = decide(
        model, recipe, exempt=exempt, rules=rules, also=also, filter_fn=filter_fn, seed=seed, steps=steps
    )
    chosen = [(module, site) for module, site in decided if site.is_quantized]
    if not chosen:
        if recipe.is_plain and not rules:
            return model
        raise UserError(_nothing_left(recipe, decided))
    for module, site in chosen:
        if any(isinstance(p, UninitializedParameter) for p in module.parameters(recurse=False)):
            raise UserError(
                f"the shape of {site.name!r} is not known yet: call the model once, then prepare_"
            )
        if site.kind == "embedding" and module.max_norm is not None:
            raise UserError(f"{site.name!r} renormalises its weight in place (max_norm); exempt it")
        if ragged == "error":
            check_whole_blocks(site)
    addresses_of(decided[-1][1], 0, 0)  # a position that does not fit is found before anything changes
    _warn_of_inexact(chosen)
    _warn_of_switch([site.recipe for _, site in chosen], steps)
    _warn_of_fast_path(model)
    _swap_all_(model, decided, rank, ragged == "error")
    return model


def _check_numbers(seed: Any, steps: Any, rank: Any) -> tuple[int, int | None, int]:
    for name, value, least in (("steps", 1 if steps is None else steps, 1), ("rank", rank, 0)):
        if not isinstance(whole(value), int) or isinstance(value, bool) or value < least:
            raise UserError(f"{name}= is an integer of at least {least}, not {value!r}")
    return check_address(seed, 0, 0)[0], None if steps is None else int(steps), int(rank)


def _rank() -> int:
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def _nothing_left(recipe: Recipe, decided: list[tuple[nn.Module, Site]]) -> str:
    kinds = sorted({site.kind for _, site in decided}, key=SITES.index)
    return (
        f"recipe {recipe.name!r} applies to {', '.join(recipe.sites)}, but no such module is left in the "
        f"model (it has: {', '.join(kinds) or 'none that could be a site'}); change sites=, exempt=, "
        "rules= or filter_fn="
    )


def _swap_all_(
    model: nn.Module, decided: list[tuple[nn.Module, Site]], rank: int, whole_blocks: bool
) -> None:
    plan = tuple(site for _, site in decided)
    parts: dict[int, tuple[nn.Module, list[Site]]] = {}
    for module, site in decided:
        parts.setdefault(id(module), (module, []))[1].append(site)
    quantized = {key for key, (_, own) in parts.items() if any(site.is_quantized for site in own)}
    # torch's own attention multiplies by the weight of out_proj without calling it
    quantized |= {
        id(module)
        for module, _ in parts.values()
        if isinstance(module, nn.MultiheadAttention) and id(module.out_proj) in quantized
    }
    for key in quantized:
        module, own = parts[key]
        _swap_(module, tuple(own), plan, rank, whole_blocks)


def _swap_(
    module: nn.Module, own: tuple[Site, ...], plan: tuple[Site, ...], rank: int, whole_blocks: bool
) -> None:
    plain = type(module)
    quantized = mixed(known(module) or OPT_IN[own[0].kind], plain)
    prepared = Prepared(own, plain, quantized, plan, rank, whole_blocks)
    module.__class__ = quantized
    vars(module)["dither_prepared"] = prepared
    attach_(module, prepared)


def restore_(model: nn.Module) -> nn.Module:
    """Undo `prepare_` in place: every module has its class back; weights keep what they learned.

    Raises UserError where the class of a module was changed since, by a method that is still attached or by
    another library (fully_shard of FSDP2); nothing is changed then.
    """
    prepared = [(name, module) for name, module in model.named_modules() if isinstance(module, Quantized)]
    for name, module in prepared:
        if type(module) is not module.dither_prepared.quantized_class:
            raise UserError(
                f"the class of {name!r} has become {type(module).__name__} since prepare_; undo that first "
                "(a method: method.detach()), or load its state dict into a new model"
            )
    for _, module in prepared:
        plain_class: Any = module.dither_prepared.plain_class
        detach_(module)
        del module.dither_prepared
        module.__class__ = plain_class
    return model


def sites(model: nn.Module) -> list[Site]:
    """What of the model is quantized, and how; empty for a plain model."""
    return [
        site
        for module in model.modules()
        if isinstance(module, Quantized)
        for site in module.dither_prepared.sites
        if site.is_quantized
    ]


def _warn_of_inexact(chosen: list[tuple[nn.Module, Site]]) -> None:
    """Say once which quantizers lose exactness in a 16-bit model."""
    for module, site in chosen:
        for parameter in module.parameters(recurse=False):
            for q in site.recipe.quantizers:
                warn_inexact(q, WORDS[parameter.dtype])


def _warn_of_fast_path(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            warnings.warn(
                f"{name!r} is an nn.TransformerEncoderLayer, whose eval mode without gradients skips its "
                "linears; call torch.backends.mha.set_fastpath_enabled(False) to evaluate it quantized",
                stacklevel=3,
            )


def _warn_of_switch(recipes: list[Recipe], steps: int | None) -> None:
    late = [recipe for recipe in recipes if recipe.forward_bf16_from is not None]
    if late and steps is None:
        warnings.warn(
            f"recipe {late[0].name!r} turns its forward to bf16 at {late[0].forward_bf16_from:g} of the run: "
            "pass steps=, the length of the run, to prepare_ and call set_clock_, or it never does",
            stacklevel=3,
        )
