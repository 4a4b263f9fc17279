"""What the vectors feed to a quantizer: made of the formats' own boundaries, the same on every machine.

Random numbers come from SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): the output number i of a stream is a
fixed function of i, so that the inputs do not depend on the version of a generator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dither.formats import Format
from dither.functions import cast, decode

F32 = np.float32
_MAX = np.finfo(F32).max
NANS = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF], np.uint32).view(F32)


def words(n: int, stream: int) -> np.ndarray:
    """n unsigned 64-bit integers: SplitMix64 seeded with stream * 2**32."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(stream << 32)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(n: int, stream: int) -> np.ndarray:
    """n numbers in [-1, 1), multiples of 2**-23."""
    return ((words(n, stream) >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(F32)


def bell(n: int, stream: int) -> np.ndarray:
    """n numbers of mean 0 and variance 1, the sums of three uniform ones (exact in fp32)."""
    return uniform(3 * n, stream).reshape(3, n).sum(axis=0, dtype=np.float64).astype(F32)


def random_bits(n: int, bits: int, stream: int) -> np.ndarray:
    """n integers below 2**bits; the first four are the ends and the middle."""
    drawn = (words(n, stream) >> np.uint64(64 - bits)).astype(np.uint32)
    ends = [0, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1]
    drawn[: len(ends)] = ends[:n]
    return drawn


def grid(fmt: Format) -> np.ndarray:
    """Every finite value of a format of at most 16 bits as fp64, ascending; -0 is not repeated."""
    width = np.uint8 if fmt.bits <= 8 else np.uint16 if fmt.bits <= 16 else np.uint32
    values = decode(np.arange(2**fmt.bits, dtype=width), fmt).astype(np.float64)
    return np.unique(values[np.isfinite(values) & (np.abs(values) <= fmt.max)])


def _sample(n: int) -> np.ndarray:
    """Which of n points to take: all up to 256, else both ends, the middle, and some in between."""
    if n <= 256:
        return np.arange(n)
    middle = np.arange(n // 2 - 16, n // 2 + 16)
    return np.unique(np.concatenate([np.arange(12), np.arange(n - 12, n), middle, np.arange(0, n, n // 128)]))


def boundaries(fmt: Format) -> np.ndarray:
    """fp32 inputs at which a cast decides: values, ties, the neighbours of ties, the ends, specials."""
    values = grid(fmt)
    pick = _sample(len(values) - 1)
    ties = ((values[pick] + values[pick + 1]) / 2).astype(F32)
    end = fmt.max + (values[-1] - values[-2]) / 2  # the tie with the first value beyond the largest
    with np.errstate(over="ignore"):
        beyond = np.array([2 * fmt.max, 1e6 * fmt.max], np.float64).clip(0, _MAX).astype(F32)
    ties = np.concatenate([ties, np.array([end, -end] if end <= _MAX else [], F32)])
    around = [np.nextafter(ties, F32(end)) for end in (-np.inf, np.inf)]
    small = np.array([0, 1, 2, 0x7FFFFF, 0x800000], np.uint32).view(F32)  # fp32 subnormals and 2^-126
    specials = np.concatenate([small, beyond, [F32(1e6), _MAX, F32(np.inf)]])
    ordinary = (bell(32, 1).astype(np.float64) * (fmt.max / 8)).astype(F32)
    parts = [values[pick].astype(F32), values[-1:].astype(F32), ties, *around, ordinary, specials, -specials]
    return np.concatenate([np.concatenate(parts).astype(F32), NANS])


def halves(x: np.ndarray, word: str) -> np.ndarray:
    """The fp16 or bf16 patterns (uint16) nearest to fp32 numbers, and the patterns next to them."""
    finite = x[np.isfinite(x)]
    if word == "fp16":
        with np.errstate(over="ignore"):
            patterns = finite.astype(np.float16).view(np.uint16)
    else:
        patterns = (cast(finite, "bf16").view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    return np.unique(np.concatenate([patterns - np.uint16(1), patterns, patterns + np.uint16(1)]))


def widen(patterns: np.ndarray, word: str) -> np.ndarray:
    """The fp32 numbers that fp16 or bf16 patterns stand for."""
    if word == "fp16":
        return patterns.view(np.float16).astype(F32)
    return (patterns.astype(np.uint32) << np.uint32(16)).view(F32)


EDGES = (
    "ties",
    "sign_of_zero",
    "near_2^-126",
    "fp32_subnormal",
    "below_2^100",
    "one_nan",
    "one_inf",
    "all_zero",
    "clipped",
    "largest",
    "below_powers_of_two",
)
"""The eleven edge blocks on which implementations part."""

ORDINARY = ("normal", "wide", "significands")
"""Families that tell the scale rule: the last runs through the significands at which the rules part."""


_SIGNIFICANDS = (1.0, 1.25, 1.5, 1.625, 1.75, 1.8125, 1.875, 1.9375, 1.96875, 1.9921875)


def blocks(fmt: Format, size: int) -> dict[str, np.ndarray]:
    """fp32 blocks [rows, size] by family: ordinary ones, and those of EDGES."""
    values = grid(fmt)
    top, mids = values[-1], (values[1:] + values[:-1]) / 2
    below = -fmt.min_positive / 4  # rounds to -0 under the scale 1
    zeros = np.where(words(size, 8) % np.uint64(2) == 1, F32(0), F32(-0.0))
    plain = bell(size, 9)
    power = 2.0**fmt.emax
    exponents = np.arange(-100, 101, 25)

    def one(value: float) -> np.ndarray:
        row = plain.copy()
        row[size // 2] = value
        return row

    families = {
        "normal": bell(16 * size, 2).reshape(16, size),
        "wide": bell(16 * size, 3).reshape(16, size)
        * 2.0 ** (words(16 * size, 4).reshape(16, size) % np.uint64(25)).astype(np.float64),
        "significands": _led([power * s for s in _SIGNIFICANDS], uniform(size, 11) * (power / 2), size),
        "ties": _rows(mids, size, top),
        "sign_of_zero": _led([top], np.array([-0.0, 0.0, below, -below]), size),
        "near_2^-126": 2.0**-126 * np.stack([plain, plain / 4, np.abs(plain) + 1]).astype(np.float64),
        "fp32_subnormal": (words(2 * size, 5) % np.uint64(1 << 16)).reshape(2, size).astype(np.float64)
        * 2.0**-149,
        "below_2^100": _led([np.nextafter(F32(2.0**100), F32(0))], uniform(size, 6) * 2.0**99, size),
        "one_nan": np.stack([one(np.nan), one(-np.nan)]),
        "one_inf": np.stack([one(np.inf), one(-np.inf)]),
        "all_zero": np.stack([zeros, np.zeros(size), np.full(size, -0.0)]),
        "clipped": _led([top * 1.0625, np.nextafter(F32(2 * power), F32(0))], plain * power / 4, size),
        "largest": _led([_MAX, 2.0**127], uniform(size, 7) * 2.0**126, size),
        "below_powers_of_two": np.concatenate(
            [
                _led([np.nextafter(F32(2.0**e), F32(0)), 2.0**e], uniform(size, 10) * 2.0 ** (e - 1), size)
                for e in exponents.astype(float)
            ]
        ),
    }
    return {name: np.asarray(x, np.float64).astype(F32) for name, x in families.items()}


def _rows(values: np.ndarray, size: int, top: float) -> np.ndarray:
    """Up to four blocks of `values`, spread over their range, each led by `top` so that an MX scale is 1."""
    count = min(4, -(-len(values) // (size - 1)))
    pick = np.resize(values[:: max(1, len(values) // (count * (size - 1)))], count * (size - 1))
    rows = pick.reshape(count, size - 1)
    return np.concatenate([np.full((len(rows), 1), top), rows], axis=1)


def _led(leads: Sequence[float | np.floating], rest: np.ndarray, size: int) -> np.ndarray:
    """A block for each lead: the lead, then `rest` repeated."""
    rest = np.resize(rest, size - 1).astype(np.float64)
    return np.stack([np.append(np.float64(lead), rest) for lead in leads])
