"""One factor of a product: an operand rotated, quantized and put where the product finds it.

    factor        one operand of one product
    remade        what the backward makes again of the forward
    mask_of       where the gradient of an operand passes
    quantized     an operand without a product (weights of norms and embeddings)

A value that is used by one product and forgotten lies in memory that is used again (scratch.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dither.errors import UserError
from dither.nn import history, kernels, ops, scale_rules, scratch, transforms
from dither.nn.differentiable import Function, apply_to
from dither.nn.patches import Patches
from dither.nn.ready import (
    DGRAD_W,
    FPROP,
    FPROP_W,
    FPROP_X,
    Operand,
    Operands,
    Rotation,
    from_forward,
    has_mask,
)
from dither.nn.streams import OPERANDS


def rows_of(slot: int | None, x: Tensor, dtype: torch.dtype | None, patches: Patches | None) -> Tensor:
    """The first factor of a product as it comes: `x`, or its rows; these in the memory of `slot`, where
    `factor` then rotates and rounds them in place."""
    if patches is None:
        return x
    stays = dtype in (None, x.dtype) and x.dtype.itemsize >= 4  # a rotation would overwrite narrower values
    if slot is None or not (stays and scratch.available(x)):
        return patches.rows(x)
    return patches.rows(x, scratch.take(slot, torch.Size(patches.shape(x)), x.dtype))


def factor(
    slot: int | None,
    x: Tensor,
    operands: Operands,
    row: int,
    axis: int,
    rng: Tensor | None,
    scales: Tensor | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """`x` as operand `row` of its product, blocks and rotation along `axis`, in `dtype` (default: its own).

    `slot` 0 or 1: memory that lasts until the factor of that number is made again; None: memory of its own.
    `rng` holds [seed, stream] of every operand and rotation in its rows, `scales` those of delayed scaling.
    """
    operand, rotation = operands.six[row], operands.rotations[row >> 1]
    if isinstance(operand, Operand) and operand.whole:
        _check_whole(x, operand, row, axis)
    if rotation is not None:
        return _rotated(slot, x, operand, rotation, row, axis, rng, scales, dtype)
    if not isinstance(operand, Operand):
        return x if dtype is None else x.to(dtype)
    if not scratch.available(x):
        return quantized(x, operand, axis, rng, row, dtype, scales)
    if operand.rule == "own":
        out = scratch.take(slot, x.shape, dtype or x.dtype)
        _round_into(x, out, operand, axis, rng, row)
        return out
    return _by_rule(slot, x, operand, axis, rng, row, dtype, scales)


def _check_whole(x: Tensor, operand: Operand, row: int, axis: int) -> None:
    if x.shape[axis] % operand.whole:
        raise UserError(
            f"{OPERANDS[row]}={operand.spec}: {x.shape[axis]} elements do not fill blocks of {operand.whole} "
            f'(operand of shape {tuple(x.shape)}); exempt the layer, or prepare_ with ragged="shorter"'
        )


def remade(
    slot: int,
    x: Tensor,
    operands: Operands,
    row: int,
    k_axis: int,
    rng: Tensor | None,
    scales: Tensor | None,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor | None]:
    """What `factor` takes for dgrad_w or wgrad_x: `x` as it came, or where the recipe says so what the
    forward made of it along `k_axis`: made again, since a copy would lie in memory until the backward. And
    the mask of that operand of the forward, where making it again gave one.
    `x` has the shape that the forward saw, as tiles lie in its last two axes."""
    if not from_forward(operands.six[row]):
        return x, None
    # A rotation is computed in at least fp32, in place of what is as wide: it would overwrite narrower
    # values of the same memory before it has read them.
    narrow = (dtype or x.dtype).itemsize < 4
    apart = narrow and operands.rotations[row >> 1] is not None
    of = FPROP_W if row == DGRAD_W else FPROP_X
    own = None if apart else slot
    if not has_mask(operands.six[of]):
        return factor(own, x, operands, of, k_axis, rng, scales, dtype), None
    y, mask = _fitted(own, x, operands, of, k_axis, rng)
    return y.to(dtype or x.dtype), mask


def mask_of(
    x: Tensor, known: Tensor | None, operands: Operands, row: int, axis: int, rng: Tensor | None
) -> Tensor | None:
    """Where the gradient of the forward's operand `row` passes, unless it is `known`: None for everywhere."""
    if known is not None or not has_mask(operands.six[row]):
        return known
    return _fitted(None, x, operands, row, axis, rng)[1]


def _fitted(
    slot: int | None, x: Tensor, operands: Operands, row: int, axis: int, rng: Tensor | None
) -> tuple[Tensor, Tensor]:
    """An operand of the forward whose scales fit its deviation, and where they do not clip."""
    rotation = operands.rotations[FPROP]
    if rotation is None:
        return scale_rules.quest(x, axis)
    r = _rotation_of(slot, x, rotation, row, axis, rng)
    if scratch.available(r) and r.dtype == torch.float32:
        return r, scale_rules.quest_(r, axis)
    return scale_rules.quest(r, axis)


