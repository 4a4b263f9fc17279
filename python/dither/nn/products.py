"""The matrix products of a layer with quantized operands, as differentiable functions.

Forward and backward quantize each operand in blocks along the contraction axis of the product it enters. What
is saved for the backward are the operands as they came, since each product quantizes its own; gradients are
straight-through, those of the unquantized operands. An operand without a quantizer enters as it is: no copy
and no operation.

Under autocast an operand is quantized from the dtype it has and rounded once to the autocast dtype, in which
the product runs; gradients return in the dtype of what they belong to.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dither.nn import kernels, ops, scratch
from dither.nn.recipe import Recipe
from dither.nn.streams import OPERANDS
from dither.quantizer import Quantizer


class Operand(NamedTuple):
    """One operand's quantizer as its print: cheap to pass, and torch.compile can guard on it."""

    spec: str
    stochastic: bool


Operands = tuple[Operand | str | None, ...]
"""The six operands in the order of OPERANDS; dgrad_w may be "fprop"."""

_FPROP_X, _FPROP_W, _DGRAD_G, _DGRAD_W, _WGRAD_G, _WGRAD_X = range(len(OPERANDS))


def operands_of(recipe: Recipe) -> Operands:
    return tuple(Operand(str(q), q.is_stochastic) if isinstance(q, Quantizer) else q for q in recipe.operands)


def quantized(
    x: Tensor,
    operand: Operand | str | None,
    axis: int,
    rng: Tensor | None,
    row: int,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`x` fake-quantized along `axis`, in `dtype` (default: its own); `x` itself without a quantizer.

    `rng` holds [seed, stream] of every operand in its rows.
    """
    if not isinstance(operand, Operand):
        return x if dtype is None else x.to(dtype)
    own = rng[row] if operand.stochastic and rng is not None else None
    return ops.apply(x, operand.spec, axis, own, dtype)


def _factor(
    index: int,
    x: Tensor,
    operand: Operand | str | None,
    axis: int,
    rng: Tensor | None,
    row: int,
    dtype: torch.dtype | None,
) -> Tensor:
    """`quantized` for factor 0 or 1 of the product that follows at once; the next product overwrites it."""
    if not isinstance(operand, Operand) or not scratch.available(x):
        return quantized(x, operand, axis, rng, row, dtype)
    out = scratch.take(index, x.shape, dtype or x.dtype)
    own = rng[row] if operand.stochastic and rng is not None else None
    kernels.fake_quant_into(x, out, kernels.parse(operand.spec), axis % x.dim(), own, 0, None)
    return out


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which autocast wants products of `x`, or None outside autocast."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


class _Linear(torch.autograd.Function):
    """y = x W^T + b; x (..., K), W (N, K). dgrad contracts N, wgrad the flattened leading axes of x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rng: Tensor | None,
        operands: Operands,
        dtype: torch.dtype | None,
    ) -> Tensor:
        xq = _factor(0, x, operands[_FPROP_X], -1, rng, _FPROP_X, dtype)
        if operands[_DGRAD_W] == "fprop":
            wq = kept = quantized(weight, operands[_FPROP_W], -1, rng, _FPROP_W, dtype)
        else:
            wq, kept = _factor(1, weight, operands[_FPROP_W], -1, rng, _FPROP_W, dtype), weight
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if needs_weight else None, kept if needs_x else None, rng)
        ctx.operands, ctx.dtype, ctx.x_dtype, ctx.weight_dtype = operands, dtype, x.dtype, weight.dtype
        return F.linear(xq, wq, bias if bias is None or dtype is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rng = ctx.saved_tensors
        operands, dtype = ctx.operands, ctx.dtype
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx = dw = db = None
        if operands[_DGRAD_G] and operands[_WGRAD_G]:
            g = g.contiguous()  # where it is strided, one copy for both
        if needs_x:
            gq = _factor(0, g, operands[_DGRAD_G], -1, rng, _DGRAD_G, dtype)
            wq = _factor(1, weight, operands[_DGRAD_W], 0, rng, _DGRAD_W, dtype)
            dx = (gq @ wq).to(ctx.x_dtype)
        g_MN = g.reshape(-1, g.shape[-1])
        if needs_weight:
            gq = _factor(0, g_MN, operands[_WGRAD_G], 0, rng, _WGRAD_G, dtype)
            xq = _factor(1, x.reshape(-1, x.shape[-1]), operands[_WGRAD_X], 0, rng, _WGRAD_X, dtype)
            dw = (gq.t() @ xq).to(ctx.weight_dtype)
        if needs_bias:
            db = g_MN.sum(0)
        return dx, dw, db, None, None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, operands: Operands, rng: Tensor | None) -> Tensor:
    """F.linear with six quantized operands. `rng`: int64 (6, 2), [seed, stream] of each, or None."""
    # A copy: the clock may move before the backward runs, which belongs to this forward's position.
    return _Linear.apply(x, weight, bias, None if rng is None else rng.clone(), operands, autocast_dtype(x))


class _Product(torch.autograd.Function):
    """y = a b for a (..., M, K) and b (..., K, N), or b given as (..., N, K) where `transposed`.

    a takes the part of x and b that of the weight: fprop contracts K, dgrad (of a) N, wgrad (of b) M.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        transposed: bool,
        rng: Tensor | None,
        operands: Operands,
        dtype: torch.dtype | None,
    ) -> Tensor:
        k_axis = -1 if transposed else -2
        aq = _factor(0, a, operands[_FPROP_X], -1, rng, _FPROP_X, dtype)
        if operands[_DGRAD_W] == "fprop":
            bq = kept = quantized(b, operands[_FPROP_W], k_axis, rng, _FPROP_W, dtype)
        else:
            bq, kept = _factor(1, b, operands[_FPROP_W], k_axis, rng, _FPROP_W, dtype), b
        needs_a, needs_b = ctx.needs_input_grad[:2]
        ctx.save_for_backward(a if needs_b else None, kept if needs_a else None, rng)
        ctx.operands, ctx.dtype, ctx.transposed, ctx.dtypes = operands, dtype, transposed, (a.dtype, b.dtype)
        return aq @ (bq.transpose(-1, -2) if transposed else bq)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b, rng = ctx.saved_tensors
        operands, dtype = ctx.operands, ctx.dtype
        da = db = None
        if ctx.needs_input_grad[0]:
            gq = _factor(0, g, operands[_DGRAD_G], -1, rng, _DGRAD_G, dtype)
            bq = _factor(1, b, operands[_DGRAD_W], -2 if ctx.transposed else -1, rng, _DGRAD_W, dtype)
            da = (gq @ (bq if ctx.transposed else bq.transpose(-1, -2))).to(ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            gq = _factor(0, g, operands[_WGRAD_G], -2, rng, _WGRAD_G, dtype)
            aq = _factor(1, a, operands[_WGRAD_X], -2, rng, _WGRAD_X, dtype)
            db = (gq.transpose(-1, -2) @ aq if ctx.transposed else aq.transpose(-1, -2) @ gq).to(
                ctx.dtypes[1]
            )
        return da, db, None, None, None, None


def product(a: Tensor, b: Tensor, transposed: bool, operands: Operands, rng: Tensor | None) -> Tensor:
    """a b (or a b^T where `transposed`) over the last two axes, with six quantized operands; `rng` as for
    `linear`."""
    return _Product.apply(a, b, transposed, None if rng is None else rng.clone(), operands, autocast_dtype(a))
