"""The element casts against ml_dtypes and torch, on all codes and on random and adversarial fp32 patterns.

Where a peer follows its standard the bits are equal. Deviations are stated here, one test each.
"""

import ml_dtypes
import numpy as np
import pytest
from data import adversarial, bits

import dither

# Name in dither, dtype in ml_dtypes, overflow mode that ml_dtypes uses.
PEERS = [
    ("e5m2", ml_dtypes.float8_e5m2, "ieee"),
    ("e4m3", ml_dtypes.float8_e4m3fn, "ieee"),
    ("e3m2", ml_dtypes.float6_e3m2fn, "saturate"),
    ("e2m3", ml_dtypes.float6_e2m3fn, "saturate"),
    ("e2m1", ml_dtypes.float4_e2m1fn, "saturate"),
    ("bf16", ml_dtypes.bfloat16, "ieee"),
    ("fp16", np.float16, "ieee"),
]


def every_fp32_high_half() -> np.ndarray:
    """All 2^16 high halves with three low halves: every exponent, every sign, ties and their neighbours."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    return np.concatenate([high | low for low in (0x0000, 0x0001, 0x8000)]).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize(("name", "dtype", "overflow"), PEERS, ids=[p[0] for p in PEERS])
def test_every_code_decodes_as_ml_dtypes(name, dtype, overflow):
    fmt = dither.formats.get(name)
    unsigned = np.uint8 if fmt.bits <= 8 else np.uint16
    codes = np.arange(1 << fmt.bits).astype(unsigned)
    theirs = codes.view(dtype).astype(np.float32)
    ours = dither.decode(codes, name)
    assert np.array_equal(bits(ours), bits(theirs))
    finite = codes[~np.isnan(ours)]
    assert np.array_equal(
        dither.encode(dither.decode(finite, name), name, overflow="saturate" if not fmt.has_inf else "ieee"),
        finite,
    )


@pytest.mark.parametrize(("name", "dtype", "overflow"), PEERS, ids=[p[0] for p in PEERS])
def test_casts_equal_ml_dtypes(name, dtype, overflow):
    families = {**adversarial(1 << 15), "high halves": every_fp32_high_half()}
    for family, x in families.items():
        if overflow == "saturate":
            # ml_dtypes maps NaN to -0 in the finite-only formats; we keep NaN (see below).
            x = x[~np.isnan(x)]
        with np.errstate(over="ignore", invalid="ignore"):
            theirs = x.astype(dtype).astype(np.float32)
        ours = dither.cast(x, name, overflow=overflow)
        assert np.array_equal(bits(ours), bits(theirs)), family


def test_ml_dtypes_turns_nan_into_minus_zero_in_fp4_and_we_do_not():
    """ml_dtypes 0.5 and 0.6: float4_e2m1fn has no NaN, and its cast returns -0. Ours returns NaN as a value
    and refuses to make a code."""
    x = np.array([np.nan], np.float32)
    assert bits(x.astype(ml_dtypes.float4_e2m1fn).astype(np.float32))[0] == 0x8000_0000
    assert np.isnan(dither.cast(x, "e2m1"))[0]
    with pytest.raises(dither.UserError, match="no code"):
        dither.encode(x, "e2m1")


def test_e8m0_equals_ml_dtypes_on_positive_numbers():
    x = np.abs(adversarial()["patterns"])
    x = x[(x >= 2.0**-126) & (x < 2.0**127)]
    theirs = x.astype(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(dither.cast(x, "e8m0"), theirs)


def test_saturating_casts_follow_ofp8():
    """OFP8 section 5.2: with saturation on, overflow and infinity become the largest finite number."""
    x = np.array([464, 464.1, 500, 1e6, np.inf, -np.inf, np.nan], np.float32)
    e4m3 = dither.cast(x, "e4m3")
    assert list(e4m3[:-1]) == [448, 448, 448, 448, 448, -448] and np.isnan(e4m3[-1])
    x = np.array([61439, 61440, 1e6, np.inf, -np.inf], np.float32)
    assert list(dither.cast(x, "e5m2")) == [57344, 57344, 57344, 57344, -57344]
    assert list(dither.cast(x, "e5m2", overflow="ieee")) == [57344, np.inf, np.inf, np.inf, -np.inf]
    assert list(dither.cast(x, "e5m2", overflow="propagate")) == [57344, 57344, 57344, np.inf, -np.inf]


@pytest.mark.parametrize("name", ["e4m3", "e5m2"])
def test_torch_float8_casts(name):
    """torch 2.12 and later: e4m3fn saturates (infinity too), e5m2 overflows to infinity; equal bits."""
    torch = pytest.importorskip("torch")
    dtype = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}[name]
    overflow = {"e4m3": "saturate", "e5m2": "ieee"}[name]
    if name == "e4m3" and torch.tensor(1e6).to(dtype).float().isnan():
        pytest.skip("torch before 2.12 overflows e4m3fn to NaN")
    for family, x in {**adversarial(1 << 15), "high halves": every_fp32_high_half()}.items():
        theirs = torch.from_numpy(x.copy()).to(dtype).float().numpy()
        assert np.array_equal(bits(dither.cast(x, name, overflow=overflow)), bits(theirs)), family


@pytest.mark.filterwarnings("ignore:.*are not exact in:UserWarning")
@pytest.mark.parametrize(("name", "dtype", "overflow"), PEERS, ids=[p[0] for p in PEERS])
def test_every_half_precision_input_into_every_format(name, dtype, overflow):
    """All 2^16 fp16 and bf16 inputs: the cast of the 16-bit array is the cast of its values, rounded once."""
    for half in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        x = np.arange(1 << 16).astype(np.uint16).view(half)
        with np.errstate(over="ignore", invalid="ignore"):
            wide = x.astype(np.float32)
            expected = dither.cast(wide, name, overflow=overflow).astype(half)
            got = dither.cast(x, name, overflow=overflow)
        assert np.array_equal(bits(got.view(np.uint16).view(half)), bits(expected))


@pytest.mark.parametrize(
    "fmt", ["e5m2", "e4m3", "e3m2", "e2m3", "e2m1", "int8", "int4", "mxint8", "e4m0", "e1m3"]
)
@pytest.mark.parametrize("rounding", ["nearest_even", "nearest_away", "toward_zero", "up", "down"])
def test_modes_against_a_search_in_the_table(fmt, rounding):
    """An independent statement of the five deterministic modes: search the sorted table of values in fp64."""
    f = dither.formats.get(fmt)
    table = np.unique(dither.decode(np.arange(1 << f.bits).astype(np.uint8), fmt).astype(np.float64))
    table = table[np.abs(table) <= f.max]
    mids = (table[1:] + table[:-1]) / 2
    x = np.concatenate(
        [table, mids, np.nextafter(mids.astype(np.float32), np.float32(np.inf)), adversarial()["wide"]]
    )
    x = x.astype(np.float32)
    i = np.clip(np.searchsorted(table, x, side="left"), 1, len(table) - 1)
    lo, hi = table[i - 1], table[i]
    x64 = np.clip(x.astype(np.float64), table[0], table[-1])
    away_is_hi = x64 > 0
    even_lo = dither.encode(lo.astype(np.float32), fmt) % 2 == 0
    if f.mbits == 0:  # every significand is 1: ties go to the larger magnitude
        even_lo = np.where((lo == 0) | (hi == 0), lo == 0, x64 < 0)
    closer_lo, closer_hi = x64 - lo < hi - x64, hi - x64 < x64 - lo
    expected = {
        "nearest_even": np.where(closer_lo | (~closer_hi & even_lo), lo, hi),
        "nearest_away": np.where(closer_lo | (~closer_hi & ~away_is_hi), lo, hi),
        "toward_zero": np.where(away_is_hi, lo, hi),
        "up": hi,
        "down": lo,
    }[rounding]
    expected = np.where(x64 == hi, hi, np.where(x64 == lo, lo, expected))
    assert np.array_equal(dither.cast(x, fmt, rounding=rounding).astype(np.float64), expected)
