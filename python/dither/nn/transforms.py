"""`dither.hadamard` on tensors: the Rust kernel on the CPU, the same additions in torch elsewhere.

The rotation is orthogonal, so its gradient is the inverse rotation of the gradient. The custom op takes the
address of the signs as the int64 tensor [seed, stream]; a compiled graph reads it as data.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dither import arrays, eden
from dither.errors import UserError
from dither.nn import fresh, kernels, scratch
from dither.nn.checks import check_input, check_out, dtype_of
from dither.nn.differentiable import Function, apply_to, is_transformed, one_after_the_other
from dither.nn.packed import unpacked
from dither.nn.philox import random_bits
from dither.nn.streams import signed
from dither.transforms import check_rotation, check_signs


def hadamard(
    x: Tensor,
    block: int = 32,
    seed: int | None = 0,
    axis: int = -1,
    *,
    stream: int = 0,
    along_axis: bool = False,
    inverse: bool = False,
    out: Tensor | None = None,
    out_dtype: torch.dtype | str | None = None,
    rng: Tensor | None = None,
) -> Tensor:
    """`dither.hadamard` on a tensor; `rng` = [seed, stream] (int64) can stand for seed and stream."""
    check_input(x)
    axis, block = check_rotation(tuple(x.shape), axis, block)
    rng = _check_rng(seed, stream, along_axis, rng)
    dtype = None if out_dtype is None else dtype_of(out_dtype)
    if out is None:
        return rotate(x, block, rng, along_axis, axis, inverse, dtype)
    check_out(x, out, out_dtype)
    if not x.is_cpu:
        return out.copy_(rotate(x, block, rng, along_axis, axis, inverse, out.dtype))
    _fill(x.detach(), out, block, rng, along_axis, axis, inverse)
    return out


def rotate_into(x: Tensor, out: Tensor, block: int, rng: Tensor | None, axis: int, inverse: bool) -> None:
    """`rotate` into contiguous CPU memory; all blocks share their signs."""
    _fill(x.detach(), out, block, rng, False, axis, inverse)


_LIBRARY = torch.library.Library("dither", "FRAGMENT")
_LIBRARY.define(
    "hadamard(Tensor x, int block, Tensor? rng, bool along_axis, int axis, bool inverse, "
    "ScalarType? out_dtype=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def rotate(
    x: Tensor,
    block: int,
    rng: Tensor | None,
    along_axis: bool,
    axis: int,
    inverse: bool,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """`hadamard` without checks, for layers: signs addressed by `rng` = [seed, stream], or None."""
    if scratch.available(x):
        return _hadamard(x, block, rng, along_axis, axis, inverse, out_dtype)
    if x.is_cpu and not is_transformed():  # the op's own gradient is not for torch.func
        return torch.ops.dither.hadamard.default(x, block, rng, along_axis, axis, inverse, out_dtype)
    return apply_to(_Rotation, x, block, rng, along_axis, axis, inverse, out_dtype)


def twin(
    x: Tensor,
    block: int,
    rng: Tensor | None,
    along_axis: bool,
    axis: int,
    inverse: bool,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """The transform in torch operations, on any device; the same bits as the kernel."""
    v = x.movedim(axis, -1) if x.dim() else x.reshape(1)
    shape = v.shape
    v = v.to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous()
    signs = None
    if rng is not None:
        drawn = random_bits(shape[-1] if along_axis else block, 1, rng.to(x.device))
        signs = (1 - 2 * drawn).to(v.dtype).repeat(1 if along_axis else shape[-1] // block)
    if signs is not None and not inverse:
        v = v * signs
    h = 1
    while h < block:
        low, high = v.unflatten(-1, (-1, 2, h)).unbind(-2)
        v = torch.stack((low + high, low - high), dim=-2).reshape(shape)
        h *= 2
    v = v * (1 / math.sqrt(block))
    if signs is not None and inverse:
        v = v * signs
    v = v.movedim(-1, axis) if x.dim() else v.reshape(())
    return _narrow(v.contiguous(), out_dtype or x.dtype)


def _narrow(v: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded once: fp64 goes to 16 bits through fp32 rounded to odd, where torch would round twice."""
    if v.dtype != torch.float64 or dtype.itemsize != 2:
        return v.to(dtype)
    y = v.to(torch.float32)
    bits = y.view(torch.int32) - (y.double().abs() > v.abs()).to(torch.int32)
    return torch.where((y.double() == v) | y.isnan(), y, (bits | 1).view(torch.float32)).to(dtype)


class _Rotation(Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _remember(ctx, inputs, None)
        return _Rotation.compute(*inputs)

    @staticmethod
    def compute(x: Tensor, *options: Any) -> Tensor:
        return torch.ops.dither.hadamard.default(x, *options) if x.is_cpu else twin(x, *options)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _remember(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return _backward(ctx, g)


@torch.library.impl(_LIBRARY, "hadamard", "CPU")
def _hadamard(
    x: Tensor,
    block: int,
    rng: Tensor | None,
    along_axis: bool,
    axis: int,
    inverse: bool,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    out = fresh.empty(x.shape, out_dtype or x.dtype)
    _fill(x, out, block, rng, along_axis, axis, inverse)
    return out


def _fill(
    x: Tensor, out: Tensor, block: int, rng: Tensor | None, along_axis: bool, axis: int, inverse: bool
) -> None:
    axis, block = check_rotation(tuple(x.shape), axis, block)
    signs = None if rng is None else (*kernels.address(rng), along_axis)
    if x.numel():
        arrays.run_hadamard(kernels.source(x), kernels.buffer(out), axis, block, signs, inverse)


@torch.library.register_fake("dither::hadamard", lib=_LIBRARY)
def _(x, block, rng, along_axis, axis, inverse, out_dtype=None):
    return x.new_empty(x.shape, dtype=out_dtype or x.dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, block, rng, along_axis, axis, inverse, *_ = inputs
    ctx.options = (block, along_axis, axis, not inverse, x.dtype)
    ctx.save_for_backward(rng)


def _backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    block, along_axis, axis, inverse, dtype = ctx.options
    (rng,) = ctx.saved_tensors
    return rotate(g, block, rng, along_axis, axis, inverse, dtype), None, None, None, None, None, None


torch.library.register_autograd("dither::hadamard", _backward, setup_context=_remember, lib=_LIBRARY)
one_after_the_other("dither::hadamard", _LIBRARY)


def _check_rng(seed: Any, stream: Any, along_axis: Any, rng: Tensor | None) -> Tensor | None:
    """[seed, stream] as an int64 tensor, from the two or given as `rng`; None for no signs."""
    if rng is not None:
        if rng.shape != (2,) or rng.dtype != torch.int64:
            raise UserError(
                f"rng= is the int64 tensor [seed, stream], not {rng.dtype} of shape {tuple(rng.shape)}"
            )
        return rng
    signs = check_signs(seed, stream, along_axis)
    return None if signs is None else torch.tensor([signed(signs[0]), signed(signs[1])], dtype=torch.int64)


def ms_eden(x: Tensor, axis: int = -1, *, seed: int, stream: int = 0, rotated: bool = True) -> Tensor:
    """`dither.ms_eden` on a tensor, over the CPU; constant to autograd."""
    check_input(x)
    plain = kernels.on_cpu(unpacked(x).detach()).float().numpy()
    y = eden.ms_eden(plain, axis, seed=seed, stream=stream, rotated=rotated)
    return torch.from_numpy(y).to(x.device, x.dtype)
