"""What an optimizer keeps of each parameter, as rows of `describe`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dither.errors import UserError


def rows_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, ...]]:
    """A row for each parameter of `model`: name, "state", shape, how its moments and weights are stored, and
    the group that says so. UserError where the optimizer has none of the model's parameters."""
    place = {
        id(parameter): (number, group)
        for number, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    if not any(id(parameter) in place for parameter in model.parameters()):
        raise UserError(f"the {type(optimizer).__name__} has no parameter of this model")
    return [_row(name, p, *place.get(id(p), (None, {}))) for name, p in model.named_parameters()]


def _row(name: str, p: nn.Parameter, number: int | None, group: dict[str, Any]) -> tuple[str, ...]:
    shape, dtype = " x ".join(map(str, p.shape)) or "-", str(p.dtype).removeprefix("torch.")
    if number is None:
        return name, "state", shape, "none", "not in the optimizer"
    state = group.get("state", f"as torch keeps it ({dtype})")
    stored = state if isinstance(state, str) else " and ".join(map(str, state))
    if dtype == "bfloat16" and "rounding" in group:
        stored += f"; {dtype} weights, {group['rounding']}"
    return name, "state", shape, stored, f"optimizer group {number}"
