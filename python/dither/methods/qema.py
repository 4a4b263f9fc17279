"""Q-EMA (TetraJet, arXiv 2502.20853): weights near a threshold of the grid flip to and fro between points.
Here a moving average of the weight decides to which of the weight's two neighbours it is rounded:

    Q(w) = hi if ema > (lo + hi) / 2 else lo,       ema <- decay ema + (1 - decay) w   after each step

The gradient passes straight through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.base import of_state, stored
from dither.methods.casting import ROUNDINGS
from dither.methods.forward import Forward
from dither.methods.grid import Grid
from dither.methods.targets import Target
from dither.nn import ops
from dither.nn.packed import PackedTensor
from dither.quantizer import Quantizer


class Qema(Forward):
    """`decay`: of the average (the paper's 0.998). Costs one copy of the target weights."""

    name = "qema"
    own_grid = True
    can_draw = False
    rounds_itself = True

    def __init__(
        self, model: nn.Module, quantizer: Quantizer | str, *, decay: float = 0.998, **options: Any
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise UserError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        super().__init__(model, quantizer, **options)
        self.average = {target.name: target.weight.detach().clone() for target in self.found}

    def weight(self, target: Target, w: Tensor) -> Tensor:
        return w + (self._chosen(target, w.detach()) - w).detach()

    @torch.no_grad()
    def _chosen(self, target: Target, w: Tensor) -> Tensor:
        lo, hi = ops.neighbours(target.rows(w), self.quantizer, axis=-1)
        middle = 0.5 * (lo + hi)
        return target.like(torch.where(target.rows(self.average[target.name]) > middle, hi, lo)).to(w.dtype)

    @torch.no_grad()
    def after_step_(self, step: int, lr: float) -> None:
        for target in self.found:
            self.average[target.name].lerp_(target.weight, 1.0 - self.decay)

    def deploy(self, target: Target, weight: Tensor, rounding: str, seed: int | None) -> Tensor:
        if rounding != ROUNDINGS[0]:
            raise UserError("Q-EMA rounds by its average alone")
        return self._chosen(target, weight)

    def packed(self, target: Target) -> PackedTensor:
        weight = target.weight.detach()
        points = target.rows(self._chosen(target, weight)).float()
        return stored(target, Grid(target.rows(weight).float(), self.quantizer).store(points))

    def state_dict(self) -> dict[str, Any]:
        averages = {f"average.{name}": value.clone() for name, value in self.average.items()}
        return super().state_dict() | averages

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name, value in self.average.items():
            value.copy_(of_state(state, f"average.{name}"))
