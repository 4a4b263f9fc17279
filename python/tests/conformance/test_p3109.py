"""P3109's formats: value tables and projection against the rules of the report, in exact fractions."""

from fractions import Fraction
from itertools import pairwise
from math import inf

import numpy as np
import pytest
from p3109_rules import MODES, STOCHASTIC, Binary, Value, as_float, formats, project

import dither

SATURATIONS = {"saturate": "SatFinite", "propagate": "SatPropagate", "ieee": "SatNone"}


def check_value_table(fmt: Binary) -> None:
    codes = np.arange(2**fmt.k, dtype=np.uint8 if fmt.k <= 8 else np.uint16)
    expected = [as_float(fmt.decode(int(code))) for code in codes]
    values = dither.decode(codes, fmt.name)
    assert np.array_equal(values.astype(np.float64), expected, equal_nan=True)
    assert np.array_equal(dither.encode(values, fmt.name, overflow="ieee"), codes)
    info = dither.formats.get(fmt.name)
    finite = [v for v in expected if np.isfinite(v)]
    assert (info.max, info.min, info.bits, info.bias) == (max(finite), min(finite), fmt.k, fmt.bias)
    assert (info.has_inf, info.has_nan, info.has_neg_zero) == (fmt.extended, True, False)


def test_value_tables_up_to_8_bits():
    for fmt in formats(range(3, 9)):
        check_value_table(fmt)


@pytest.mark.slow
def test_value_tables_up_to_16_bits():
    held = [fmt for fmt in formats(range(9, 17)) if fmt.exponent_bits <= 11]
    assert len(held) == 454 - len(formats(range(3, 9)))
    for fmt in held:
        check_value_table(fmt)


BEYOND = [fmt for fmt in formats(range(3, 17)) if fmt.exponent_bits > 11]
"""Of the 504 formats those with more exponent bits than fp64, whose numbers are compared as fractions."""


def exact(value: Value) -> Value | str:
    """To be compared: NaN equals itself."""
    return "NaN" if value is None or value != value else value


def nearest(value: Fraction | float) -> float:
    """In fp64; infinite beyond it."""
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


def test_there_are_50_formats_beyond_fp64():
    assert (len(formats(range(3, 17))), len(BEYOND)) == (504, 50)
    assert [fmt for fmt in formats(range(3, 17)) if dither.formats.get(fmt.name).exceeds_fp64] == BEYOND


@pytest.mark.parametrize("fmt", BEYOND, ids=lambda f: f.name)
def test_values_beyond_fp64(fmt):
    """Codes at the ends of the format and of fp64, around 1, and spread over all."""
    info = dither.formats.get(fmt.name)
    powers = [(e + fmt.bias) << (fmt.p - 1) for e in (-1074, -1022, 0, 1023, 1024)]
    near = {c + d for c in [0, fmt.nan, *powers] for d in range(-9, 10)} | set(range(0, 2**fmt.k, 977))
    for code in sorted(code for code in near if 0 <= code < 2**fmt.k):
        value, array = fmt.decode(code), np.array([code], np.uint16)
        assert exact(info.value(code)) == exact(value), hex(code)
        if value is None or nearest(value) == value:
            got = dither.decode(array, fmt.name)
            assert exact(got[0]) == exact(value) and dither.encode(got, fmt.name, overflow="ieee") == code
        else:
            with pytest.raises(dither.UserError, match="beyond float64"):
                dither.decode(array, fmt.name)
    assert (info.max, info.bits, info.bias, info.has_inf) == (inf, fmt.k, fmt.bias, fmt.extended)
    assert 2**info.emax <= fmt.largest < 2 ** (info.emax + 1)


@pytest.mark.parametrize("fmt", BEYOND[::9], ids=lambda f: f.name)
def test_projection_beyond_fp64(fmt):
    """All modes and saturations, from all over fp64's range: codes against the rules, in exact fractions."""
    info = dither.formats.get(fmt.name)
    significands = [Fraction(n, 64) for n in (64, 67, 68, 72, 76, 97, 104, 127)]
    sizes = [s * Fraction(2) ** e for e in (-1068, -1, 0, 1023) for s in significands]
    ends = [Fraction(0), Fraction(2) ** -1074, Fraction(float(np.finfo(np.float64).max))]
    points: list[Fraction | float] = [sign * p for p in [*sizes, *ends] for sign in (1, -1)]
    points += [inf, -inf]
    x = np.array([float(p) for p in points])
    for overflow, saturation in SATURATIONS.items():
        for mode in MODES + STOCHASTIC:
            for r in range(4) if mode in STOCHASTIC else [0]:
                given = {"bits": 2, "random": np.full(x.shape, r)} if mode in STOCHASTIC else {}
                codes = dither.encode(x, fmt.name, rounding=mode, overflow=overflow, **given)
                for p, code in zip(points, codes, strict=True):
                    expected = project(fmt, p, mode, saturation, r, 2)
                    assert exact(info.value(int(code))) == exact(expected), (float(p), mode, overflow, r)
                values = dither.cast(x, fmt.name, rounding=mode, overflow=overflow, **given)
                assert np.array_equal(values, [nearest(info.value(int(c))) for c in codes], equal_nan=True)


