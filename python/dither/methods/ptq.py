"""Post-training quantization: train as if there were no quantizer, round to nearest at the end.

Nothing happens in training; the cast is `cast_weights`. The baseline that every other method must beat, and
its cheapest improvement: scales that clip the largest weights of a block where that brings the others closer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dither.methods.base import stored
from dither.methods.calibration import Calibrated
from dither.methods.casting import cast_weight
from dither.methods.gptq import check_clip, checked_clip, grid_for
from dither.methods.grid import Grid
from dither.methods.targets import Target
from dither.nn.packed import PackedTensor
from dither.quantizer import Quantizer


class Ptq(Calibrated):
    """Train in full precision; the weights meet the quantizer only when they are cast.

    `clip`: "none" takes the quantizer's own scales. "mse" searches for every block the scale of least squared
    error of its weights. "weighted" weighs the errors by E[x_j^2] of the inputs they are multiplied with, for
    which it needs `calibrate_(batches)`.
    """

    name = "ptq"

    def __init__(
        self, model: nn.Module, quantizer: Quantizer | str, *, clip: str = "none", **options: Any
    ) -> None:
        self.clip = checked_clip(clip)
        super().__init__(model, quantizer, **options)

    def check(self) -> None:
        super().check()
        if self.own_grid:
            check_clip(self.quantizer, self.clip)

    @property
    def label(self) -> str:
        return "PTQ" if self.clip == "none" else f"PTQ (clip {self.clip})"

    @property
    def needs_data(self) -> bool:  # type: ignore[override]
        return self.clip == "weighted"

    @property
    def own_grid(self) -> bool:  # type: ignore[override]
        return self.clip != "none"

    def calibrate_(self, batches: Any, *args: Any, **options: Any) -> None:
        if self.needs_data:
            super().calibrate_(batches, *args, **options)

    def solve(self, target: Target, rows: Tensor, gram: Tensor) -> PackedTensor:
        grid = grid_for(rows, self.quantizer, self.clip, gram)
        return grid.store(grid.nearest(rows))

    def _grid(self, target: Target, weight: Tensor) -> Grid:
        rows = target.rows(weight)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        return grid_for(rows, self.quantizer, self.clip, torch.empty(0))

    def deploy(self, target: Target, weight: Tensor, rounding: str, seed: int | None) -> Tensor:
        if self.clip == "none":
            return cast_weight(target, weight, self.quantizer, rounding, seed)
        if self.needs_data:
            return super().deploy(target, weight, rounding, seed)
        return cast_weight(target, weight, self._grid(target, weight), rounding, seed)

    def packed(self, target: Target) -> PackedTensor:
        if self.needs_data:
            return super().packed(target)
        weight = target.weight.detach()
        return stored(target, self._grid(target, weight).store(target.rows(weight).float()))
