"""Casts against gfloat 0.5.2, which implements P3109's formats and rounding in array operations.

Of its stochastic modes, StochasticFastest is P3109's StochasticA, StochasticFast is B and Stochastic is C.
"""

import numpy as np
import pytest

import dither

gfloat = pytest.importorskip("gfloat")
from gfloat import RoundMode  # noqa: E402
from gfloat import formats as gf  # noqa: E402

P3109 = {
    f"binary{k}p{p}{s}{d}": gf.format_info_p3109(
        k,
        p,
        gfloat.types.Signedness.Signed if s == "s" else gfloat.types.Signedness.Unsigned,
        gfloat.types.Domain.Extended if d == "e" else gfloat.types.Domain.Finite,
    )
    for k in (3, 4, 6, 8, 11)
    for p in range(1, k + 1)
    for s in "su"
    for d in "ef"
    if p + (s == "s") <= k and k - p <= 8
}
OCP = {
    "e5m2": gf.format_info_ocp_e5m2,
    "e4m3": gf.format_info_ocp_e4m3,
    "e3m2": gf.format_info_ocp_e3m2,
    "e2m3": gf.format_info_ocp_e2m3,
    "e2m1": gf.format_info_ocp_e2m1,
    "mxint8_full": gf.format_info_ocp_int8,
    "bf16": gf.format_info_bfloat16,
    "fp16": gf.format_info_binary16,
}
MODES = {
    "nearest_even": RoundMode.TiesToEven,
    "nearest_away": RoundMode.TiesToAway,
    "toward_zero": RoundMode.TowardZero,
    "up": RoundMode.TowardPositive,
    "down": RoundMode.TowardNegative,
}
STOCHASTIC = {
    "stochastic_a": RoundMode.StochasticFastest,
    "stochastic": RoundMode.StochasticFast,
    "stochastic_c": RoundMode.Stochastic,
}


def probes(name: str) -> np.ndarray:
    """fp64 numbers on, between and beside the values of a format, and wide ones.

    "Beside" is 2^-30 of the number away, so that the sums that gfloat forms are exact (see below).
    """
    fmt = dither.formats.get(name)
    rng = np.random.default_rng(fmt.bits)
    grid = dither.decode(rng.integers(0, 2**fmt.bits, 300, dtype=np.uint16), name).astype(np.float64)
    grid = np.unique(np.append(grid[np.isfinite(grid)], [fmt.max, fmt.max / 2]))
    wide = rng.standard_normal(300).astype(np.float32) * 2.0 ** rng.integers(fmt.emin - 6, fmt.emax + 2, 300)
    x = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, [fmt.max * 1.25]])
    x = np.concatenate([x, x * (1 - 2.0**-30), x * (1 + 2.0**-30), wide, [0.0, np.inf]])
    return np.concatenate([x, -x]) if fmt.signed else np.abs(x)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(
        np.signbit(a[a == 0]), np.signbit(b[b == 0])
    )


def check(name: str, info, overflow: str, x: np.ndarray) -> None:
    saturates = overflow == "saturate"
    for rounding, mode in MODES.items():
        got = dither.cast(x, name, rounding=rounding, overflow=overflow)
        assert same(got, gfloat.round_ndarray(info, x, mode, saturates)), (name, rounding)
    for rounding, mode in STOCHASTIC.items():
        for bits in (1, 3, 8, 20, 32):
            r = np.random.default_rng(bits).integers(0, 2**bits, x.shape)
            got = dither.cast(x, name, rounding=rounding, bits=bits, random=r, overflow=overflow)
            theirs = gfloat.round_ndarray(info, x, mode, saturates, srbits=r, srnumbits=bits)
            assert same(got, theirs), (name, rounding, bits)


@pytest.mark.parametrize("name", P3109)
def test_p3109(name):
    for overflow in ("saturate", "ieee"):
        check(name, P3109[name], overflow, probes(name))
    codes = np.arange(2 ** dither.formats.get(name).bits)
    theirs = gfloat.decode_ndarray(P3109[name], codes)
    assert np.array_equal(dither.decode(codes, name).astype(np.float64), theirs, equal_nan=True)


@pytest.mark.parametrize("name", OCP)
def test_ocp_and_ieee(name):
    fmt = dither.formats.get(name)
    for overflow in ("saturate", "ieee") if fmt.has_nan else ("saturate",):
        check(name, OCP[name], overflow, probes(name))
    codes = np.arange(2**fmt.bits)
    theirs = gfloat.decode_ndarray(OCP[name], codes)
    assert np.array_equal(dither.decode(codes, name).astype(np.float64), theirs, equal_nan=True)


def test_gfloat_adds_random_bits_in_floating_point():
    """gfloat 0.5.2 compares v + R 2^-N with 1 in the input's precision: just below, the sum rounds up to 1.
    P3109 section 4.7.4 has floor(v 2^N) + R >= 2^N, in integers."""
    x, r = np.array([np.nextafter(0.25, 0)]), np.array([1])  # half of the smallest value, less a little
    name = "binary3p1se"
    theirs = gfloat.round_ndarray(P3109[name], x, RoundMode.StochasticFastest, True, srbits=r, srnumbits=1)
    assert theirs[0] == 0.5
    assert dither.cast(x, name, rounding="stochastic_a", bits=1, random=r)[0] == 0


def test_gfloat_leaves_negative_numbers_in_unsigned_formats():
    """gfloat 0.5.2: below the range of an unsigned format it rounds on; P3109 section 4.7.5 gives the lowest
    value (SatFinite) or NaN (SatNone)."""
    x, name = np.array([-3.0]), "binary8p4uf"
    assert gfloat.round_ndarray(P3109[name], x, RoundMode.TiesToEven, True)[0] == -3
    assert dither.cast(x, name)[0] == 0 and np.isnan(dither.cast(x, name, overflow="ieee")[0])


def test_gfloat_rounds_ties_of_e8m0_to_even_exponents():
    """gfloat 0.5.2 applies P3109's rule for one digit to OCP's E8M0 too; OCP leaves it open, and torch and
    ml_dtypes go to the larger power of two, as we do."""
    x = np.array([1.5, 3.0, 6.0])
    assert list(gfloat.round_ndarray(gf.format_info_ocp_e8m0, x)) != [2, 4, 8]
    assert list(dither.cast(x, "e8m0")) == [2, 4, 8]
    codes = np.arange(256)
    theirs = gfloat.decode_ndarray(gf.format_info_ocp_e8m0, codes)
    assert np.array_equal(dither.decode(codes, "e8m0"), theirs, equal_nan=True)
