"""Casts against pychop 0.6.2, which implements P3109 apart from gfloat, with ToOdd and all three saturation
modes."""

import numpy as np
import pytest

import dither

pychop = pytest.importorskip("pychop.p3109")

MODES = {
    "nearest_even": "nearest_even",
    "nearest_away": "nearest_away",
    "toward_zero": "toward_zero",
    "up": "toward_positive",
    "down": "toward_negative",
    "to_odd": "to_odd",
}
STOCHASTIC = {"stochastic_a": "stochastic_a", "stochastic": "stochastic_b", "stochastic_c": "stochastic_c"}
SATURATIONS = {"saturate": "finite", "propagate": "propagate", "ieee": "none"}
FORMATS = [
    f"binary{k}p{p}{s}{d}"
    for k in (3, 4, 5, 8, 12, 16)
    for p in {1, 2, 3, k - 1, k}
    for s in "su"
    for d in "ef"
    if p + (s == "s") <= k and k - p + (s == "u") <= 10
]


def peer(name: str):
    k, _, rest = name.removeprefix("binary").partition("p")
    domain = {"e": "extended", "f": "finite"}[name[-1]]
    return pychop.P3109Format(int(k), int(rest[:-2]), name[-2] == "s", domain)


def probes(name: str) -> np.ndarray:
    fmt = dither.formats.get(name)
    rng = np.random.default_rng(fmt.bits)
    codes = rng.integers(0, 2**fmt.bits, 200, dtype=np.uint16)
    grid = dither.decode(codes, name).astype(np.float64)
    grid = np.unique(grid[np.isfinite(grid)])
    between = (grid[1:] + grid[:-1]) / 2
    wide = rng.standard_normal(200) * 2.0 ** rng.integers(fmt.emin - 6, fmt.emax + 2, 200)
    x = np.concatenate([grid, between, wide, [0.0, fmt.max, fmt.max * 1.25, np.inf]])
    x = np.concatenate([x, x * (1 - 2.0**-40), x * (1 + 2.0**-40)])
    return np.concatenate([x, -x])


@pytest.mark.parametrize("name", FORMATS)
def test_p3109(name):
    fmt, x = peer(name), probes(name)
    codes = np.arange(2**fmt.k)
    values = dither.decode(codes, name).astype(np.float64)
    assert np.array_equal(values, pychop.p3109_decode(codes, fmt), equal_nan=True)
    for overflow, saturation in SATURATIONS.items():
        for ours, theirs in MODES.items():
            # pychop lacks ToOdd's own row of the table, see below.
            inside = np.abs(x) <= dither.formats.get(name).max
            seen = x[inside] if (ours, overflow, name[-2:]) == ("to_odd", "ieee", "ue") else x
            got = dither.cast(seen, name, rounding=ours, overflow=overflow)
            expected = pychop.p3109_quantize(seen, fmt, rounding=theirs, saturate=saturation)
            assert np.array_equal(got, expected, equal_nan=True), (ours, overflow)
        for ours, theirs in STOCHASTIC.items():
            for bits in (1, 5, 8, 32):
                r = np.random.default_rng(bits).integers(0, 2**bits, x.shape)
                got = dither.cast(x, name, rounding=ours, bits=bits, random=r, overflow=overflow)
                expected = pychop.p3109_quantize(
                    x, fmt, rounding=theirs, saturate=saturation, srbits=r, srnumbits=bits
                )
                assert np.array_equal(got, expected, equal_nan=True), (ours, overflow, bits)


def test_pychop_has_no_row_for_to_odd():
    """P3109 section 4.7.5, SatNone: in an unsigned extended format ToOdd stops at the largest number, whose
    code is odd; pychop 0.6.2 gives infinity there."""
    x = np.array([1e6])
    expected = pychop.p3109_quantize(x, peer("binary8p4ue"), rounding="to_odd", saturate="none")
    assert np.isinf(expected)[0]
    assert dither.cast(x, "binary8p4ue", rounding="to_odd", overflow="ieee")[0] == 53248
