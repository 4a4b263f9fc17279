"""Convolutions of which nothing but the weight is quantized: torch's own, forward and backward, with another
weight. It is made again for the backward, so that it lies in memory for one layer at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dither.nn import history
from dither.nn.differentiable import Function, apply_to
from dither.nn.factors import factor
from dither.nn.products import autocast_dtype
from dither.nn.ready import FPROP_W, Operands


class How(NamedTuple):
    """Of torch.convolution, in its order."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def weight_rows(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """The weight with one output, or output and tap, a row and its inputs along the last axis: (N, K), with
    groups (G, N / G, K / G)."""
    if not transposed:
        return weight.flatten(1) if groups == 1 else weight.flatten(1).unflatten(0, (groups, -1))
    rows = weight.unflatten(0, (groups, -1)).flatten(2).transpose(1, 2)
    return rows[0] if groups == 1 else rows


class _Convolved(Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _Convolved.keep(ctx, inputs, None)
        return _Convolved.compute(*inputs)

    @staticmethod
    def compute(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rng: Tensor | None,
        scales: Tensor | None,
        operands: Operands,
        dtype: torch.dtype | None,
        how: How,
    ) -> Tensor:
        wq = _rounded(weight, rng, scales, operands, dtype, how)
        if dtype is not None:
            x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
        return torch.convolution(x, wq, bias, *how)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, bias, rng, scales, ctx.operands, ctx.dtype, ctx.how = inputs
        ctx.save_for_backward(x, weight, rng, scales)
        ctx.sizes = None if bias is None else [len(bias)]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rng, scales = ctx.saved_tensors
        wq = _rounded(weight, rng, scales, ctx.operands, ctx.dtype, ctx.how)
        inner = x if ctx.dtype is None else x.to(ctx.dtype)
        needed = list(ctx.needs_input_grad[:3])
        dx, dw, db = torch.ops.aten.convolution_backward(g, inner, wq, ctx.sizes, *ctx.how, needed)
        dx, dw = (d if d is None else d.to(t.dtype) for d, t in ((dx, x), (dw, weight)))
        return dx, dw, db, None, None, None, None, None


def _rounded(
    weight: Tensor,
    rng: Tensor | None,
    scales: Tensor | None,
    operands: Operands,
    dtype: torch.dtype | None,
    how: How,
) -> Tensor:
    """The weight under fprop_w, in its own shape."""
    rows = factor(
        0, weight_rows(weight, how.groups, how.transposed), operands, FPROP_W, -1, rng, scales, dtype
    )
    return (rows.transpose(-1, -2) if how.transposed else rows).reshape(weight.shape)


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    operands: Operands,
    rng: Tensor | None,
    state: Tensor | None,
    how: How,
) -> Tensor:
    """torch.convolution of x (B, C, *sizes) with the weight under fprop_w of `operands`, which quantize
    nothing else; `rng` and `state` as for `products.linear`."""
    rng = None if rng is None else rng.clone()
    scales, _ = history.remember(x, weight, operands, state, None)
    return apply_to(_Convolved, x, weight, bias, rng, scales, operands, autocast_dtype(x), how)
