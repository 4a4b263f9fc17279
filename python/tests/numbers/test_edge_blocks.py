"""The blocks on which MX libraries disagree (none of nine gets all of them right), against exact rational
arithmetic: MXFP8, MXFP6, MXFP4 and MXINT8 under every NaN policy, and the same as integers and NVFP4."""

from fractions import Fraction

import numpy as np
import pytest
import rational
from data import bits

import dither
from dither import Quantizer, UserError

f = np.float32


def ramp(top: float, n: int = 32) -> np.ndarray:
    """Numbers of both signs up to `top`, none of them special."""
    shares = np.linspace(-1, 0.97, n)
    shares[0] = 1.0
    return (shares * top).astype(f)


EDGES = {
    "ties": np.array([4, *(0.25 * k for k in range(-15, 16))], f),
    "signs of zero": np.array([-0.0, 0.0, -1e-9, 1e-9, 1.0, -1.0] * 5, f),
    "all zero": np.array([0.0, -0.0] * 16, f),
    "around 2^-126": ramp(2.0**-126 * 1.7),
    "fp32 subnormal": np.arange(-16, 16).astype(np.int32).astype(f) * f(2.0**-149),
    "below 2^100": np.concatenate([[np.nextafter(f(2.0**100), f(0))], ramp(2.0**99, 31)]).astype(f),
    "a power of two": ramp(2.0**20),
    "near the largest": ramp(float(np.finfo(f).max)),
    "beyond the largest code": np.array([957, 900, -899, 450, 1.9, -1.9, 0.99] * 4, f),
    "one NaN": np.concatenate([[np.nan], ramp(3.0, 31)]).astype(f),
    "one infinity": np.concatenate([ramp(3.0, 31), [np.inf]]).astype(f),
    "infinities and NaN": np.array([np.inf, -np.inf, np.nan, 1.5, -0.0, 0.3] * 5, f),
    "nothing but infinities and NaN": np.array([np.inf, np.nan, -np.inf, 0.0] * 8, f),
}
MX = {"e4m3": "mxfp8_e4m3", "e5m2": "mxfp8_e5m2", "e3m2": "mxfp6_e3m2", "e2m3": "mxfp6_e2m3", "e2m1": "mxfp4"}
MX["mxint8"] = "mxint8"


@pytest.mark.parametrize("policy", ["block", "element", "saturate"])
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("fmt", MX)
def test_mx(fmt, edge, policy):
    x = EDGES[edge]
    got = dither.fake_quant(x, Quantizer(MX[fmt], nan=policy))
    expected = rational.mx(x, fmt, policy)
    assert np.array_equal(bits(got), bits(expected)), (x[bits(got) != bits(expected)][:4], got, expected)


@pytest.mark.parametrize("preset", ["int8_g32", "int4_g32"])
@pytest.mark.parametrize("edge", EDGES)
def test_integers(preset, edge):
    got, expected = dither.fake_quant(EDGES[edge], preset), rational.integers(EDGES[edge], preset[:4])
    assert np.array_equal(bits(got + f(0)), bits(expected + f(0))), (got, expected)


@pytest.mark.parametrize("edge", [name for name, x in EDGES.items() if np.isfinite(x).all()])
def test_nvfp4(edge):
    x = EDGES[edge][: len(EDGES[edge]) // 2 * 2]
    peak = Fraction(float(np.abs(x).max()))
    blocks = [rational.nvfp4(x[i : i + 16], peak) for i in range(0, len(x), 16)]
    got, expected = dither.fake_quant(x, "nvfp4"), np.concatenate(blocks)
    assert np.array_equal(bits(got), bits(expected)), (got, expected)


@pytest.mark.parametrize("preset", ["nvfp4", "int8_g32", "fp8_1x128"])
def test_nan_policies_under_other_scales(preset):
    """The finite elements come out as they do with zeros in place of the others."""
    q = Quantizer(preset)
    for edge in ("one NaN", "one infinity", "infinities and NaN"):
        x = EDGES[edge]
        bad = ~np.isfinite(x)
        clean = dither.fake_quant(np.where(bad, f(0), x), q)
        assert np.isnan(dither.fake_quant(x, q)).all()
        element = dither.fake_quant(x, q.replace(nan="element"))
        assert np.array_equal(element[~bad], clean[~bad]) and np.isnan(element[bad]).all()
        saturated = dither.fake_quant(x, q.replace(nan="saturate"))
        top = np.nanmax(np.where(np.isinf(x), np.abs(saturated), np.nan)) if np.isinf(x).any() else 0
        assert np.array_equal(saturated[~bad], clean[~bad])
        assert np.array_equal(saturated[np.isinf(x)], np.copysign(top, x[np.isinf(x)]))
        if q.format.has_nan:
            assert np.isnan(saturated[np.isnan(x)]).all()
        else:
            assert np.isfinite(saturated).all()


def test_a_nan_policy_other_than_block_keeps_a_tensor_scale_finite():
    x = np.ones(96, f)
    x[40] = np.nan
    y = dither.fake_quant(x, "nvfp4:nan=element")
    assert np.isnan(y[40]) and np.array_equal(np.delete(y, 40), dither.fake_quant(np.ones(95, f), "nvfp4"))


def test_zero_scales_change_no_value():
    x = np.concatenate([np.zeros(32, f), -np.zeros(32, f), np.ones(64, f)])
    for preset in ("mxfp4", "nvfp4", "int4_g32", "fp8_1x128"):
        q = Quantizer(preset, block=32 if preset != "nvfp4" else 16)
        for choice in ("smallest", "one"):
            got = dither.fake_quant(x, q.replace(zero_scale=choice))
            assert np.array_equal(bits(got), bits(dither.fake_quant(x, q))), (preset, choice)


def test_neighbours_under_a_policy():
    x = EDGES["one NaN"]
    lo, hi = dither.neighbours(x, "mxfp4:nan=element")
    assert np.isnan(lo[0]) and np.isnan(hi[0]) and (lo[1:] <= x[1:]).all() and (x[1:] <= hi[1:]).all()
    with pytest.raises(UserError, match="unknown nan policy"):
        Quantizer("mxfp4", nan="ignore")
