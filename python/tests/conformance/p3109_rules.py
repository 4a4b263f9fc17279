"""IEEE P3109's scalar formats and projection, from the rules of the interim report v4.0, in exact fractions.

Written from the report's definitions and from nothing else in this package: values are `Fraction`s,
infinities are the floats, NaN is None. Section numbers are the report's.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor, inf

Value = Fraction | float | None
MODES = ("nearest_even", "nearest_away", "toward_zero", "up", "down", "to_odd")
STOCHASTIC = ("stochastic_a", "stochastic", "stochastic_c")


@dataclass(frozen=True)
class Binary:
    """Binary{K}p{P}{s|u}{e|f}."""

    k: int
    p: int
    signed: bool
    extended: bool

    @property
    def name(self) -> str:
        return f"binary{self.k}p{self.p}{'s' if self.signed else 'u'}{'e' if self.extended else 'f'}"

    @property
    def bias(self) -> int:
        return 2 ** (self.k - self.p - 1) if self.signed else 2 ** (self.k - self.p)

    @property
    def exponent_bits(self) -> int:
        return self.k - self.p + (not self.signed)

    @property
    def nan(self) -> int:
        return 2 ** (self.k - 1) if self.signed else 2**self.k - 1

    @property
    def infinity(self) -> int | None:
        """The code of +Inf: just below where the sign (or the unsigned NaN) begins."""
        return (self.nan - 1) if self.extended else None

    def decode(self, code: int) -> Value:
        """Section 4.7.1."""
        if code == self.nan:
            return None
        if code == self.infinity:
            return inf
        if self.signed and code > self.nan:
            magnitude = self.decode(code - self.nan)
            assert magnitude is not None
            return -magnitude
        exponent, trailing = divmod(code, 2 ** (self.p - 1))
        significand = Fraction(trailing, 2 ** (self.p - 1)) + (exponent > 0)
        return significand * Fraction(2) ** (max(exponent, 1) - self.bias)

    @property
    def largest(self) -> Fraction:
        value = self.decode(self.nan - 1 - self.extended)
        assert isinstance(value, Fraction)
        return value


def formats(widths: range) -> list[Binary]:
    """Every format of these widths: P < K if signed, P <= K if not."""
    return [
        Binary(k, p, signed, extended)
        for k in widths
        for p in range(1, k + 1)
        for signed in (True, False)
        for extended in (True, False)
        if p < k or not signed
    ]


def nearest_integer(x: Fraction) -> int:
    """To nearest, ties to even."""
    whole, rest = floor(x), x - floor(x)
    return whole + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1))


def round_to_precision(fmt: Binary, x: Fraction, mode: str, r: int = 0, n: int = 0) -> Fraction:
    """Section 4.7.4: to P digits, with unbounded exponent above."""
    if x == 0:
        return x
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    quantum = max(exponent, 1 - fmt.bias) - fmt.p + 1
    scaled = size / Fraction(2) ** quantum
    whole = floor(scaled)
    v = scaled - whole
    code_is_even = whole % 2 == 0 if fmt.p > 1 else whole == 0 or (quantum + fmt.bias) % 2 == 0
    half = Fraction(1, 2)
    away = {
        "nearest_even": v > half or (v == half and not code_is_even),
        "nearest_away": v >= half,
        "toward_zero": False,
        "up": v > 0 and x > 0,
        "down": v > 0 and x < 0,
        "to_odd": v > 0 and code_is_even,
        "stochastic_a": floor(v * 2**n) + r >= 2**n,
        "stochastic": floor(v * 2 ** (n + 1)) + 2 * r + 1 >= 2 ** (n + 1),
        "stochastic_c": nearest_integer(v * 2**n) + r >= 2**n,
    }[mode]
    return (whole + away) * Fraction(2) ** quantum * (1 if x > 0 else -1)


def saturate(fmt: Binary, x: Fraction | float, mode: str, saturation: str) -> Value:
    """Section 4.7.5, row by row; `saturation` is SatFinite, SatPropagate or SatNone."""
    high = fmt.largest
    low = -high if fmt.signed else Fraction(0)
    if low <= x <= high:
        return x
    end = high if x > high else low
    infinite = x in (inf, -inf)
    has_infinity = fmt.extended and (x > high or fmt.signed)
    if saturation == "SatFinite":
        return end
    if saturation == "SatPropagate":
        return x if infinite and has_infinity else end
    if infinite:
        return x if has_infinity else None
    if mode == "toward_zero" or mode == ("down" if x > high else "up"):
        return end
    if mode == "to_odd" and x > high and not fmt.signed and fmt.extended:
        return end
    return (inf if x > high else -inf) if has_infinity else None


def project(fmt: Binary, x: Fraction | float, mode: str, saturation: str, r: int = 0, n: int = 0) -> Value:
    """Section 4.7.3."""
    rounded = round_to_precision(fmt, x, mode, r, n) if isinstance(x, Fraction) else x
    return saturate(fmt, rounded, mode, saturation)


def as_float(value: Value) -> float:
    """A value as the fp64 number it is; NaN for None."""
    return float("nan") if value is None else float(value)