def test_a_scale_has_no_use_beyond_fp64():
    with pytest.raises(dither.UserError, match="beyond float64"):
        dither.Quantizer(format="binary16p4se", block=32)
    with pytest.raises(dither.UserError, match="0 to 65535"):
        dither.formats.get("binary16p4se").value(1 << 16)


def probes(fmt: Binary) -> list[Fraction | float]:
    """Around every interval of a small format: its ends, middle, quarters, and points just beside them."""
    finite = [fmt.decode(code) for code in range(2**fmt.k)]
    grid = sorted(v for v in finite if isinstance(v, Fraction))
    top = grid[-1] + (grid[-1] - grid[-2])  # where overflow begins, and beyond
    grid = [*grid, top, 2 * top, -top] if fmt.signed else [*grid, top, 2 * top, -grid[1]]
    found: set[Fraction | float] = {inf, -inf}
    grid.sort()
    for low, high in pairwise(grid):
        for part in (0, 1, 2, 3, 4, 5, 7, 8):
            point = low + (high - low) * Fraction(part, 8)
            found |= {point, point + (high - low) / 2**20, point - (high - low) / 2**20}
    return sorted(found)


def check_projection(fmt: Binary, bits: int) -> None:
    points = probes(fmt)
    x = np.array([as_float(p) for p in points])
    assert all(Fraction(float(v)) == p for v, p in zip(x, points, strict=True) if isinstance(p, Fraction))
    for overflow, saturation in SATURATIONS.items():
        for mode in MODES:
            expected = [as_float(project(fmt, p, mode, saturation)) for p in points]
            got = dither.cast(x, fmt.name, rounding=mode, overflow=overflow)
            assert np.array_equal(got, expected, equal_nan=True), (fmt.name, mode, overflow)
        for mode in STOCHASTIC:
            for r in range(2**bits):
                expected = [as_float(project(fmt, p, mode, saturation, r, bits)) for p in points]
                given = np.full(x.shape, r)
                got = dither.cast(x, fmt.name, rounding=mode, bits=bits, random=given, overflow=overflow)
                assert np.array_equal(got, expected, equal_nan=True), (fmt.name, mode, overflow, r)


@pytest.mark.parametrize("fmt", [*formats(range(3, 4)), Binary(4, 2, True, False)], ids=lambda f: f.name)
def test_projection_of_small_formats(fmt):
    """Every format of 3 bits, all modes and saturations, every value of two random bits."""
    check_projection(fmt, 2)


@pytest.mark.slow
@pytest.mark.parametrize("fmt", formats(range(4, 7)), ids=lambda f: f.name)
def test_projection_of_larger_formats(fmt):
    check_projection(fmt, 3)


REQUIRED = ["binary8p4se", "binary8p3se", "binary4p2sf", "binary8p1uf"]


@pytest.mark.slow
@pytest.mark.parametrize("fmt", [f for f in formats(range(3, 9)) if f.name in REQUIRED], ids=lambda f: f.name)
def test_projection_of_the_required_formats(fmt):
    check_projection(fmt, 1)


def test_the_values_that_tell_p3109_from_ofp8():
    """Binary8p4se is not E4M3: largest 224, NaN only at 0x80, infinities at 0x7f and 0xff, no -0."""
    assert dither.formats.get("binary8p4se").max == 224 and dither.formats.get("e4m3").max == 448
    code = np.array([0x7F, 0x80, 0xFF, 0x7E], np.uint8)
    assert np.array_equal(dither.decode(code, "binary8p4se"), [np.inf, np.nan, -np.inf, 224], equal_nan=True)
    zero = dither.cast(np.array([-0.0, -1e-9], np.float32), "binary8p4se")
    assert not np.signbit(zero).any()
