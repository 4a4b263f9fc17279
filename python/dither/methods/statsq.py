"""StatsQ (OFQ, arXiv 2302.02210): a step from the statistics of the weights, which outliers do not move.

    s = 2 mean|w|,   c = clip(w / s, -1, 1 - 1e-6),   Q(w) = s (round(n c - 1/2) + 1/2) / n,   n = 2^(b-1)

for every block. s takes no gradient; w takes it straight through where it is not clipped. The grid has 2^b
points and none at zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.blocks import check_along_inputs, join, split
from dither.methods.casting import ROUNDINGS
from dither.methods.forward import Forward
from dither.methods.targets import Target
from dither.nn.packed import PackedTensor
from dither.quantizer import Quantizer


class StatsQ(Forward):
    """`quantizer`: an integer format for the bits, and blocks; the paper's is a row, 'int4_row'."""

    name = "statsq"
    own_grid = True
    can_draw = False
    rounds_itself = True

    def __init__(self, model: nn.Module, quantizer: Quantizer | str, **options: Any) -> None:
        super().__init__(model, quantizer, **options)
        self.levels = 2 ** (int(self.quantizer.format.name[3:]) - 1)

    def check(self) -> None:
        super().check()
        name = self.quantizer.format.name
        if not (name.startswith("int") and name[3:].isdecimal()):
            raise UserError(f"StatsQ has integer grids, not {name}; use for example 'int4_row'")
        check_along_inputs(self.quantizer)

    def weight(self, target: Target, w: Tensor) -> Tensor:
        rows, n = target.rows(w), self.levels
        blocks = split(rows, self.quantizer)
        with torch.no_grad():
            counts = split(torch.ones_like(rows), self.quantizer).sum(-1, keepdim=True)
            s = 2.0 * blocks.abs().sum(-1, keepdim=True) / counts
            s = torch.where(s > 0, s, 1.0)
        c = (blocks / s).clamp(-1.0, 1.0 - 1e-6)
        points = ((n * c.detach() - 0.5).round() + 0.5) / n
        return target.like(join(s * (c + (points - c).detach()), rows))

    def deploy(self, target: Target, weight: Tensor, rounding: str, seed: int | None) -> Tensor:
        if rounding != ROUNDINGS[0]:
            raise UserError("the grid of StatsQ is defined for rounding to nearest alone")
        with torch.no_grad():
            return self.weight(target, weight)

    def packed(self, target: Target) -> PackedTensor:
        raise UserError("no format holds the grid of StatsQ, which has no zero; use method.deployed()")
