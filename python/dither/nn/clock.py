"""What a prepared layer carries of its recipe, and how the clock of the run moves it.

    dither_operands  the recipe's operands, ready to use (factors.Operands)
    dither_rng       int64 (rows, 2): seed and stream of every operand and rotation; None unless some are read
    dither_history   fp32 (rows, 2 + steps): the state of delayed scaling; None without it

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
from dither.nn import history
from dither.nn.factors import Operands, operands_of
from dither.nn.operand import Delayed, Operand
from dither.nn.recipe import Recipe
from dither.nn.streams import OPERANDS, addresses

if TYPE_CHECKING:
    from dither.nn.prepare import Site

ATTRIBUTES = ("dither_operands", "dither_rng", "dither_history", "dither_clock")


def attach_(module: nn.Module, site: Site) -> None:
    """Give a module what its recipe needs to compute, at step 0."""
    recipe, products = site.recipe, 2 if site.kind == "attention" else 1
    rng = addresses_of(site, 0, 0) if recipe.is_addressed else None
    state = history.fresh_state(products * len(OPERANDS), recipe.history) if recipe.history else None
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor):
        rng, state = (None if t is None else t.to(weight.device) for t in (rng, state))
    vars(module).update(dither_operands=operands_of(recipe), dither_clock=None)
    module.register_buffer("dither_rng", rng, persistent=False)
    module.register_buffer("dither_history", state, persistent=False)


def detach_(module: nn.Module) -> None:
    """Take it away again."""
    for name in ATTRIBUTES:
        delattr(module, name)


def addresses_of(site: Site, step: int, microbatch: int) -> Tensor:
    """[seed, stream] of every operand and rotation of a site."""
    fixed = tuple(rotation is not None and rotation.signs == "fixed" for rotation in site.recipe.rotations)
    products = 2 if site.kind == "attention" else 1
    return addresses(site.seed, site.index, step, microbatch, fixed, products)


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
        site, state = module.dither_site, module.dither_history
        if module.dither_rng is not None:
            module.dither_rng.copy_(addresses_of(site, step, microbatch))
        if state is not None and module.dither_clock != step:
            delayed.append((state, _delayed_rows(site.recipe, len(state))))
        if site.switch_step is not None:
            module.dither_operands = _operands_at(site.recipe, step >= site.switch_step)
        module.dither_clock = step
    history.advance_(delayed)


@lru_cache(maxsize=64)
def _operands_at(recipe: Recipe, switched: bool) -> Operands:
    return operands_of(recipe.with_bf16_forward() if switched else recipe)


def _delayed_rows(recipe: Recipe, rows: int) -> list[tuple[int, float, Delayed]]:
    own = [
        (row, operand.quantizer.format.max, operand.delayed)
        for row, operand in enumerate(recipe.operands)
        if isinstance(operand, Operand) and operand.delayed
    ]
    return [(first + row, top, how) for first in range(0, rows, len(OPERANDS)) for row, top, how in own]


def _prepared(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if hasattr(module, "dither_site"))


def state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state of delayed scaling by site, to be saved beside the model's own; empty without it."""
    return {
        f"{module.dither_site.name}.dither_history".removeprefix("."): module.dither_history.detach().clone()
        for module in _prepared(model)
        if module.dither_history is not None
    }


def load_state_dict_(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore what `state_dict` gave, in place. UserError where sites or shapes differ: nothing changes."""
    mine = {
        f"{module.dither_site.name}.dither_history".removeprefix("."): module
        for module in _prepared(model)
        if module.dither_history is not None
    }
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
