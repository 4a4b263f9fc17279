"""What a prepared layer carries of its recipe, and how the clock of the run moves it.

    dither_operands  for each product of the layer its operands, ready to use (factors.Operands)
    dither_rng       int64 (rows, 2): seed and stream of every operand and rotation, product after product;
                     None unless some are read
    dither_history   fp32 (rows, 2 + steps): the state of delayed scaling; None without it
    dither_position  (step, microbatch) that the addresses stand at
    dither_clock     the step that the history stands at

The two tensors are non-persistent buffers: they move with the model, and its state dict stays as it was.
`state_dict` and `load_state_dict_` keep the history for a checkpoint; addresses follow from the clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.nn import history, kernels
from dither.nn.operand import Delayed, Operand
from dither.nn.ready import Operand as Ready
from dither.nn.ready import Operands, operands_of
from dither.nn.recipe import Recipe
from dither.nn.streams import OPERANDS, addresses

if TYPE_CHECKING:
    from dither.nn.sites import Prepared, Site

ATTRIBUTES = ("dither_operands", "dither_rng", "dither_history", "dither_position", "dither_clock")
WEIGHTS = ("fprop_w", "dgrad_w")


def attach_(module: nn.Module, prepared: Prepared) -> None:
    """Give a module what its recipes need to compute, at step 0."""
    recipes = [site.recipe for site in prepared.sites]
    rng = _addresses(prepared.sites, 0, 0) if any(recipe.is_addressed for recipe in recipes) else None
    state, steps = None, max(recipe.history for recipe in recipes)
    if steps:
        state = history.fresh_state(len(recipes) * len(OPERANDS), steps)
    parameter = next(module.parameters(recurse=False), None)
    if parameter is not None:
        rng, state = (None if t is None else t.to(parameter.device) for t in (rng, state))
    vars(module).update(dither_operands=_operands(prepared, None), dither_position=(0, 0), dither_clock=None)
    module.register_buffer("dither_rng", rng, persistent=False)
    module.register_buffer("dither_history", state, persistent=False)


def detach_(module: nn.Module) -> None:
    """Take it away again."""
    for name in ATTRIBUTES:
        delattr(module, name)


def refresh_(module: Any, before: Tensor | None) -> None:
    """After the buffers moved: what they hold is written anew, as `to_empty` leaves memory without values and
    a change of dtype would round it. `before`: the history as it was; one without values starts afresh."""
    if module.dither_rng is not None:
        module.dither_rng.copy_(_addresses(module.dither_prepared.sites, *module.dither_position))
    after = module.dither_history
    if after is None or after is before or before is None:
        return
    if before.is_meta:
        before = history.fresh_state(len(before), before.shape[1] - history.PAST)
    if after.dtype == before.dtype:
        after.copy_(before)
    else:
        module.dither_history = before.to(after.device)


def addresses_of(site: Site, step: int, microbatch: int) -> Tensor:
    """[seed, stream] of every operand and rotation of a site."""
    fixed = tuple(rotation is not None and rotation.signs == "fixed" for rotation in site.recipe.rotations)
    return addresses(site.seed, site.index, step, microbatch, fixed)


def _addresses(sites: tuple[Site, ...], step: int, microbatch: int) -> Tensor:
    return torch.cat([addresses_of(site, step, microbatch) for site in sites])


def set_clock_(model: nn.Module, step: int, microbatch: int = 0) -> None:
    """Tell all sites where in the run the next forward is.

    step (0..2^32-1) counts optimizer steps, microbatch (0..4095) the forwards within one. It is the position
    in the random streams (a backward uses the position of its own forward), moves the histories of delayed
    scaling when the step changes (in a distributed run all ranks must call it: their maxima are reduced), and
    switches the forward to bf16 where the recipe says so and `prepare_` was told the length of the run.
    Costs nothing where a recipe needs none of it; only the switch recompiles.
    """
    delayed = []
    for module in _prepared(model):
        prepared, state = module.dither_prepared, module.dither_history
        if module.dither_rng is not None:
            module.dither_rng.copy_(_addresses(prepared.sites, step, microbatch))
            module.dither_position = (step, microbatch)
        if state is not None and module.dither_clock != step:
            delayed.append((state, _delayed_rows(prepared.sites)))
        if any(site.switch_step is not None for site in prepared.sites):
            module.dither_operands = _operands(prepared, step)
        module.dither_clock = step
    history.advance_(delayed)


def _operands(prepared: Prepared, step: int | None) -> tuple[Operands, ...]:
    """Those of each site, at that step of the run."""
    return tuple(
        _placed(
            site.recipe,
            step is not None and site.switch_step is not None and step >= site.switch_step,
            site.shared_weight,
            prepared.rank,
            prepared.whole_blocks,
        )
        for site in prepared.sites
    )


@lru_cache(maxsize=256)
def _placed(recipe: Recipe, switched: bool, shared_weight: bool, rank: int, whole_blocks: bool) -> Operands:
    """The operands of a recipe; those that hold a share of the batch know which, and all whether their blocks
    must be whole."""
    operands = operands_of(recipe.with_bf16_forward() if switched else recipe)
    six = []
    for name, operand in zip(OPERANDS, operands.six, strict=True):
        if isinstance(operand, Ready):
            block = kernels.parse(operand.spec).block
            operand = operand._replace(
                share=0 if shared_weight and name in WEIGHTS else rank,
                whole=block if whole_blocks and isinstance(block, int) else 0,
            )
        six.append(operand)
    return operands._replace(six=tuple(six))


def _delayed_rows(sites: tuple[Site, ...]) -> list[tuple[int, float, Delayed]]:
    return [
        (part * len(OPERANDS) + row, operand.quantizer.format.max, operand.delayed)
        for part, site in enumerate(sites)
        for row, operand in enumerate(site.recipe.operands)
        if isinstance(operand, Operand) and operand.delayed
    ]


def _prepared(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if "dither_prepared" in vars(module))


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of delayed scaling by site, to be saved beside the model's own; empty without it."""
    return {name: module.dither_history.detach().clone() for name, module in _histories(model).items()}


def _histories(model: nn.Module) -> dict[str, Any]:
    return {
        f"{module.dither_site.owner}.dither_history".removeprefix("."): module
        for module in _prepared(model)
        if module.dither_history is not None
    }


def load_state_dict_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore what `state_dict` gave, in place. UserError where sites or shapes differ: nothing changes."""
    mine = _histories(model)
    if mine.keys() != state.keys():
        odd = sorted(mine.keys() ^ state.keys())[0]
        raise UserError(
            f"the saved scaling history belongs to another recipe or model: {odd!r} is in only one of them"
        )
    for name, module in mine.items():
        if module.dither_history.shape != state[name].shape:
            raise UserError(
                f"the saved scaling history of {name!r} has shape {tuple(state[name].shape)}, the recipe's "
                f"{tuple(module.dither_history.shape)}: the recipe was another one"
            )
    with torch.no_grad():
        for name, module in mine.items():
            module.dither_history.copy_(state[name])
            module.dither_clock = None
