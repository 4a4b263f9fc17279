"""The torch face of the numbers: the functions of `dither` on tensors, with the same arguments and errors.

CPU tensors go through custom ops (kernels.py: fake kernels, straight-through gradient, opaque to Inductor) to
the Rust kernels, which read and write the tensors' own memory: contiguous input is read in place, any other
is copied once. Tensors on other devices go to the pure-torch twin; what it does not cover (codebooks, zero
points, searched scales, some dialects),
encode, decode and error_stats take the way over the CPU. Results are contiguous.

Where a function takes `seed` and `stream`, `rng` can stand for both: the int64 tensor [seed, stream]. A
compiled graph then takes the position as data and is not compiled again when it changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dither import arrays
from dither.arguments import as_cast
from dither.checks import check_axis
from dither.errors import UserError
from dither.formats import Format
from dither.nn import kernels, twin
from dither.nn.checks import check_draws, check_fixed_out, check_input, check_out, dtype_of
from dither.nn.differentiable import Function, apply_to, is_transformed
from dither.nn.kernels import WORDS
from dither.nn.linalg import matmul as matmul
from dither.nn.packed import quantize as quantize
from dither.nn.packed import unpacked
from dither.nn.transforms import hadamard as hadamard
from dither.nn.transforms import ms_eden as ms_eden
from dither.quantizer import Quantizer, format_of
from dither.statistics import finish_stats


def _has_kernel(x: Tensor) -> bool:
    return x.is_cpu or x.is_meta


class _Through(Function):
    """Values of the op or of the twin, with the gradient passed straight through."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _Through.keep(ctx, inputs, None)
        return _Through.compute(*inputs)

    @staticmethod
    def compute(x: Tensor, q: str, *options: Any) -> Tensor:
        if _has_kernel(x):
            return torch.ops.dither.fake_quant.default(x, q, *options)
        axis, rng, offset, random, out_dtype = options
        return twin.fake_quant(
            x, kernels.parse(q), axis, rng=rng, offset=offset, random=random, out_dtype=out_dtype
        )

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return g.to(ctx.dtype), None, None, None, None, None, None


def apply(
    x: Tensor,
    spec: str,
    axis: int = -1,
    rng: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    offset: int = 0,
    random: Tensor | None = None,
) -> Tensor:
    """fake_quant without checks or conversions, for layers: `spec` is the print of a quantizer."""
    if _has_kernel(x) and not is_transformed():  # the op's own gradient is not for torch.func
        return torch.ops.dither.fake_quant.default(x, spec, axis, rng, offset, random, out_dtype)
    if not _has_kernel(x) and not twin.covers(kernels.parse(spec)):
        rng, random = (None if t is None else t.cpu() for t in (rng, random))
        return apply(x.cpu(), spec, axis, rng, out_dtype, offset, random).to(x.device)
    return apply_to(_Through, x, spec, axis, rng, offset, random, out_dtype)


def _named(q: Quantizer | str) -> tuple[str, Quantizer]:
    """A quantizer and its print."""
    spec = kernels.spec_of(q) if isinstance(q, Quantizer) else q
    return spec, kernels.parse(spec)


def fake_quant(
    x: Tensor,
    q: Quantizer | str,
    axis: int = -1,
    *,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Tensor | None = None,
    out: Tensor | None = None,
    out_dtype: torch.dtype | str | None = None,
    rng: Tensor | None = None,
) -> Tensor:
    """`dither.fake_quant` on a tensor. The gradient of `x` is that of the result (straight-through).

    Returns a contiguous tensor of x's shape, on its device, in `out_dtype` (default: x's dtype), or `out`,
    filled.
    """
    spec, q = _named(q)
    word = check_input(x)
    axis = check_axis(axis, x.dim())
    dtype = x.dtype if out_dtype is None else dtype_of(out_dtype)
    if out is not None:
        check_out(x, out, out_dtype)
    rng, offset, random = check_draws(q, x, seed, stream, offset, random, rng, out)
    if out is None:
        kernels.warn_inexact(spec, WORDS.get(dtype, word))
        return apply(x, spec, axis, rng, dtype, offset, random)
    kernels.warn_inexact(spec, WORDS[out.dtype])
    if not x.is_cpu:
        return out.copy_(apply(x, spec, axis, rng, out.dtype, offset, random))
    kernels.fake_quant_into(x.detach(), out, q, axis, rng, offset, random)
    return out


