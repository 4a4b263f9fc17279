"""The matrix products of a layer with quantized operands, as differentiable functions.

Forward and backward rotate and quantize each operand along the contraction axis of the product it enters
(factors.py). What is saved for the backward are the operands as they came, which the model holds anyway: each
product quantizes its own, and what a recipe reuses of the forward (values, and where they were clipped) is
made again, by the same random bits. Gradients are straight-through, those of the unquantized operands. An
operand without a quantizer enters as it is: no copy and no operation.

Under autocast an operand is quantized from the dtype it has and rounded once to the autocast dtype, in which
the product runs; gradients return in the dtype of what they belong to.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dither.nn import history, linalg, scratch
from dither.nn.differentiable import Function, apply_to
from dither.nn.factors import factor, mask_of, remade, rotate_back, rows_of
from dither.nn.patches import Patches
from dither.nn.ready import (
    DGRAD_G,
    DGRAD_W,
    FPROP,
    FPROP_W,
    FPROP_X,
    WGRAD_G,
    WGRAD_X,
    Operands,
    from_forward,
    has_mask,
)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which autocast wants products of `x`, or None outside autocast."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


class _Linear(Function):
    """y = x W^T + b; x (..., K), W (N, K). dgrad contracts N, wgrad the flattened leading axes of x."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        y = _Linear.compute(*inputs)
        _Linear.keep(ctx, inputs, y)
        return y

    @staticmethod
    def compute(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rng: Tensor | None,
        scales: Tensor | None,
        state: Tensor | None,
        operands: Operands,
        dtype: torch.dtype | None,
        patches: Patches | None,
    ) -> Tensor:
        x = rows_of(1, x, dtype, patches)
        xq = factor(1, x, operands, FPROP_X, -1, rng, scales, dtype)
        wq = factor(0, weight, operands, FPROP_W, -1, rng, scales, dtype)
        bias = bias if bias is None or dtype is None else bias.to(dtype)
        if operands.accumulate is None:
            return F.linear(xq, wq, bias)
        y = _multiply(xq, wq.t(), operands)
        return y if bias is None else y + bias

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, rng, scales, ctx.state, ctx.operands, ctx.dtype, ctx.patches = inputs
        _save(ctx, x, weight, rng, scales)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rng, scales = ctx.saved_tensors
        operands, dtype = ctx.operands, ctx.dtype
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dx = dw = db = gq = x_mask = w_mask = None
        history.record(g, operands, (DGRAD_G, WGRAD_G), ctx.state)
        if operands.six[DGRAD_G] and operands.six[WGRAD_G]:
            g = g.contiguous()  # where it is strided, one copy for both
        g_MN = g.reshape(-1, g.shape[-1])
        if needs_x:
            gq = factor(0, g, operands, DGRAD_G, -1, rng, scales, dtype)
            w, w_mask = remade(1, weight, operands, DGRAD_W, -1, rng, scales, dtype)
            wq = factor(1, w, operands, DGRAD_W, 0, rng, scales, dtype)
            dx = _multiply(gq, wq, operands)
            if not has_mask(operands.six[FPROP_X]):
                dx = _given_back(dx, None, ctx, rng)
        if needs_weight:
            if gq is None or not operands.one_gradient:
                row = DGRAD_G if operands.one_gradient else WGRAD_G
                gq = factor(0, g_MN, operands, row, 0, rng, scales, dtype)
            rows = rows_of(1, x, dtype, ctx.patches)
            again, x_mask = remade(1, rows, operands, WGRAD_X, -1, rng, scales, dtype)
            xq = factor(1, again.reshape(-1, again.shape[-1]), operands, WGRAD_X, 0, rng, scales, dtype)
            dw = _multiply(gq.reshape(-1, gq.shape[-1]).t(), xq, operands)
            mask = mask_of(weight, w_mask, operands, FPROP_W, -1, rng)
            dw = _in_plain_basis(dw, mask, operands, WGRAD_X, FPROP_W, rng, -1, ctx.length)
            dw = dw.to(ctx.dtypes[1])
        if dx is not None and has_mask(operands.six[FPROP_X]):
            rows = rows_of(None, x, dtype, ctx.patches) if x_mask is None else x
            dx = _given_back(dx, mask_of(rows, x_mask, operands, FPROP_X, -1, rng), ctx, rng)
        if needs_bias:
            db = g_MN.sum(0)
        return dx, dw, db, None, None, None, None, None, None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    operands: Operands,
    rng: Tensor | None,
    state: Tensor | None = None,
    patches: Patches | None = None,
) -> Tensor:
    """F.linear with six quantized operands; with `patches` of their rows of x.

    `rng`: int64 (ROWS, 2), [seed, stream] of each operand and rotation, or None. `state`: of delayed scaling
    (history.py), or None.
    """
    if patches is None:
        _check_lengths(x.shape[-1], weight.shape[-1], operands)
    # Copies: the clock may move before the backward runs, which belongs to this forward's position.
    rng = None if rng is None else rng.clone()
    scales, state = history.remember(x, weight, operands, state, patches)
    return apply_to(_Linear, x, weight, bias, rng, scales, state, operands, autocast_dtype(x), patches)


def _check_lengths(left: int, right: int, operands: Operands) -> None:
    """Rotations fill their axis with zeros, which could make lengths alike that are not."""
    if operands.rotations[FPROP] is not None and left != right:
        raise RuntimeError(f"a product contracts {left} elements of one factor with {right} of the other")


