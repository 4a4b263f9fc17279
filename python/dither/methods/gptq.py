"""GPTQ (arXiv 2210.17323): round a layer's weights column by column, and move the weights not yet rounded so
that they make up for the error, as far as the layer's inputs let them.

With H = E[x x^T] + damping and U the upper Cholesky factor of H^-1, for every column j in order

    q_j = nearest point to w_j,   e = (w_j - q_j) / U_jj,   w_k -= e U_jk for k > j      (Algorithm 1)

Columns are treated in blocks of 128, whose effect on the columns behind them is one matrix product.
Scales are those of the weight before it is moved (static groups), so any quantizer with block scales serves:
groups, MXFP4, NVFP4, integers; `act_order` then costs nothing at inference. `clip` searches the scales first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError, suggest
from dither.methods.blocks import check_along_inputs
from dither.methods.calibration import Calibrated
from dither.methods.grid import Grid, check_has_grid, searched_grid
from dither.methods.targets import Target
from dither.nn.packed import PackedTensor
from dither.quantizer import Quantizer

CLIPS = ("none", "mse", "weighted")
_BLOCK = 128


class Gptq(Calibrated):
    """Train plainly, then `calibrate_(batches)`.

    `act_order`: columns in the order of falling H_jj, the most important first. `damping`: added to the
    diagonal of H, in units of its mean. `clip`: scales as the quantizer gives them ("none"), or searched for
    the least squared error of the weights ("mse") or of the layer's output, as far as the diagonal of H tells
    ("weighted").
    """

    name = "gptq"
    rounds_itself = True

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        act_order: bool = True,
        damping: float = 0.01,
        clip: str = "none",
        **options: Any,
    ) -> None:
        if not damping >= 0:
            raise UserError(f"damping must be at least 0, got {damping}")
        self.act_order, self.damping, self.clip = act_order, damping, checked_clip(clip)
        super().__init__(model, quantizer, **options)

    def check(self) -> None:
        super().check()
        check_clip(self.quantizer, self.clip)

    def solve(self, target: Target, rows: Tensor, gram: Tensor) -> PackedTensor:
        grid = grid_for(rows, self.quantizer, self.clip, gram)
        return grid.store(gptq(rows, gram, grid, act_order=self.act_order, damping=self.damping))


def checked_clip(clip: str) -> str:
    if clip not in CLIPS:
        raise UserError(f"unknown clip {clip!r}{suggest(clip, CLIPS)}; known: {', '.join(CLIPS)}")
    return clip


def check_clip(quantizer: Quantizer, clip: str) -> None:
    """UserError for a quantizer on whose grid no weights can lie, its scales searched as `clip` says."""
    check_has_grid(quantizer)
    if clip != "none":
        check_along_inputs(quantizer)


def grid_for(rows: Tensor, quantizer: Quantizer, clip: str, gram: Tensor) -> Grid:
    """The grid of a weight, its scales searched as `clip` says."""
    if clip == "none":
        return Grid(rows, quantizer)
    weighted = clip == "weighted"
    return searched_grid(rows, quantizer, gram.diag().to(rows.dtype) if weighted else torch.ones(()))


def gptq(rows: Tensor, gram: Tensor, grid: Grid, *, act_order: bool, damping: float) -> Tensor:
    """The points of `grid` [outputs, inputs] that GPTQ gives the weight `rows`; `gram` [inputs, inputs]."""
    diagonal = gram.diag()
    order = torch.argsort(diagonal, descending=True, stable=True) if act_order else torch.arange(len(gram))
    u = _factor(gram[order][:, order], damping)
    w = rows.to(u.dtype)[:, order].T.contiguous()  # columns of the weight as rows: contiguous
    points = torch.empty_like(rows)
    for start in range(0, len(w), _BLOCK):
        stop = min(start + _BLOCK, len(w))
        errors = torch.empty_like(w[start:stop])
        for j in range(start, stop):
            column = order[j]
            point = grid.nearest(w[j], (slice(None), column))
            points[:, column] = point
            errors[j - start] = (w[j] - point) / u[j, j]
            w[j + 1 : stop].addr_(u[j, j + 1 : stop], errors[j - start], alpha=-1)
        w[stop:].addmm_(u[start:stop, stop:].T, errors, alpha=-1)
    return points


def _factor(gram: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the damped inverse. An input that is always zero keeps its column apart;
    damping is raised tenfold where fp64 cannot factor the matrix."""
    diagonal = gram.diag()
    unit = float(diagonal.mean()) or 1.0
    gram = gram + torch.diag(torch.where(diagonal == 0, unit, 0.0))
    for factor in (1, 10, 100, 1000):
        damped = gram + damping * factor * unit * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            inverse, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return inverse
    raise UserError("the inputs of a layer are too dependent for GPTQ: raise damping=, or give more batches")
