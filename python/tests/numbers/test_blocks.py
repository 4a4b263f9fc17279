"""Block scaling against independent numpy + ml_dtypes recipes, and the blocks where libraries disagree."""

import ml_dtypes
import numpy as np
import pytest
from data import adversarial, bits

import dither

ELEMENTS = {
    "e4m3": (ml_dtypes.float8_e4m3fn, 8, 448.0),
    "e5m2": (ml_dtypes.float8_e5m2, 15, 57344.0),
    "e3m2": (ml_dtypes.float6_e3m2fn, 4, 28.0),
    "e2m3": (ml_dtypes.float6_e2m3fn, 2, 7.5),
    "e2m1": (ml_dtypes.float4_e2m1fn, 2, 6.0),
}


def split(x: np.ndarray, block: int) -> np.ndarray:
    """[n] -> [blocks, block], padded with zeros."""
    pad = -len(x) % block
    return np.concatenate([x, np.zeros(pad, x.dtype)]).reshape(-1, block)


def mx_reference(x: np.ndarray, fmt: str, rule: str, block: int = 32) -> np.ndarray:
    """OCP MX v1.0 section 6.3 in fp64, where every step is exact; rounding by ml_dtypes."""
    dtype, emax, top = ELEMENTS[fmt]
    b = split(x.astype(np.float64), block)
    amax = np.abs(b).max(axis=1, keepdims=True)
    significand, exponent = np.frexp(np.where(amax > 0, amax, 1.0))  # amax = significand * 2^exponent
    floor = exponent - 1
    shift = {
        "floor": floor,
        "ceil": np.where(significand == 0.5, floor, floor + 1),
        "rceil": np.where(significand * 2 > top / 2.0**emax, floor + 1, floor),
    }[rule] - emax
    scale = 2.0 ** np.clip(shift, -127, 127)
    with np.errstate(over="ignore"):
        rounded = np.clip(b / scale, -top, top).astype(np.float32).astype(dtype).astype(np.float64)
        return (rounded * scale).astype(np.float32).reshape(-1)[: len(x)]


@pytest.mark.parametrize("rule", ["floor", "ceil", "rceil"])
@pytest.mark.parametrize("fmt", list(ELEMENTS))
def test_mx_formats_equal_the_recipe(fmt, rule):
    for family, x in adversarial(4100).items():
        if family in ("subnormal", "near 2^-126"):
            continue  # x / scale is not exact in the reference's fp32 step there; see the exact test below
        q = dither.Quantizer(format=fmt, block=32, scale_format="e8m0", scale_rule=rule)
        assert np.array_equal(bits(dither.fake_quant(x, q)), bits(mx_reference(x, fmt, rule))), family


def test_tiny_blocks_scale_like_large_ones():
    """Around 2^-126 and below, the result is that of the block times 2^104, scaled back exactly."""
    rng = np.random.default_rng(3)
    big = rng.standard_normal((50, 32)) * 2.0 ** rng.integers(-24, -14, (50, 32))
    big[:, 0] = 2.0**-14  # so that the scale stays above E8M0's smallest, 2^-127
    for preset in ("mxfp8_e4m3", "mxfp4", "mxfp6_e2m3"):
        x = (big * 2.0**-104).astype(np.float32)  # absmax 2^-118; many elements are fp32 subnormals
        assert (np.abs(x) < 2.0**-126).mean() > 0.2
        expected = dither.fake_quant(x.astype(np.float64) * 2.0**104, preset) * 2.0**-104
        assert np.array_equal(dither.fake_quant(x, preset), expected.astype(np.float32))


def te_reference(x: np.ndarray) -> np.ndarray:
    """NVFP4 in Transformer Engine's order (the reference of its Python tests), by rule, not executed."""
    f = np.float32
    amax = np.abs(x).max()
    with np.errstate(over="ignore"):
        encode = min(f(448 * 6) / amax, np.finfo(f).max) if amax > 0 else f(1)
    decode, multiplier = f(1) / encode, encode * (f(1) / f(6))
    b = split(x, 16)
    s = np.minimum(np.abs(b).max(axis=1, keepdims=True) * multiplier, f(448)).astype(ml_dtypes.float8_e4m3fn)
    t = s.astype(f) * decode
    with np.errstate(divide="ignore", over="ignore"):
        z = np.clip(b * np.minimum(f(1) / t, np.finfo(f).max), -6, 6).astype(ml_dtypes.float4_e2m1fn)
        return (z.astype(f) * t).reshape(-1)[: len(x)]


@pytest.mark.parametrize("family", ["normal", "wide", "ties", "zeros", "near 2^-126"])
def test_nvfp4_equals_the_recipe(family):
    x = adversarial(4100)[family]
    assert np.array_equal(dither.fake_quant(x, "nvfp4"), te_reference(x))


