"""The lattice of one weight: a quantizer's scales, found once and then held, and rounding to the points
between.

Post-training methods move weights while they round them; the scales must not move along, or the result would
lie on no grid. A `Grid` keeps the scales of the weight it was made for, rounds any values to its points, and
stores such values packed under these very scales.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither.blocks import Layout
from dither.errors import UserError
from dither.methods.blocks import check_along_inputs, split
from dither.nn import ops
from dither.nn.packed import PackedTensor, quantize
from dither.quantizer import Quantizer


class Grid:
    """The grid of `rows` [outputs, inputs] under `quantizer`, or that of an array packed already.

    `scale` [outputs, inputs]: what a number of the element format is multiplied by at each place.
    """

    def __init__(self, rows: Tensor, quantizer: Quantizer, packed: PackedTensor | None = None) -> None:
        check_has_grid(quantizer)
        self.quantizer = quantizer
        # Nearest: a scale does not depend on how elements are rounded.
        if packed is None:
            packed = quantize(rows, quantizer.replace(rounding="nearest_even"), -1)
        self._packed = packed
        self.unit = Quantizer(
            format=quantizer.format, block="tensor", scale_format="fp32", scale_rule="static", scale=1.0
        )
        self.scale = self._with_codes(torch.ones_like(rows)).dequantize()

    def nearest(self, w: Tensor, at: Any = slice(None)) -> Tensor:
        """`w` rounded to the nearest points; `at`: the index of the part of the weight that `w` is of."""
        s = self.scale[at]
        return ops.cast(_ratio(w.to(s.dtype), s), self.quantizer.format) * s

    def drawn(self, w: Tensor, *, seed: int, stream: int) -> Tensor:
        """`w` rounded to one of its neighbours at random, without bias inside the grid."""
        elements = ops.cast(
            _ratio(w, self.scale),
            self.quantizer.format,
            rounding="stochastic",
            bits=16,
            seed=seed,
            stream=stream,
        )
        return elements * self.scale

    def neighbours(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The points at or below and at or above `w`; both the end of the grid where `w` lies beyond it."""
        lo, hi = ops.neighbours(_ratio(w, self.scale), Quantizer(format=self.quantizer.format))
        return lo * self.scale, hi * self.scale

    def store(self, points: Tensor) -> PackedTensor:
        """Points of the grid, packed under its scales."""
        return self._with_codes(_ratio(points, self.scale))

    def _with_codes(self, elements: Tensor) -> PackedTensor:
        held = self._packed
        parts = held.parts | {"codes": quantize(elements, self.unit, -1).codes}
        return PackedTensor(held.packing, held.source, held.dtype, parts)

    def loss(self, rows: Tensor, points: Tensor, gram: Tensor) -> Tensor:
        """tr((points - rows) gram (points - rows)^T) for every row: the squared error of its output."""
        difference = (points - rows).to(gram.dtype)
        return ((difference @ gram) * difference).sum(-1)


def turned(packed: PackedTensor) -> PackedTensor:
    """The same values for the transposed weight, whose inputs are the first axis. Blocks run along the
    inputs."""
    check_along_inputs(packed.quantizer)
    values = packed.dequantize()
    grid = Grid(values, packed.quantizer, packed)
    codes = quantize(_ratio(values, grid.scale).T.contiguous(), grid.unit, 0).codes
    parts = {name: part.T if part.dim() == 2 else part for name, part in packed.parts.items()}
    layout = Layout(packed.quantizer, tuple(packed.shape[::-1]), 0)
    return PackedTensor(layout, packed.source, packed.dtype, parts | {"codes": codes})


def check_has_grid(quantizer: Quantizer) -> None:
    """UserError for a quantizer without block scales, or with a zero point."""
    if quantizer.block is None or quantizer.zero_point:
        raise UserError(
            f"{quantizer} has no block scale without zero point, on whose grid weights could be placed; "
            "use for example 'int4_g32' or 'nvfp4'"
        )


def _ratio(w: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, w / scale, 0.0)


def searched_grid(rows: Tensor, quantizer: Quantizer, importance: Tensor) -> Grid:
    """The grid whose every block has the scale of least sum of importance (rounded - w)^2, among those that
    the quantizer gives the block when it is shrunk (or, for powers of two, grown) by a candidate factor.

    `importance`: >= 0, broadcastable to `rows`. UserError where blocks do not run along the inputs.
    """
    if quantizer.tensor_scale:  # found once, so that the blocks' candidates can be mixed
        scale = float(quantize(rows, quantizer, -1).parts["tensor_scale"])
        if scale > 0:
            quantizer = quantizer.replace(scale_rule="static", scale=scale)
    best, least = None, torch.tensor(torch.inf)
    for factor in _candidates(quantizer):
        packed = quantize(rows * factor, quantizer.replace(rounding="nearest_even"), -1)
        points = Grid(rows, quantizer, packed).nearest(rows)
        error = split((points - rows).square() * importance, quantizer).sum(-1)
        error = error.view(packed.parts["scales"].shape)
        if best is None:
            best, least = packed, error
            continue
        better = error < least
        best.parts["scales"][better] = packed.parts["scales"][better]
        least = torch.where(better, error, least)
    assert best is not None
    return Grid(rows, quantizer, best)


def _candidates(quantizer: Quantizer) -> list[float]:
    """The quantizer's own scale first: a tie keeps it."""
    if quantizer.scale_format == "e8m0":
        return [1.0, 0.5, 0.25, 2.0]
    return [1.0, *(c / 40 for c in (*range(39, 13, -1), 41, 42))]
