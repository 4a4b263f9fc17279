"""Number formats: how one element is stored.

A `Format` is a small frozen record from which everything else is derived. Every format, float or integer, is
one grid: a magnitude `a` is a multiple of `2**(max(floor(log2(a)), emin) - mbits)` and at most `max`. An
n-bit integer is the grid whose values all lie below `2**emin`, where the spacing is constant.

Names: the standards' (`e4m3`, `e5m2`: OCP OFP8; `e3m2`, `e2m3`, `e2m1`, `mxint8`, `e8m0`: OCP MX v1.0;
`fp16`, `fp32`: IEEE 754), `bf16`, `tf32`, `ue5m3` (unsigned, top code NaN), `int8 int4 int3 int2` (symmetric,
step 1), and any `eXmY` with 1 <= X <= 8 and 0 <= Y <= 10: IEEE-like for X >= 5, else finite numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from dither import _core
from dither.errors import UserError, suggest


@dataclass(frozen=True, slots=True)
class Format:
    """One element format. Values are exact Python floats; widths are in bits, exponents are powers of two."""

    name: str
    kind: Literal["float", "int"]
    bits: int
    ebits: int
    mbits: int
    bias: int
    signed: bool
    emin: int
    """Exponent of the smallest normal number."""
    emax: int
    """floor(log2(max)): what the power-of-two scale rules subtract."""
    top_mbits: int
    """Fraction bits in the binade of `max` (fewer than `mbits` for integers)."""
    max: float
    min_positive: float
    has_inf: bool
    has_nan: bool
    has_zero: bool
    has_neg_zero: bool

    @property
    def min_normal(self) -> float | None:
        """The smallest normal number; None for integers, which have none."""
        return 2.0**self.emin if self.kind == "float" else None

    def exact_in(self, other: str | Format) -> bool:
        """Whether every number of this format is one of `other`."""
        o = get(other)
        range_fits = self.max <= o.max and self.min_positive >= o.min_positive
        sign_fits = o.signed >= self.signed and o.has_zero >= self.has_zero
        return range_fits and sign_fits and self.top_mbits <= o.mbits

    def __str__(self) -> str:
        return self.name


def names() -> list[str]:
    """Names of the standard formats. Any other `eXmY` is a format too."""
    return _core.format_names()


@lru_cache(maxsize=256)
def _get(name: str) -> Format:
    info = _core.format_info(name)
    if info is None:
        raise UserError(
            f"unknown format {name!r}{suggest(name, names())}. Known: {', '.join(names())}, "
            "and any eXmY with 1 <= X <= 8 and 0 <= Y <= 10"
        )
    return Format(**info)


def get(name: str | Format) -> Format:
    """The format of that name (a Format is returned unchanged). Raises UserError for an unknown name."""
    if isinstance(name, Format):
        return name
    if not isinstance(name, str):
        raise TypeError(f"a format is named by a string such as 'e4m3', not by {type(name).__name__}")
    return _get(name)
