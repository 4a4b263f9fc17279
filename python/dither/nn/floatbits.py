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

from dither.quantizer import STOCHASTIC


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
    """Bits of value 2^exponent for a `value` > 0 and an integer tensor; Inf above the range.

    Every bit of the product must be representable, which holds for the largest value of a format under an
    E8M0 scale.
    """
    if math.isinf(value):
        return torch.full_like(exponent, layout.infinity)
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


class Fraction(NamedTuple):
    """v = rest / 2^shift: how far |x| is on the way from one multiple of the quantum to the next."""

    rest: Tensor
    shift: Tensor

    def floor(self, bits: int) -> Tensor:
        """floor(v 2^bits) as int64, bits <= 33."""
        drop = self.shift.to(torch.int64) - bits
        wide = self.rest.to(torch.int64)
        return torch.where(drop >= 0, wide >> drop.clamp(0, 62), wide << (-drop).clamp(0, bits))

    def nearest(self, bits: int) -> Tensor:
        """v 2^bits to the nearest integer, ties to even, as int64; bits <= 32."""
        twice = self.floor(bits + 1)
        whole, half = twice >> 1, (twice & 1) == 1
        drop = (self.shift.to(torch.int64) - (bits + 1)).clamp(0, 62)
        beyond = (self.rest.to(torch.int64) & ((torch.ones_like(drop) << drop) - 1)) != 0
        return whole + (half & (beyond | ((whole & 1) == 1))).to(torch.int64)


def _stochastic(v: Fraction, rounding: str, random: Tensor, bits: int) -> Tensor:
    """Whether R rounds away under P3109's StochasticA, B and C with N = bits."""
    r = random.to(torch.int64)
    if rounding == "stochastic_a":
        return v.floor(bits) + r >= (1 << bits)
    if rounding == "stochastic_c":
        return v.nearest(bits) + r >= (1 << bits)
    return v.floor(bits + 1) + 2 * r + 1 >= (1 << (bits + 1))


def round_to_grid(
    magnitude: Tensor,
    negative: Tensor,
    least: int | Tensor,
    mbits: int,
    rounding: str,
    layout: Layout,
    random: Tensor | None = None,
    bits: int = 0,
    even_by_exponent: bool = False,
) -> Tensor:
    """Magnitude bits of |x| rounded to a multiple of 2^(max(floor(log2 |x|), least) - mbits), exactly.

    `negative` (bool) gives `up` and `down` their side; `random` holds R in [0, 2^bits) for the stochastic
    modes. `even_by_exponent`: "even" looks at the exponent field (P3109's formats without fraction bits).
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
    odd = (significand >> near) & 1
    if even_by_exponent:
        odd = torch.where(significand >> near == 0, 0, (quantum - least + 1) & 1)
    if rounding == "nearest_even":
        away = (2 * rest + odd) > unit
    elif rounding == "nearest_away":
        away = 2 * rest >= unit
    elif rounding == "toward_zero":
        away = torch.zeros_like(negative)
    elif rounding == "up":
        away = (rest != 0) & ~negative
    elif rounding == "down":
        away = (rest != 0) & negative
    elif rounding == "to_odd":
        away = (rest != 0) & (odd == 0)
    elif rounding in STOCHASTIC and random is not None:
        away = _stochastic(Fraction(rest, shift), rounding, random, bits)
    else:
        raise ValueError(
            f"rounding {rounding!r} is not one that this function knows (the stochastic ones need `random`)"
        )
    step = away.to(layout.integer)
    inside = shift.clamp(0, fraction)
    # A carry out of the fraction raises the exponent, as it should.
    kept = ((magnitude >> inside) + step) << inside
    return torch.where(shift > fraction, torch.where(away, power_of_two(quantum, layout), 0), kept)
