"""Iterative freezing (arXiv 2203.11086, algorithm 1): QAT that holds a weight still once it oscillates.

A weight oscillates in a step where its point on the grid changes, opposite to the change before. The
frequency is a moving average; above a threshold the weight is frozen at the point nearest to the average of
its points:

    f <- decay f + (1 - decay) oscillates,      mean <- decay mean + (1 - decay) point

Points are counted in units of the block's scale; a frozen weight moves with the scale alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.base import of_state
from dither.methods.grid import Grid, check_has_grid
from dither.methods.qat import Qat
from dither.methods.targets import Target
from dither.nn import ops
from dither.quantizer import Quantizer

_STATE = ("point", "change", "frequency", "mean", "frozen")


class Freeze(Qat):
    """`threshold`: of the frequency, a number or a function of the step (the paper lowers it from 0.04 to
    0.01 along a cosine). `decay`: of both averages (the paper's 0.99). Costs four copies of the weights.
    UserError for a quantizer without block scales.
    """

    name = "freeze"
    trains = True

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        threshold: float | Callable[[int], float] = 0.02,
        decay: float = 0.99,
        **options: Any,
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise UserError(f"decay must lie in [0, 1), got {decay}")
        self.threshold, self.decay = threshold, decay
        super().__init__(model, quantizer, **options)
        self.oscillations = {target.name: self._start(target) for target in self.found}

    def check(self) -> None:
        super().check()
        check_has_grid(self.quantizer)

    @torch.no_grad()
    def _start(self, target: Target) -> dict[str, Tensor]:
        point, _ = self._points(target)
        zeros = torch.zeros_like(point)
        return {
            "point": point,
            "change": zeros.to(torch.int8),
            "frequency": zeros,
            "mean": point.clone(),
            "frozen": zeros.bool(),
        }

    def _points(self, target: Target) -> tuple[Tensor, Tensor]:
        """Every weight's point in units of the scale, and the scale, as rows in fp32."""
        rows = target.rows(target.weight.detach()).float()
        grid = Grid(rows, self.quantizer)
        safe = torch.where(grid.scale > 0, grid.scale, 1.0)
        return ops.cast(rows / safe, self.quantizer.format), grid.scale

    @torch.no_grad()
    def after_step_(self, step: int, lr: float) -> None:
        threshold = self.threshold(step) if callable(self.threshold) else self.threshold
        for target in self.found if self.active else ():
            state = self.oscillations[target.name]
            point, scale = self._points(target)
            change = (point - state["point"]).sign().to(torch.int8)
            oscillates = (change * state["change"] < 0).to(torch.float32)
            state["frequency"].lerp_(oscillates, 1.0 - self.decay)
            state["mean"].lerp_(point, 1.0 - self.decay)
            state["change"] = torch.where(change != 0, change, state["change"])
            held = state["frozen"]
            new = ~held & (state["frequency"] > threshold)
            at = torch.where(held, state["point"], ops.cast(state["mean"], self.quantizer.format))
            state["frozen"] = held | new
            state["point"] = torch.where(state["frozen"], at, point)
            rows = torch.where(state["frozen"], state["point"] * scale, target.rows(target.weight))
            target.weight.copy_(target.like(rows))

    @property
    def frozen(self) -> float:
        """The part of the target weights that is frozen."""
        masks = [state["frozen"] for state in self.oscillations.values()]
        return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            f"{part}.{name}": value.clone()
            for name, state in self.oscillations.items()
            for part, value in state.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name in self.oscillations:
            self.oscillations[name] = {key: of_state(state, f"{key}.{name}").clone() for key in _STATE}
