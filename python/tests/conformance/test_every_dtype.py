"""Every small float and integer dtype of ml_dtypes 0.6.0 and torch 2.15, code by code and cast by cast.

(The dtypes of OFP8, MX and IEEE have more tests in python/tests/numbers/test_peers.py.)
"""

import ml_dtypes
import numpy as np
import pytest
from data import adversarial, bits

import dither

# Name in dither, dtype in ml_dtypes, overflow mode of its casts.
FLOATS = [
    ("e5m2", ml_dtypes.float8_e5m2, "ieee"),
    ("e4m3", ml_dtypes.float8_e4m3fn, "ieee"),
    ("e4m3_ieee", ml_dtypes.float8_e4m3, "ieee"),
    ("e3m4_ieee", ml_dtypes.float8_e3m4, "ieee"),
    ("e4m3fnuz", ml_dtypes.float8_e4m3fnuz, "ieee"),
    ("e5m2fnuz", ml_dtypes.float8_e5m2fnuz, "ieee"),
    ("e4m3b11fnuz", ml_dtypes.float8_e4m3b11fnuz, "ieee"),
    ("e3m2", ml_dtypes.float6_e3m2fn, "saturate"),
    ("e2m3", ml_dtypes.float6_e2m3fn, "saturate"),
    ("e2m1", ml_dtypes.float4_e2m1fn, "saturate"),
    ("e8m0", ml_dtypes.float8_e8m0fnu, "ieee"),
]


def high_halves() -> np.ndarray:
    """All 2^16 high halves of fp32 with five low halves."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    return np.concatenate([high | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001)]).view(np.float32)


def inputs(name: str) -> np.ndarray:
    x = np.concatenate([high_halves(), *adversarial(1 << 14).values()])
    if name == "e8m0":  # see the tests below
        return x[np.isnan(x) | (x >= 2.0**-126) | (x == -np.inf)]
    return x if dither.formats.get(name).has_nan else x[~np.isnan(x)]


@pytest.mark.parametrize(("name", "dtype", "overflow"), FLOATS, ids=[f[0] for f in FLOATS])
def test_ml_dtypes_floats(name, dtype, overflow):
    codes = np.arange(2 ** dither.formats.get(name).bits, dtype=np.uint8)
    assert np.array_equal(bits(dither.decode(codes, name)), bits(codes.view(dtype).astype(np.float32)))
    x = inputs(name)
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = x.astype(dtype)
        assert np.array_equal(bits(dither.cast(x, name, overflow=overflow)), bits(theirs.astype(np.float32)))
    numbers = np.isfinite(theirs.astype(np.float32))
    ours = dither.encode(x, name, overflow=overflow)
    assert np.array_equal(ours[numbers], theirs.view(np.uint8)[numbers])


# Signed dtypes hold the most negative number too, which symmetric formats leave unused but decode.
INTEGERS = [(name, getattr(ml_dtypes, name)) for name in ("int2", "int4", "uint2", "uint4")]


@pytest.mark.parametrize(("name", "dtype"), INTEGERS, ids=[i[0] for i in INTEGERS])
def test_ml_dtypes_integers(name, dtype):
    fmt = dither.formats.get(name)
    codes = np.arange(2**fmt.bits, dtype=np.uint8)
    values = dither.decode(codes, name)
    assert np.array_equal(values.astype(dtype).astype(np.float32), values)
    assert np.array_equal(np.sort(values), np.arange(float(values.min()), float(values.max()) + 1))
    inside = values[values >= fmt.min]
    assert np.array_equal(dither.cast(inside, name), inside)


def test_int1_is_another_format_in_ml_dtypes():
    """ml_dtypes 0.6.0: int1 is two's complement, {0, -1}. Here it is the sign: {1, -1}."""
    assert list(np.array([0, -1]).astype(ml_dtypes.int1).astype(np.float32)) == [0, -1]
    assert list(dither.decode(np.array([0, 1], np.uint8), "int1")) == [1, -1]
    assert list(dither.cast(np.array([0.3, 0.0, -0.3], np.float32), "int1")) == [1, 1, -1]


def test_the_bottom_of_e8m0_in_ml_dtypes_and_torch():
    """OCP MX section 5.4.1: the smallest E8M0 is 2^-127. Between it and 2^-126 ml_dtypes 0.6.0 and torch 2.15
    round everything up, where nearest is 2^-127 below 1.5 * 2^-127. Of what is not positive ml_dtypes makes
    NaN, and torch drops the sign."""
    torch = pytest.importorskip("torch")
    x = np.array([1.25 * 2.0**-127, 2.0**-130, 0.0, -3.0], np.float32)
    lowest, next_up = 2.0**-127, 2.0**-126
    with np.errstate(invalid="ignore"):
        ml = x.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(ml, [next_up, lowest, np.nan, np.nan], equal_nan=True)
    pt = torch.from_numpy(x).to(torch.float8_e8m0fnu).float().numpy()
    assert np.array_equal(pt, [next_up, lowest, lowest, 4.0], equal_nan=True)
    assert list(dither.cast(x, "e8m0")) == [lowest, lowest, lowest, lowest]
    ieee = dither.cast(x, "e8m0", overflow="ieee")
    assert np.array_equal(ieee, [lowest, np.nan, np.nan, np.nan], equal_nan=True)


TORCH = [
    ("e4m3", "float8_e4m3fn", "saturate"),
    ("e5m2", "float8_e5m2", "ieee"),
    ("e4m3fnuz", "float8_e4m3fnuz", "ieee"),
    ("e5m2fnuz", "float8_e5m2fnuz", "ieee"),
    ("e8m0", "float8_e8m0fnu", "ieee"),
]


@pytest.mark.parametrize(("name", "dtype", "overflow"), TORCH, ids=[t[0] for t in TORCH])
def test_torch_floats(name, dtype, overflow):
    torch = pytest.importorskip("torch")
    dtype = getattr(torch, dtype)
    codes = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(codes).view(dtype).float().numpy()
    assert np.array_equal(bits(dither.decode(codes, name)), bits(theirs))
    x = inputs(name)
    x = x[x != -np.inf] if name == "e8m0" else x
    theirs = torch.from_numpy(x.copy()).to(dtype).float().numpy()
    assert np.array_equal(bits(dither.cast(x, name, overflow=overflow)), bits(theirs))
