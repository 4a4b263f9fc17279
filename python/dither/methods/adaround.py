"""AdaRound (arXiv 2004.10568): learn for every weight whether to round down or up, so that the layer's output
changes least.

    w~ = lo + h(V) (hi - lo),   h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)                    (Eq. 23)
    minimise  E|W~ x - W x|^2 / E|W^ x - W x|^2 * n + lam sum (1 - |2 h(V) - 1|^beta)      (Eqs. 21, 24)

with W^ the weight rounded to nearest and n the number of weights: measured against rounding to nearest, lam
means the same in every layer. beta falls from 20 to 2 while the second term pushes h to 0 or 1; in the first
fifth of the iterations that term is absent. E|D x|^2 = tr(D E[x x^T] D^T), so every iteration sees all of the
data. In the end each output takes its learned rounding or the nearest one, whichever changes the output less:
AdaRound is never worse than rounding to nearest on the data it has seen.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.calibration import Calibrated
from dither.methods.gptq import check_clip, checked_clip, grid_for
from dither.methods.grid import Grid
from dither.methods.targets import Target
from dither.nn.packed import PackedTensor
from dither.quantizer import Quantizer

_LOW, _HIGH = -0.1, 1.1  # gamma and zeta, between which the sigmoid is stretched


class AdaRound(Calibrated):
    """Train plainly, then `calibrate_(batches)`.

    `iterations`, `lr`: of Adam on V. `lam`: weight of the term that drives every rounding to a decision.
    `clip`: as for `Gptq`.
    """

    name = "adaround"
    rounds_itself = True

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        iterations: int = 500,
        lr: float = 0.02,
        lam: float = 3.0,
        clip: str = "none",
        **options: Any,
    ) -> None:
        if iterations < 1 or not lr > 0 or not lam >= 0:
            raise UserError(f"iterations >= 1, lr > 0 and lam >= 0, not {iterations}, {lr}, {lam}")
        self.iterations, self.lr, self.lam, self.clip = iterations, lr, lam, checked_clip(clip)
        super().__init__(model, quantizer, **options)

    def check(self) -> None:
        super().check()
        check_clip(self.quantizer, self.clip)

    def solve(self, target: Target, rows: Tensor, gram: Tensor) -> PackedTensor:
        grid = grid_for(rows, self.quantizer, self.clip, gram)
        points = learn_rounding(rows, gram, grid, iterations=self.iterations, lr=self.lr, lam=self.lam)
        return grid.store(points)


def learn_rounding(
    rows: Tensor, gram: Tensor, grid: Grid, *, iterations: int, lr: float, lam: float
) -> Tensor:
    """The points of `grid` [outputs, inputs] that AdaRound gives the weight `rows`; `gram` [inputs,
    inputs]."""
    nearest = grid.nearest(rows)
    baseline = grid.loss(rows, nearest, gram)
    total = float(baseline.sum())
    if total == 0.0:
        return nearest
    lo, hi = grid.neighbours(rows)
    lo, hi = torch.minimum(lo, hi), torch.maximum(lo, hi)
    width = hi - lo
    place = torch.where(width > 0, (rows - lo) / width, 0.0).clamp(0.0, 1.0)
    v = torch.logit((place - _LOW) / (_HIGH - _LOW))  # h(v) = place: the search starts at the weight itself
    scaled = gram.to(rows.dtype) * (rows.numel() / total)
    optimizer = torch.optim.Adam([v], lr=lr)
    for step in range(iterations):
        h, slope = _rectified(v)
        gradient = 2.0 * ((lo + h * width - rows) @ scaled) * width
        gradient += lam * _decision_slope(h, step / iterations)
        v.grad = gradient.mul_(slope)
        optimizer.step()
    points = torch.where(_rectified(v)[0] >= 0.5, hi, lo)
    better = grid.loss(rows, points, gram) < baseline
    return torch.where(better[:, None], points, nearest)


def _rectified(v: Tensor) -> tuple[Tensor, Tensor]:
    """h(V) and dh/dV."""
    s = torch.sigmoid(v)
    h = s * (_HIGH - _LOW) + _LOW
    inside = (h > 0) & (h < 1)
    return h.clamp(0.0, 1.0), torch.where(inside, s * (1 - s) * (_HIGH - _LOW), 0.0)


def _decision_slope(h: Tensor, part: float) -> Tensor:
    """d/dh of 1 - |2h - 1|^beta at this part of the iterations; zero in the first fifth."""
    if part < 0.2:
        return torch.zeros_like(h)
    beta = 2.0 + 18.0 * 0.5 * (1.0 + math.cos(math.pi * (part - 0.2) / 0.8))
    distance = 2.0 * h - 1.0
    return -2.0 * beta * distance.abs().pow(beta - 1.0) * distance.sign()
