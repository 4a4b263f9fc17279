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
    return [_row(name, p, optimizer, *place.get(id(p), (None, {}))) for name, p in model.named_parameters()]


def _row(
    name: str, p: nn.Parameter, optimizer: Any, number: int | None, group: dict[str, Any]
) -> tuple[str, ...]:
    shape = " x ".join(map(str, p.shape)) or "-"
    if number is None:
        return name, "state", shape, "none", "not in the optimizer"
    if hasattr(optimizer, "stored_as"):  # this package's, which see nn and are not seen by it
        stored = optimizer.stored_as(p, group)
    else:
        stored = f"as torch keeps it ({str(p.dtype).removeprefix('torch.')})"
    return name, "state", shape, stored, f"optimizer group {number}"
