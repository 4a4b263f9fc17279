"""Arguments of the torch face: what is accepted, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dither.checks import BITS_LOST, check_address, check_given_bits, check_no_address, check_no_bits
from dither.errors import UserError
from dither.nn import kernels
from dither.nn.kernels import WORDS
from dither.nn.streams import signed
from dither.quantizer import STOCHASTIC, Quantizer

_FLOATS = ("fp32", "bf16", "fp16", "fp64")
_DTYPES = {word: dtype for dtype, word in WORDS.items() if word in _FLOATS}


def check_input(x: Any) -> str:
    """The dtype word of a tensor that can be quantized."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"a {type(x).__name__} was given where a torch tensor is wanted; convert with torch.as_tensor(x)"
        )
    if x.layout != torch.strided:
        raise TypeError(f"tensors of the layout {x.layout} cannot be quantized; convert with x.to_dense()")
    word = WORDS.get(x.dtype)
    if word not in _FLOATS:
        raise TypeError(
            f"float32, float64, float16 and bfloat16 tensors can be quantized, not {x.dtype}; "
            "convert with x.float()"
        )
    return word


def dtype_of(word_or_dtype: Any) -> torch.dtype:
    dtype = _DTYPES.get(word_or_dtype) if isinstance(word_or_dtype, str) else word_or_dtype
    if dtype is None or WORDS.get(dtype) not in _FLOATS:
        raise TypeError(f"out_dtype is one of fp32, fp64, fp16 and bf16, not {word_or_dtype}")
    return dtype


def check_out(x: Tensor, out: Any, out_dtype: Any) -> None:
    """`out` can take a result of x's shape; it is x itself or apart from it."""
    check_result(x.shape, x.device, out, out_dtype)
    if torch.is_grad_enabled() and (x.requires_grad or out.requires_grad):
        raise UserError("out= takes no part in autograd: call under torch.no_grad() or without out=")
    same = out.data_ptr() == x.data_ptr() and out.dtype == x.dtype and x.is_contiguous()
    if not same and overlap(x, out):
        raise UserError("out= overlaps the input in part: pass the input itself or separate memory")


def check_result(shape: Sequence[int], device: torch.device, out: Any, out_dtype: Any) -> None:
    """`out` can take a result of that shape, in the dtype that was asked for."""
    if not isinstance(out, Tensor):
        raise TypeError(f"out= is a tensor like the input, not {type(out).__name__}")
    if WORDS.get(out.dtype) not in _FLOATS:
        raise TypeError(f"out= holds {out.dtype}; use float32, float64, float16 or bfloat16")
    if out_dtype is not None and out.dtype != dtype_of(out_dtype):
        raise UserError(f"out= holds {out.dtype} but out_dtype asks for {dtype_of(out_dtype)}")
    _check_memory(shape, device, out)


def check_fixed_out(x: Tensor, out: Any, dtype: torch.dtype) -> None:
    """For results whose dtype the format decides, and which no gradient can flow through."""
    if not isinstance(out, Tensor) or out.dtype != dtype:
        raise TypeError(
            f"out= is a tensor of {dtype}, not {out.dtype if isinstance(out, Tensor) else type(out).__name__}"
        )
    _check_memory(x.shape, x.device, out)
    if out.requires_grad:
        raise UserError("out= takes no part in autograd: detach it")
    if overlap(x, out):
        raise UserError("out= overlaps the input: pass separate memory")


def _check_memory(shape: Sequence[int], device: torch.device, out: Tensor) -> None:
    if tuple(out.shape) != tuple(shape):
        raise UserError(f"out= has shape {tuple(out.shape)}, the result {tuple(shape)}")
    if out.device != device:
        raise UserError(f"out= is on {out.device}, the input on {device}")
    if not (out.is_contiguous() and (not out.is_cpu or kernels.is_aligned(out))):
        raise UserError("out= must be contiguous and aligned: leave it out and copy the result")


def overlap(x: Tensor, out: Tensor) -> bool:
    """Whether the contiguous `out` lies between the first and the last element of `x`."""
    if x.device != out.device or x.is_meta or not (x.numel() and out.numel()):
        return False
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    start, end = x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()
    return out.data_ptr() < end and start < out.data_ptr() + out.numel() * out.element_size()


def check_draws(
    q: Quantizer,
    x: Tensor,
    seed: Any,
    stream: Any,
    offset: Any,
    random: Any,
    rng: Tensor | None,
    *outputs: Tensor | None,
) -> tuple[Tensor | None, int, Tensor | None]:
    """rng, offset and given bits of a stochastic quantizer, apart from outputs; nothing for the others."""
    if q.rounding not in STOCHASTIC:
        check_no_bits(q, random)
        return None, 0, None
    if rng is not None and (seed is not None or random is not None or stream != 0):
        raise UserError("rng= is seed and stream: give it alone, or seed= and stream=, or random=")
    if random is not None:
        check_no_address(seed, stream, offset)
        given = torch.as_tensor(random)
        integers = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        wide = given.to(torch.int64) if integers else given  # from 2**63 on that is negative, and refused
        check_given_bits(q, x.shape, wide, given.dtype, integers)
        if any(out is not None and overlap(given, out) for out in outputs):
            raise UserError(BITS_LOST)
        return None, 0, wide.to(x.device)
    if rng is not None:
        if rng.shape != (2,) or rng.dtype != torch.int64:
            raise UserError(
                f"rng= is the int64 tensor [seed, stream], not {rng.dtype} of shape {tuple(rng.shape)}"
            )
        return rng, offset, None
    if seed is None:
        raise UserError(
            "stochastic rounding needs seed= (its bits are addressed, not drawn), rng= or random="
        )
    seed, stream, offset = check_address(seed, stream, offset)
    return torch.tensor([signed(seed), signed(stream)], dtype=torch.int64), offset, None
