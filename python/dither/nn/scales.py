"""Block scales in pure torch: from the absmax of a block to what its elements are divided by.

Mirrors rust/numerics/src/scale.rs; every line is one IEEE operation in the compute type or integer work on
bits. Divisors are tensors on purpose: torch turns division by a Python number into multiplication by its
reciprocal on CUDA.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dither.formats import get
from dither.nn.floatbits import FP32, Layout, normalised, odd_part, round_to_grid, split
from dither.quantizer import Quantizer

_LARGEST = 3.4028234663852886e38  # of fp32
STORED = {name: get(name) for name in ("e4m3", "ue5m3", "ue5m3_61440")}


class Power(NamedTuple):
    """Elements are rounded on the grid multiplied by 2^exponent (E8M0): no scaling, no rounding error."""

    exponent: Tensor


class Factors(NamedTuple):
    """z = x / encode, or x * encode if `reciprocal`; y = round(z) * decode; zero where `zero`."""

    encode: Tensor
    decode: Tensor
    reciprocal: bool
    zero: Tensor


def block_scale(
    q: Quantizer, absmax: Tensor, tensor_absmax: Tensor | None, layout: Layout, factor: float = 1.0
) -> Power | Factors:
    """The scales of blocks whose magnitude bits peak at `absmax`; NaN and Inf are the caller's concern.

    `tensor_absmax` is the peak of the whole tensor where the quantizer has a second-level scale; `factor`
    raises 8-bit scales (3/2 is the other candidate of four-over-six).
    """
    if q.scale_format == "e8m0":
        return Power(_power_of_two(q, absmax, layout))
    value = layout.value(absmax)
    if q.scale_rule == "static" and not q.tensor_scale:
        divisor = torch.full_like(value, float(q.scale or 1))
        return Factors(divisor, divisor, False, absmax == 0)
    if q.tensor_scale and tensor_absmax is not None:
        return _second_level(q, value, layout.value(tensor_absmax), layout, q.guard * factor)
    quotient = value / torch.full((), q.format.max, dtype=layout.dtype, device=value.device)
    if q.scale_format == "fp32":
        scale = quotient.to(torch.float32).clamp(max=_LARGEST)
        if q.scale_rule == "rceil":
            scale = _not_below(scale, q.format.max, value, layout)
    else:
        scale = _round_scale(quotient * (q.guard * factor), q, layout)
    zero = (scale == 0) | (absmax == 0)
    divisor = torch.where(zero, 1, scale).to(layout.dtype)
    return Factors(divisor, divisor, False, zero)


def _power_of_two(q: Quantizer, absmax: Tensor, layout: Layout) -> Tensor:
    """floor(log2 absmax) - emax, plus the carry of the rule, in E8M0's range."""
    floor, fraction = normalised(absmax, layout)
    if q.scale_rule == "static":
        return torch.full_like(floor, math.frexp(q.scale or 1)[1] - 1)
    top = int((q.format.max / 2.0**q.format.emax - 1) * (1 << layout.fraction))
    if q.scale_rule == "floor":
        carry = torch.zeros_like(fraction, dtype=torch.bool)
    elif q.scale_rule == "ceil":
        carry = fraction != 0
    elif q.scale_rule == "even":
        # 2 - 2^-(m+1) and above round up to 2; its own tie carries since 1.1...1 is odd.
        carry = fraction >= (1 << layout.fraction) - (1 << (layout.fraction - q.format.top_mbits - 1))
    else:  # rceil: the smallest power of two that does not clip
        carry = fraction > top
    return (floor + carry.to(floor.dtype) - q.format.emax).clamp(-127, 127)


def _second_level(
    q: Quantizer, absmax: Tensor, tensor_absmax: Tensor, layout: Layout, factor: float
) -> Factors:
    """NVFP4's two levels in Transformer Engine's order; fp32, but fp64 input is multiplied in fp64."""
    stored, top, one = STORED[str(q.scale_format)], q.format.max, torch.ones((), device=absmax.device)
    whole = tensor_absmax.to(torch.float32)
    if q.scale_rule == "static":
        second = one * float(q.scale or 1)
        multiplier = (one / second) * (one / (one * top))
    else:
        bound = stored.max / (1.75 if q.four_over_six else 1.0) / q.guard
        encode = _finite(one * (bound * top) / whole)
        encode = torch.where((whole == 0) | (encode == 0), 1, encode)
        second, multiplier = one / encode, encode * (one / (one * top))
    wanted = _finite((absmax * multiplier.to(layout.dtype)).to(torch.float32) * factor)
    scale = _round_scale(wanted, q, FP32)
    decode = scale * second
    encode = _finite(one / decode)
    return Factors(encode.to(layout.dtype), decode.to(layout.dtype), True, absmax == 0)


def _finite(x: Tensor) -> Tensor:
    """The largest number for what exceeds it or is NaN (infinity over infinity)."""
    return torch.where(x <= _LARGEST, x, _LARGEST)


def _round_scale(wanted: Tensor, q: Quantizer, layout: Layout) -> Tensor:
    """`wanted` >= 0 rounded to the scale's 8-bit float (up under rceil), saturating; fp32."""
    stored = STORED[str(q.scale_format)]
    rounding = "up" if q.scale_rule == "rceil" else "nearest_even"
    bits = layout.bits(wanted)
    rounded = round_to_grid(bits, bits < 0, stored.emin, stored.mbits, rounding, layout)
    # An infinite quotient (fp64 input) saturates like any other; min on values treats it so.
    value = torch.where(torch.isinf(wanted), wanted, layout.value(rounded))
    return value.clamp(max=stored.max).to(torch.float32)


def _not_below(scale: Tensor, top: float, absmax: Tensor, layout: Layout) -> Tensor:
    """`scale`, or the next fp32 above it where scale * top < absmax, compared exactly."""
    if layout is FP32:
        short = _product_below(scale, top, absmax)
    else:
        short = scale.to(torch.float64) * top < absmax
    return torch.where(short, FP32.value(FP32.bits(scale) + 1), scale).clamp(max=_LARGEST)


def _product_below(scale: Tensor, top: float, absmax: Tensor) -> Tensor:
    """scale * top < absmax for fp32 tensors in int64 arithmetic, so that devices without fp64 agree."""
    odd, power = odd_part(top)
    left, left_exponent = (part.to(torch.int64) for part in split(FP32.bits(scale), FP32))
    right, right_exponent = (part.to(torch.int64) for part in split(FP32.bits(absmax), FP32))
    gap = left_exponent + power - right_exponent
    # scale * top is within a rounding of absmax, so the gap only makes up for the widths of the significands.
    return (left * odd) << gap.clamp(0, 38) < right << (-gap).clamp(0, 38)
