"""Number formats: how one element is stored.

A `Format` is a small frozen record from which everything else is derived. Every float and integer format is
one grid: a magnitude `a` is a multiple of `2**(max(floor(log2(a)), emin) - mbits)`, between `min` and `max`
with its sign. An n-bit integer is the grid whose values all lie below `2**emin`, where the spacing is
constant. What has no grid is a codebook: a table of values.

Names: `names()` lists the catalogue. Beside it there are

- any `eXmY` with 1 <= X <= 8 and 0 <= Y <= 10: IEEE-like for X >= 5, else finite numbers only;
- IEEE P3109's `binary{K}p{P}{s|u}{e|f}` (report v4.0): 3 <= K <= 16 bits, precision 1 <= P <= K (< K if
  signed), extended (with infinity) or finite. The 50 with more than 11 exponent bits go beyond fp64: any
  array can be cast to them and encoded, but decoded only where fp64 holds the values (`value` is exact);
- `codebook_V0_V1_...`, which `codebook([V0, V1, ...])` makes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np

from dither import _core
from dither.errors import UserError, suggest


@dataclass(frozen=True, slots=True)
class Format:
    """One element format. Values are exact Python floats; widths are in bits, exponents are powers of two."""

    name: str
    kind: Literal["float", "int", "codebook"]
    bits: int
    ebits: int
    mbits: int
    bias: int
    signed: bool
    emin: int
    """Exponent of the smallest normal number (of the smallest entry of a codebook)."""
    emax: int
    """floor(log2(max)): what the power-of-two scale rules subtract."""
    top_mbits: int
    """Fraction bits in the binade of `max` (fewer than `mbits` for integers)."""
    max: float
    """The largest number; infinite where fp64 does not hold it."""
    min: float
    """Smallest finite value: -max, but 0 or more for unsigned formats, and its own for full two's complement
    and codebooks."""
    max_code: int
    """The code of `max`."""
    min_positive: float
    """0 where fp64 does not hold it."""
    has_inf: bool
    has_nan: bool
    has_zero: bool
    has_neg_zero: bool
    one_nan: bool
    """P3109's conventions: one NaN, no negative zero, and even codes where there are no fraction bits."""

    @property
    def min_normal(self) -> float | None:
        """The smallest normal number; None for integers and codebooks, which have none."""
        return 2.0**self.emin if self.kind == "float" else None

    @property
    def exceeds_fp64(self) -> bool:
        """Whether the exponents go beyond fp64's (P3109's formats with more than 11 exponent bits)."""
        return math.isinf(self.max)

    def value(self, code: int) -> Fraction | float:
        """What a code stands for, exactly, in any format: a fraction, or infinity or NaN as a float.

        Raises UserError for an integer that is no code of the format.
        """
        if isinstance(code, bool) or not hasattr(code, "__index__"):
            raise TypeError(f"a code is an integer, not {code!r}")
        if not 0 <= (code := code.__index__()) < 2**self.bits:
            raise UserError(f"codes of {self.name} are integers from 0 to {2**self.bits - 1}, not {code}")
        found = _core.format_value(self.name, code)
        assert found is not None
        significand, exponent = found
        return int(significand) * Fraction(2) ** exponent if math.isfinite(significand) else significand

    def exact_in(self, other: str | Format) -> bool:
        """Whether every number of this format is one of `other`."""
        o = get(other)
        range_fits = o.min <= self.min and self.max <= o.max
        if self.exceeds_fp64 and o.exceeds_fp64:
            range_fits = o.signed >= self.signed and self.value(self.max_code) <= o.value(o.max_code)
        digits_fit = self.top_mbits <= o.mbits and self.emin - self.mbits >= o.emin - o.mbits
        return range_fits and digits_fit and o.has_zero >= self.has_zero

    def __hash__(self) -> int:
        return hash(self.name)  # which decides everything else

    def __str__(self) -> str:
        return self.name


def names() -> list[str]:
    """Names of the catalogue, standard by standard. Others can be made: see the head of this module."""
    return _core.format_names()


@lru_cache(maxsize=1024)
def _get(name: str) -> Format:
    info = _core.format_info(name)
    if info is None:
        raise UserError(
            f"unknown format {name!r}{suggest(name, names())}. Known: {', '.join(names())}, "
            "any eXmY with 1 <= X <= 8 and 0 <= Y <= 10, P3109's binaryKpP[su][ef] with 3 <= K <= 16, and "
            "tables made by dither.formats.codebook"
        )
    return Format(**info)


def is_name(name: str) -> bool:
    """Whether a format has that name."""
    return _core.format_info(name) is not None


def get(name: str | Format) -> Format:
    """The format of that name (a Format is returned unchanged). Raises UserError for an unknown name."""
    if isinstance(name, Format):
        return name
    if not isinstance(name, str):
        raise TypeError(f"a format is named by a string such as 'e4m3', not by {type(name).__name__}")
    return _get(name)


def codebook(values: Iterable[float]) -> Format:
    """A format of its own table: the value of every code, 2 to 256 different numbers, one of them positive.

    Values are taken as fp32 numbers. The name carries the table, so the print of a quantizer stays a full
    description. A block's scale maps its absmax to the largest value. Raises UserError for what is no table.
    """
    try:
        given = [float(v) for v in values]
    except (TypeError, ValueError) as error:
        raise UserError(f"a codebook is made of numbers, such as [-1, 0, 1]: {error}") from None
    with np.errstate(over="ignore"):
        listed = [float(np.float32(v)) for v in given]
    name = "codebook_" + "_".join(map(repr, listed))
    if (info := _core.format_info(name)) is None:
        raise UserError(
            "a codebook holds 2 to 256 different finite fp32 numbers, at least one of them positive, all "
            "multiples of one power of two below 2**56 times it; not "
            + (str(given) if len(given) <= 16 else f"these {len(given)} values")
        )
    return get(info["name"])