def cast(
    x: Tensor,
    fmt: str | Format,
    *,
    rounding: str = "nearest_even",
    bits: int | None = None,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Tensor | None = None,
    overflow: str | None = None,
    out: Tensor | None = None,
    out_dtype: torch.dtype | str | None = None,
    rng: Tensor | None = None,
) -> Tensor:
    """`dither.cast` on a tensor: every element rounded to the format, without any scale."""
    q = as_cast(fmt, rounding, bits, overflow)
    return fake_quant(
        x, q, seed=seed, stream=stream, offset=offset, random=random, out=out, out_dtype=out_dtype, rng=rng
    )


def encode(
    x: Tensor,
    fmt: str | Format,
    *,
    rounding: str = "nearest_even",
    bits: int | None = None,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Tensor | None = None,
    overflow: str | None = None,
    out: Tensor | None = None,
    rng: Tensor | None = None,
) -> Tensor:
    """`dither.encode` on a tensor: codes in the narrowest of uint8, uint16 and uint32, on x's device."""
    q, device = as_cast(fmt, rounding, bits, overflow), x.device
    check_input(x)
    if out is not None:
        check_fixed_out(x, out, kernels.code_dtype(q.format))
    rng, offset, random = check_draws(q, x, seed, stream, offset, random, rng, out)
    if out is not None and x.is_cpu:
        kernels.encode_into(x.detach(), out, q, rng, offset, random)
        return out
    x = x.detach()
    if not x.is_meta:
        x, random = x.cpu(), None if random is None else random.cpu()
    codes = torch.ops.dither.encode.default(x, str(q), rng, offset, random)
    return codes.to(device) if out is None else out.copy_(codes)


def decode(codes: Tensor, fmt: str | Format, *, out: Tensor | None = None) -> Tensor:
    """`dither.decode` on a tensor: values as float32 (float64 where it takes that), on the codes' device."""
    fmt = format_of(fmt)
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"codes are integers, not {codes.dtype}")
    if out is not None:
        check_fixed_out(codes, out, kernels.value_dtype(fmt))
        if codes.is_cpu:
            kernels.decode_into(codes, out, fmt)
            return out
    values = torch.ops.dither.decode.default(codes if codes.is_meta else codes.cpu(), fmt.name)
    return values.to(codes.device) if out is None else out.copy_(values)


def neighbours(x: Tensor, q: Quantizer | str, axis: int = -1) -> tuple[Tensor, Tensor]:
    """`dither.neighbours` on a tensor; constants to autograd."""
    spec, q = _named(q)
    check_input(x)
    axis = check_axis(axis, x.dim())
    if x.is_cpu or x.is_meta:
        return torch.ops.dither.neighbours.default(x.detach(), spec, axis)
    if not twin.covers(q):
        lo, hi = neighbours(x.cpu(), q, axis)
        return lo.to(x.device), hi.to(x.device)
    return twin.neighbours(x.detach(), q, axis, out_dtype=kernels.neighbour_dtype(q, x.dtype))


def error_stats(
    x: Tensor,
    q: Quantizer | str,
    axis: int = -1,
    *,
    per_block: bool = False,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Tensor | None = None,
    rng: Tensor | None = None,
) -> dict[str, Any]:
    """`dither.error_stats` on a tensor."""
    _, q = _named(q)
    check_input(x)
    axis = check_axis(axis, x.dim())
    if not x.numel():
        raise UserError("an empty array has no error statistics")
    rng, offset, random = check_draws(q, x, seed, stream, offset, random, rng)
    source = kernels.source(kernels.on_cpu(unpacked(x).detach()))
    draws = kernels.draws(rng, offset, None if random is None else random.cpu())
    total, blocks = arrays.run_error_stats(q, source, axis, draws, per_block)
    return finish_stats(q, tuple(x.shape), axis, total, blocks)


def as_numpy(x: Tensor) -> np.ndarray:
    """The values for numpy, bf16 and fp16 as fp32."""
    check_input(x)
    x = kernels.on_cpu(unpacked(x).detach())
    return (x if x.element_size() > 2 else x.float()).numpy()