def quantized(
    x: Tensor,
    operand: Operand | str | None,
    axis: int,
    rng: Tensor | None,
    row: int,
    dtype: torch.dtype | None = None,
    scales: Tensor | None = None,
) -> Tensor:
    """`x` fake-quantized along `axis`, in `dtype` (default: its own); `x` itself without a quantizer. The
    gradient is passed straight through."""
    if not isinstance(operand, Operand):
        return x if dtype is None else x.to(dtype)
    if operand.rule == "own":
        own = rng[row] if operand.stochastic and rng is not None else None
        return ops.apply(x, operand.spec, axis, own, dtype, operand.offset(x))
    if torch.is_grad_enabled() and x.requires_grad:
        return apply_to(_Straight, x, operand, axis, rng, row, dtype, scales)
    return _by_rule(None, x, operand, axis, rng, row, dtype, scales)


class _Straight(Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _Straight.keep(ctx, inputs, None)
        return _Straight.compute(*inputs)

    @staticmethod
    def compute(x: Tensor, *options: Any) -> Tensor:
        return _by_rule(None, x, *options)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return g.to(ctx.dtype), None, None, None, None, None, None


def _round_into(x: Tensor, out: Tensor, operand: Any, axis: int, rng: Tensor | None, row: int) -> None:
    own = rng[row] if operand.stochastic and rng is not None else None
    q, offset = kernels.parse(operand.spec), operand.offset(x)
    kernels.fake_quant_into(x, out, q, axis % max(x.dim(), 1), own, offset, None)


def _by_rule(
    slot: int | None,
    x: Tensor,
    operand: Operand,
    axis: int,
    rng: Tensor | None,
    row: int,
    dtype: torch.dtype | None,
    scales: Tensor | None,
) -> Tensor:
    if operand.rule == "delayed":
        assert scales is not None
        return history.scaled_cast(slot, x, operand.spec, scales[operand.state], dtype)
    if operand.rule == "least":
        return scale_rules.at_least(x, operand.spec, operand.least, axis, dtype)
    if operand.rule == "quest":
        return scale_rules.quest(x, axis)[0].to(dtype or x.dtype)
    assert rng is not None
    return scale_rules.ms_eden(x, axis, rng[row], operand.offset(x)).to(dtype or x.dtype)


def _rotated(
    slot: int | None,
    x: Tensor,
    operand: Operand | str | None,
    rotation: Rotation,
    row: int,
    axis: int,
    rng: Tensor | None,
    scales: Tensor | None,
    dtype: torch.dtype | None,
) -> Tensor:
    """The rotation of `x`, in at least fp32, and its quantization in place where that is possible."""
    r = _rotation_of(slot, x, rotation, row, axis, rng)
    if not isinstance(operand, Operand):
        return r.to(dtype or x.dtype)
    in_place = scratch.available(r) and (dtype or x.dtype) == r.dtype
    if operand.rule == "quest" and in_place and r.dtype == torch.float32:
        scale_rules.quest_(r, axis)
        return r
    if not (in_place and operand.rule in ("own", "ms_eden")):
        return quantized(r, operand, axis, rng, row, dtype or x.dtype, scales)
    if operand.rule == "own":
        _round_into(r, r, operand, axis, rng, row)
        return r
    assert rng is not None
    return scale_rules.ms_eden_(r, axis, rng[row], operand.offset(r))


def _rotation_of(
    slot: int | None, x: Tensor, rotation: Rotation, row: int, axis: int, rng: Tensor | None
) -> Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, signs = padded(x, axis, rotation.block), _signs(rotation, row, rng)
    if not scratch.available(x):
        return transforms.rotate(x, rotation.block, signs, False, axis, False, wide)
    out = scratch.take(slot, x.shape, wide)
    transforms.rotate_into(x, out, rotation.block, signs, axis, False)
    return out


def padded(x: Tensor, axis: int, block: int) -> Tensor:
    """Zeros at the end of `axis` up to a multiple of `block`."""
    missing = -x.shape[axis] % block
    if not missing:
        return x
    behind = x.dim() - 1 - axis % x.dim()
    return F.pad(x, (0, 0) * behind + (0, missing))


def _signs(rotation: Rotation, row: int, rng: Tensor | None) -> Tensor | None:
    return rng[len(OPERANDS) + (row >> 1)] if rotation.signs and rng is not None else None


def rotate_back(
    x: Tensor, operands: Operands, row: int, rng: Tensor | None, axis: int, length: int
) -> Tensor:
    """What was computed in the basis of operand `row` of the forward, in the basis of the layer; in the
    memory of `x` where nobody records what is computed."""
    rotation = operands.rotations[FPROP]
    if rotation is None:
        return x
    signs = _signs(rotation, row, rng)
    if scratch.available(x) and x.is_contiguous():
        transforms.rotate_into(x, x, rotation.block, signs, axis, True)
    else:
        x = transforms.rotate(x, rotation.block, signs, False, axis, True)
    return x.narrow(axis, 0, length)
