"""Floats as integers: exponents, significands and exact rounding by bit operations, for fp32 and fp64 alike.

Nothing here uses log2, pow or ldexp, and no value is scaled in floating point: a rounding on any grid of
powers of two is done on the bits of the number itself, so it is exact for subnormals and at the end of the
range.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Where exponent and fraction lie in a float of the compute type."""

    dtype: torch.dtype
    integer: torch.dtype
    fraction: int  # stored fraction bits
    bias: int

    @property
    def infinity(self) -> int:
        return (2 * self.bias + 1) << self.fraction

    @property
    def magnitude(self) -> int:
        return (1 << (self.fraction + self.bias.bit_length() + 1)) - 1

    @property
    def sign(self) -> int:
        return -self.magnitude - 1

    def bits(self, x: Tensor) -> Tensor:
        return x.view(self.integer)

    def value(self, bits: Tensor) -> Tensor:
        return bits.view(self.dtype)


FP32 = Layout(torch.float32, torch.int32, 23, 127)
FP64 = Layout(torch.float64, torch.int64, 52, 1023)


def layout_of(dtype: torch.dtype) -> Layout:
    """The layout of the compute type of `dtype`: fp64 for fp64, fp32 for fp32, bf16 and fp16."""
    return FP64 if dtype == torch.float64 else FP32


def split(magnitude: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Significand M and exponent E with |x| = M 2^E, from the magnitude bits of finite x."""
    biased = magnitude >> layout.fraction
    hidden = (biased > 0).to(layout.integer) << layout.fraction
    significand = (magnitude & ((1 << layout.fraction) - 1)) | hidden
    return significand, biased.clamp(min=1) - (layout.bias + layout.fraction)


def normalised(magnitude: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """floor(log2 |x|) and the fraction bits of |x| / 2^that, from magnitude bits.

    Subnormals count as any other number; zero gives an exponent below that of every number.
    """
    # The bits of a subnormal are an integer, and this integer, converted, is a normal float.
    as_integer = magnitude.to(layout.dtype).view(layout.integer)
    subnormal = magnitude < (1 << layout.fraction)
    bits = torch.where(subnormal, as_integer, magnitude)
    lift = subnormal.to(layout.integer) * (layout.bias + layout.fraction - 1)
    return (bits >> layout.fraction) - layout.bias - lift, bits & ((1 << layout.fraction) - 1)


def power_of_two(exponent: Tensor, layout: Layout) -> Tensor:
    """Bits of 2^exponent; Inf above the range, zero below it."""
    one = torch.ones_like(exponent)
    normal = (exponent + layout.bias).clamp(0, 2 * layout.bias + 1) << layout.fraction
    place = exponent + (layout.bias + layout.fraction - 1)
    subnormal = torch.where(place < 0, 0, one << place.clamp(0, layout.fraction - 1))
    return torch.where(exponent > -layout.bias, normal, subnormal)


def scaled_constant(value: float, exponent: Tensor, layout: Layout) -> Tensor:
    """Bits of value 2^exponent for a number `value` > 0 and an integer tensor; Inf above the range.

    Every bit of the product must be representable, which holds for the largest value of a format under an
    E8M0 scale.
    """
    significand, power = math.frexp(value)  # in [1/2, 1)
    top = exponent + (power - 1)
    normal = ((top + layout.bias).clamp(0, 2 * layout.bias + 1) << layout.fraction) + int(
        (2 * significand - 1) * (1 << layout.fraction)
    )
    normal = torch.where(top > layout.bias, layout.infinity, normal)
    odd, quantum = odd_part(value)
    place = exponent + (quantum + layout.bias + layout.fraction - 1)
    subnormal = torch.full_like(exponent, odd) << place.clamp(0, layout.fraction - 1)
    return torch.where(top > -layout.bias, normal, subnormal)


def odd_part(value: float) -> tuple[int, int]:
    """The odd integer m and the exponent k with value = m 2^k."""
    numerator, denominator = value.as_integer_ratio()
    trailing = (numerator & -numerator).bit_length() - 1
    return numerator >> trailing, trailing - (denominator.bit_length() - 1)


def round_to_grid(
    magnitude: Tensor,
    negative: Tensor,
    least: int | Tensor,
    mbits: int,
    rounding: str,
    layout: Layout,
    random: Tensor | None = None,
    bits: int = 0,
) -> Tensor:
    """Magnitude bits of |x| rounded to a multiple of 2^(max(floor(log2 |x|), least) - mbits), exactly.

    `negative` (bool) gives `up` and `down` their side; `random` holds R in [0, 2^bits) for `stochastic`
    (P3109 StochasticB: away from zero iff floor(v 2^(N+1)) + 2R + 1 >= 2^(N+1), v the fraction of a quantum).
    A result above the range of the compute type is Inf. NaN and Inf give rubbish, which the caller replaces.
    """
    fraction = layout.fraction
    significand, exponent = split(magnitude, layout)
    top, _ = normalised(magnitude, layout)
    quantum = (torch.maximum(top, least) if isinstance(least, Tensor) else top.clamp(min=least)) - mbits
    shift = quantum - exponent  # bits of the significand below the quantum
    near = shift.clamp(0, fraction + 2)  # beyond, everything is far less than half a quantum
    unit = torch.ones_like(near) << near
    rest = significand & (unit - 1)
    if rounding == "nearest_even":
        odd = (significand >> near) & 1
        away = (2 * rest + odd) > unit
    elif rounding == "nearest_away":
        away = 2 * rest >= unit
    elif rounding == "toward_zero":
        away = torch.zeros_like(negative)
    elif rounding == "up":
        away = (rest != 0) & ~negative
    elif rounding == "down":
        away = (rest != 0) & negative
    elif rounding == "stochastic" and random is not None:
        drop = shift.to(torch.int64) - (bits + 1)
        wide = rest.to(torch.int64)
        part = torch.where(drop >= 0, wide >> drop.clamp(0, 62), wide << (-drop).clamp(0, bits + 1))
        away = part + 2 * random.to(torch.int64) + 1 >= (1 << (bits + 1))
    else:
        raise ValueError(
            f"rounding {rounding!r} is not one that this function knows (stochastic needs `random`)"
        )
    step = away.to(layout.integer)
    inside = shift.clamp(0, fraction)
    # A carry out of the fraction raises the exponent, as it should.
    kept = ((magnitude >> inside) + step) << inside
    return torch.where(shift > fraction, torch.where(away, power_of_two(quantum, layout), 0), kept)