@pytest.mark.parametrize("preset", ["int8_g128", "int4_g32", "int3_row", "int2_tensor"])
def test_integers_equal_the_recipe(preset):
    top = {"int8": 127, "int4": 7, "int3": 3, "int2": 1}[preset[:4]]
    for family in ("normal", "wide", "ties"):
        x = adversarial(4100)[family]
        block = {"g128": 128, "g32": 32, "row": len(x), "tensor": len(x)}[preset.split("_")[1]]
        b = split(x, block)
        s = np.abs(b).max(axis=1, keepdims=True) / np.float32(top)
        with np.errstate(invalid="ignore"):
            y = np.where(s > 0, np.rint(b / s).clip(-top, top) * s, 0).reshape(-1)[: len(x)]
        assert np.array_equal(dither.fake_quant(x, preset), y), family


PRESETS = ["mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "mxint8", "nvfp4", "int4_g32", "fp8_1x128", "fp4_g32"]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_any_axis_is_the_last_axis_moved(preset, axis):
    x = np.random.default_rng(1).standard_normal((7, 37, 67)).astype(np.float32)
    moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    expected = np.moveaxis(dither.fake_quant(moved, preset), -1, axis)
    assert np.array_equal(dither.fake_quant(x, preset, axis=axis), expected)


@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "nvfp4"])
def test_blocks_do_not_see_each_other(preset):
    """Each block alone gives the same bits (nvfp4's tensor scale would join them)."""
    q = dither.Quantizer(preset)
    assert isinstance(q.block, int)
    x = adversarial(1000)["wide"]
    whole = dither.fake_quant(x, q)
    parts = [dither.fake_quant(x[i : i + q.block], q) for i in range(0, len(x), q.block)]
    assert np.array_equal(whole, np.concatenate(parts))


class TestEdgeBlocks:
    """The blocks of which no MX library gets all right (OCP rule: floor scale)."""

    def test_ties_go_to_even(self):
        x = np.array([4, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
        assert list(dither.fake_quant(x, "mxfp4")) == [4, 0, 1, 1, 2, 2, 4, 4]

    def test_sign_of_zero_is_kept(self):
        x = np.array([-0.0, 0.0, -1e-9, 1.0], np.float32)
        y = dither.fake_quant(x, "mxfp4")
        assert list(np.signbit(y)) == [True, False, True, False]
        assert not np.signbit(dither.fake_quant(x, "mxint8")).any()  # two's complement has one zero

    def test_just_below_a_power_of_two(self):
        below = np.nextafter(np.float32(2.0**100), np.float32(0))
        assert dither.fake_quant(np.array([below]), "mxfp4")[0] == 1.5 * 2.0**99
        assert dither.fake_quant(np.array([below]), "mxfp8_e4m3")[0] == 1.75 * 2.0**99

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_poison_their_block_alone(self, bad):
        x = np.ones(96, np.float32)
        x[40] = bad
        y = dither.fake_quant(x, "mxfp8_e4m3")
        assert np.isnan(y[32:64]).all() and (y[:32] == 1).all() and (y[64:] == 1).all()

    def test_a_nan_anywhere_poisons_a_tensor_scale(self):
        x = np.ones(96, np.float32)
        x[40] = np.nan
        assert np.isnan(dither.fake_quant(x, "nvfp4")).all()

    def test_all_zero_block(self):
        for preset in PRESETS:
            assert (dither.fake_quant(np.zeros(64, np.float32), preset) == 0).all()

    def test_mxint8_uses_its_implicit_scale(self):
        x = np.array([1.9, 1.5, 1.0], np.float32)
        assert list(dither.fake_quant(x, "mxint8")) == [1.90625, 1.5, 1.0]

    def test_957_becomes_896_under_floor_and_960_under_rceil(self):
        x = np.array([957], np.float32)
        assert dither.fake_quant(x, "mxfp8_e4m3")[0] == 896
        assert dither.fake_quant(x, dither.Quantizer("mxfp8_e4m3", scale_rule="rceil"))[0] == 960


def test_fp64_is_computed_in_fp64():
    x = np.array([1 + 2.0**-40, 1 + 2.0**-3 - 2.0**-40, 448.0])
    assert list(dither.cast(x, "e4m3", rounding="up"))[:2] == [1.125, 1.125]
    assert list(dither.cast(x, "e4m3", rounding="down"))[:2] == [1.0, 1.0]
    y = dither.fake_quant(
        np.array([1e300, 5e299]), dither.Quantizer(format="e4m3", block=32, scale_format="e8m0")
    )
    assert np.isfinite(y).all()  # the scale saturates at 2^127, the elements at 448


@pytest.mark.parametrize("preset", ["mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "mxint8"])
def test_idempotent(preset):
    """What has been quantized quantizes to itself: the floor rule finds the same power of two again."""
    q = dither.Quantizer(preset)
    y = dither.fake_quant(adversarial()["wide"], q)
    assert np.array_equal(dither.fake_quant(y, q), y)
