"""Deliberately wrong quantizers are caught and named; documented choices are not called violations."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dither
from dither import conformance
from dither.conformance.findings import Report, summary
from dither.errors import UserError
from dither.quantizer import ROUNDINGS

F32 = np.float32


def judged(**functions: Any) -> Report:
    adapter: Any = SimpleNamespace(__name__="wrong", **functions)
    return conformance.run(adapter)


def names(report: Report, what: str, verdict: Any) -> set[str]:
    return {name for (of, name) in summary(report, verdict) if of == what}


def ours(x: np.ndarray, format: str) -> np.ndarray:
    return dither.cast(x, format)


def our_blocks(x: np.ndarray, preset: str) -> np.ndarray:
    return dither.fake_quant(x, preset)


def test_dither_itself_has_neither_choices_nor_violations():
    def cast(x, format, rounding="nearest_even", overflow=None, random=None, bits=None):
        return dither.cast(x, format, rounding=rounding, overflow=overflow, random=random, bits=bits)

    report = judged(cast=cast, blocks=our_blocks)
    assert report.conforming and not report.not_offered
    assert all(row.equal == row.compared > 0 and not row.findings for row in report.rows)
    assert {row.rounding.partition(",")[0] for row in report.rows} == set(ROUNDINGS)


def no_sign(x, format):
    return ours(x, format) + F32(0)


def away(x, format):
    return dither.cast(x, format, rounding="nearest_away")


def twice(x, format):
    return dither.cast(dither.cast(x, "fp16"), format)


def flushed(x, format):
    y, smallest = ours(x, format), dither.formats.get(format).min_normal
    return np.where(np.abs(y) < smallest, np.copysign(F32(0), y), y)


def truncated(x, format):
    return dither.cast(x, format, rounding="toward_zero")


def no_nan(x, format):
    return np.nan_to_num(ours(x, format), nan=0.0)


def as_integer_steps(x, format):
    return np.where(np.isfinite(x), x, ours(x, format))


@pytest.mark.parametrize(
    ("cast", "name"),
    [
        (no_sign, "the sign of zero is lost"),
        (away, "ties go away from zero"),
        (twice, "rounded twice, first to fp16"),
        (flushed, "subnormals are flushed to zero"),
        (truncated, "truncated instead of rounded"),
        (no_nan, "NaN becomes a number"),
        (as_integer_steps, "not a value of the format"),
    ],
)
def test_wrong_casts_are_named(cast, name):
    report = judged(cast=cast, formats=("e4m3", "e5m2"))
    assert not report.conforming
    for what in ("e4m3", "e5m2"):
        assert name in names(report, what, "violation")
        assert "unexplained" not in names(report, what, "violation")
    if cast in (no_sign, away, flushed, no_nan):
        assert names(report, "e4m3", "violation") == {name}


def test_one_step_off_is_unexplained():
    def cast(x, format):
        return np.where(x == 1, F32(1.125), ours(x, format))

    assert names(judged(cast=cast, formats=("e4m3",)), "e4m3", "violation") == {"unexplained"}


@pytest.mark.parametrize(
    ("overflow", "name"),
    [
        ("ieee", "overflow is not saturated: infinity or NaN (OVF)"),
        ("propagate", "finite overflow saturates, infinity is kept (SatPropagate)"),
    ],
)
def test_overflow_is_a_choice_of_ofp8_and_a_violation_of_ieee_754(overflow, name):
    report = judged(cast=lambda x, format: dither.cast(x, format, overflow=overflow), formats=("e5m2",))
    assert report.conforming and names(report, "e5m2", "choice") == {name}
    report = judged(cast=lambda x, format: dither.cast(x, format, overflow="saturate"), formats=("fp16",))
    assert names(report, "fp16", "violation") == {"overflow saturates"}


def test_what_no_standard_defines_is_never_a_violation():
    report = judged(cast=lambda x, format: ours(x, "e5m3"), formats=("e5m3_114688",))
    assert report.conforming and names(report, "e5m3_114688", "choice")


def mx(x: np.ndarray, element: str, scale: np.ndarray) -> np.ndarray:
    """fp32 arithmetic as libraries do it: divide, round, multiply."""
    with np.errstate(all="ignore"):
        return (dither.cast(x / scale, element, overflow="saturate") * scale).astype(F32)


ELEMENTS = {"mxfp8_e4m3": ("e4m3", 8), "mxfp4": ("e2m1", 2)}


def log2_scale(x, preset):
    """The usual bug: log2 in fp32 is the power itself just below a power of two."""
    element, emax = ELEMENTS[preset]
    good = our_blocks(x, preset)
    amax = np.abs(x).max(axis=-1, keepdims=True)
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log2(amax.astype(F32)).astype(F32))
        y = mx(x, element, np.exp2(exponent - F32(emax)).astype(F32))
    ordinary = np.isfinite(amax) & (amax > 2.0**-100)
    return np.where(ordinary, y, good)


def ties_away(x, preset):
    return dither.fake_quant(x, dither.Quantizer(preset, rounding="nearest_away"))


def unsigned_zero(x, preset):
    return our_blocks(x, preset) + F32(0)


def flushed_blocks(x, preset):
    tiny = np.abs(x).max(axis=-1, keepdims=True) < 2.0**-121
    return np.where(tiny, np.copysign(F32(0), x), our_blocks(x, preset))


def short_scale(x, preset):
    """The scale is clamped to 2^-126 where it is used, and to 2^-127 where it is stored."""
    element, emax = ELEMENTS[preset]
    amax = np.abs(x).max(axis=-1, keepdims=True).astype(np.float64)
    ordinary = np.isfinite(amax) & (amax > 0)
    e = np.frexp(np.where(ordinary, amax, 1.0))[1] - 1 - emax
    z = dither.cast(np.ldexp(x.astype(np.float64), -e.clip(-126)), element, overflow="saturate")
    return np.where(ordinary, np.ldexp(z, e.clip(-127)), our_blocks(x, preset)).astype(F32)


@pytest.mark.parametrize("preset", list(ELEMENTS))
@pytest.mark.parametrize(
    ("blocks", "name"),
    [
        (log2_scale, "the scale is one power of two too large (floor of a rounded log2)"),
        (ties_away, "ties go away from zero"),
        (unsigned_zero, "the sign of zero is lost"),
        (flushed_blocks, "small blocks are flushed to zero"),
        (short_scale, "scale used at 2^-126 but stored as 2^-127"),
    ],
)
def test_wrong_blocks_are_named_and_nothing_else_is_said(blocks, name, preset):
    report = judged(blocks=blocks, presets=(preset,))
    assert names(report, preset, "violation") == {name}
    assert not names(report, preset, "choice")


def test_two_faults_at_once_are_told_apart():
    report = judged(blocks=lambda x, preset: log2_scale(x, preset) + F32(0), presets=("mxfp8_e4m3",))
    assert names(report, "mxfp8_e4m3", "violation") == {
        "the sign of zero is lost",
        "the scale is one power of two too large (floor of a rounded log2)",
    }


@pytest.mark.parametrize("rule", ["ceil", "rceil", "even"])
def test_another_scale_rule_is_one_choice(rule):
    def blocks(x, preset):
        return dither.fake_quant(x, dither.Quantizer(preset, scale_rule=rule))

    report = judged(blocks=blocks, presets=("mxfp8_e4m3", "mxfp4"))
    assert report.conforming
    for preset in ("mxfp8_e4m3", "mxfp4"):
        assert names(report, preset, "choice") == {f"scale rule {rule}"}


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (lambda x, y, odd: np.where(odd, x, y), "only its own element is special"),
        (lambda x, y, odd: np.where(odd, x, F32(0)), "it stays and the others become 0"),
        (lambda x, y, odd: np.zeros_like(x), "the block becomes 0"),
    ],
)
def test_nan_and_infinity_in_a_block_are_left_open(policy, says):
    def blocks(x, preset):
        odd = ~np.isfinite(x)
        rest = our_blocks(np.where(odd, F32(0), x), preset)
        return np.where(odd.any(axis=-1, keepdims=True), policy(x, rest, odd), our_blocks(x, preset))

    report = judged(blocks=blocks, presets=("mxfp4",))
    assert report.conforming
    assert names(report, "mxfp4", "choice") == {
        f"a{who} in the block: {says}" for who in (" NaN", "n infinity")
    }


def test_exceptions_count_as_violations_and_name_the_type():
    def cast(x, format):
        raise OverflowError("too large")

    report = judged(cast=cast, formats=("e4m3",))
    assert names(report, "e4m3", "violation") == {"raises OverflowError"}


def test_what_is_not_offered_is_listed_and_not_judged():
    def cast(x, format):
        if format == "e5m2":
            raise NotImplementedError
        return {"e4m3": ours(x, "e4m3")}[format]

    report = judged(cast=cast)
    assert report.conforming and {row.what for row in report.rows} == {"e4m3"}
    assert {"e5m2", "e2m1", "bf16"} <= set(report.not_offered)


@pytest.mark.parametrize(
    ("functions", "says"),
    [
        ({"cast": lambda x, format: x[:-1]}, "returned shape"),
        ({"cast": lambda x, format: "text"}, "not an array"),
        ({"cast": lambda x, format: {}[format]}, "offers none"),
        ({"blocks": lambda x, preset: {}[preset]}, "offers none"),
    ],
)
def test_adapters_that_cannot_be_judged(functions, says):
    with pytest.raises(UserError, match=says):
        judged(**functions)


def test_an_adapter_may_write_into_its_input():
    def cast(x, format):
        x[...] = ours(x, format)
        return x

    assert judged(cast=cast, formats=("e4m3", "bf16")).conforming