def _save(ctx: Any, x: Tensor, w: Tensor, rng: Tensor | None, scales: Tensor | None) -> None:
    """What the backward needs of the factors, as they came; `w` may be the second factor of any product."""
    needs_x, needs_w = ctx.needs_input_grad[:2]
    six = ctx.operands.six
    x_used = needs_w or (needs_x and has_mask(six[FPROP_X]))
    w_used = needs_x or (needs_w and has_mask(six[FPROP_W]))
    ctx.save_for_backward(x if x_used else None, w if w_used else None, rng, scales)
    ctx.dtypes, ctx.shape = (x.dtype, w.dtype), x.shape
    ctx.length = x.shape[-1] if ctx.patches is None else w.shape[-1]


def _multiply(a: Tensor, b: Tensor, operands: Operands) -> Tensor:
    """a @ b in torch, or added as the recipe's accumulator says."""
    if operands.accumulate is None:
        return a @ b
    return linalg.accumulated(a, b, *operands.accumulate)


def _in_plain_basis(
    d: Tensor,
    mask: Tensor | None,
    operands: Operands,
    other: int,
    row: int,
    rng: Tensor | None,
    axis: int,
    length: int,
) -> Tensor:
    """The gradient of the forward's operand `row`, masked where that clipped, and turned back where `other`,
    the factor it was computed with, is what the forward rotated."""
    if mask is not None:
        d = d.masked_fill_(~mask, 0) if scratch.available(d) else d.masked_fill(~mask, 0)
    return rotate_back(d, operands, row, rng, axis, length) if from_forward(operands.six[other]) else d


def _given_back(d: Tensor, mask: Tensor | None, ctx: Any, rng: Tensor | None) -> Tensor:
    """The gradient of the first factor as the layer takes it: of its shape and dtype."""
    d = _in_plain_basis(d, mask, ctx.operands, DGRAD_W, FPROP_X, rng, -1, ctx.length).to(ctx.dtypes[0])
    return d if ctx.patches is None else ctx.patches.back(d, ctx.shape)


class _Product(Function):
    """y = a b for a (..., M, K) and b (..., K, N), or b given as (..., N, K) where `transposed`.

    a takes the part of x and b that of the weight: fprop contracts K, dgrad (of a) N, wgrad (of b) M.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        y = _Product.compute(*inputs)
        _Product.keep(ctx, inputs, y)
        return y

    @staticmethod
    def compute(
        a: Tensor,
        b: Tensor,
        transposed: bool,
        rng: Tensor | None,
        scales: Tensor | None,
        state: Tensor | None,
        operands: Operands,
        dtype: torch.dtype | None,
        patches: Patches | None,
    ) -> Tensor:
        a = rows_of(1, a, dtype, patches)
        aq = factor(1, a, operands, FPROP_X, -1, rng, scales, dtype)
        bq = factor(0, b, operands, FPROP_W, -1 if transposed else -2, rng, scales, dtype)
        return _multiply(aq, bq.transpose(-1, -2) if transposed else bq, operands)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, b, ctx.transposed, rng, scales, ctx.state, ctx.operands, ctx.dtype, ctx.patches = inputs
        _save(ctx, a, b, rng, scales)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        a, b, rng, scales = ctx.saved_tensors
        operands, dtype = ctx.operands, ctx.dtype
        k_axis, n_axis = (-1, -2) if ctx.transposed else (-2, -1)
        needs_a, needs_b = ctx.needs_input_grad[:2]
        da = db = a_mask = b_mask = None
        history.record(g, operands, (DGRAD_G, WGRAD_G), ctx.state)
        if needs_a:
            gq = factor(0, g, operands, DGRAD_G, -1, rng, scales, dtype)
            again, b_mask = remade(1, b, operands, DGRAD_W, k_axis, rng, scales, dtype)
            bq = factor(1, again, operands, DGRAD_W, n_axis, rng, scales, dtype)
            da = _multiply(gq, bq if ctx.transposed else bq.transpose(-1, -2), operands)
            if not has_mask(operands.six[FPROP_X]):
                da = _given_back(da, None, ctx, rng)
        if needs_b:
            row = DGRAD_G if operands.one_gradient else WGRAD_G
            gq = factor(0, g, operands, row, -2, rng, scales, dtype)
            rows = rows_of(1, a, dtype, ctx.patches)
            again, a_mask = remade(1, rows, operands, WGRAD_X, -1, rng, scales, dtype)
            aq = factor(1, again, operands, WGRAD_X, -2, rng, scales, dtype)
            left, right = (gq, aq) if ctx.transposed else (aq, gq)
            db = _multiply(left.transpose(-1, -2), right, operands)
            mask = mask_of(b, b_mask, operands, FPROP_W, k_axis, rng)
            db = _in_plain_basis(db, mask, operands, WGRAD_X, FPROP_W, rng, k_axis, ctx.length)
            db = db.to(ctx.dtypes[1])
        if da is not None and has_mask(operands.six[FPROP_X]):
            rows = rows_of(None, a, dtype, ctx.patches) if a_mask is None else a
            da = _given_back(da, mask_of(rows, a_mask, operands, FPROP_X, -1, rng), ctx, rng)
        return da, db, None, None, None, None, None, None, None


def product(
    a: Tensor,
    b: Tensor,
    transposed: bool,
    operands: Operands,
    rng: Tensor | None,
    state: Tensor | None = None,
    patches: Patches | None = None,
) -> Tensor:
    """a b (or a b^T where `transposed`) over the last two axes, with six quantized operands; `rng`,
    `state` and `patches` as for `linear`."""
    if patches is None:
        _check_lengths(a.shape[-1], b.shape[-1 if transposed else -2], operands)
    rng = None if rng is None else rng.clone()
    scales, state = history.remember(a, b, operands, state, patches)
    return apply_to(_Product, a, b, transposed, rng, scales, state, operands, autocast_dtype(a), patches)
