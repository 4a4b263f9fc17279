"""Statistics against exact rational arithmetic, block by block, and their bits for any number of threads."""

import math
from fractions import Fraction

import numpy as np
import pytest
from data import adversarial

import dither
from dither import _core


def exact(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Mean square error, SQNR, crest factor and kurtosis in rational arithmetic, rounded at the end."""
    a, b = ([Fraction(float(v)) for v in z.ravel()] for z in (x, y))
    n = len(a)
    mean = sum(a) / n
    m2, m4 = (sum((v - mean) ** k for v in a) for k in (2, 4))
    signal, noise = sum(v * v for v in a), sum((v - w) ** 2 for v, w in zip(a, b, strict=True))
    return {
        "mse": float(noise / n),
        "sqnr_db": 10 * math.log10(signal / noise),
        "crest": math.sqrt(max(abs(v) for v in a) ** 2 * n / signal),
        "kurtosis": float(n * m4 / m2**2),
    }


@pytest.mark.parametrize("preset", ["mxfp8_e4m3", "nvfp4", "int4_row", "fp8_e5m2", "bf16"])
def test_against_exact_arithmetic(preset):
    rng = np.random.default_rng(5)
    for x in (
        rng.standard_normal((7, 333)).astype(np.float32),
        (1e4 + rng.standard_normal((3, 1000))).astype(np.float32),  # the mean drowns the variance
        adversarial(999)["wide"],
        rng.standard_t(3, (2, 500)),
        (rng.standard_normal(700) * 1e30).astype(np.float32),
        np.repeat(np.array([3.0, -1e-30, 7.1], np.float32), 400),
    ):
        got, want = dither.error_stats(x, preset), exact(x, dither.fake_quant(x, preset))
        for name, value in want.items():
            assert got[name] == pytest.approx(value, rel=1e-12), name
        assert got["absmax"] == np.abs(x).max()
        assert got["last_bin_share"] == got["last_bin"] / x.size


def test_blocks_are_what_each_block_alone_gives():
    x = np.random.default_rng(1).standard_normal((3, 70, 5)).astype(np.float32)
    x[0, :32, 1] = 0
    x[2, 3, 4] = np.inf
    q = dither.Quantizer("int4_g32")
    for axis, along in ((0, 3), (1, 70), (2, 5)):
        blocks = dither.error_stats(x, q, axis=axis, per_block=True)["blocks"]
        moved = np.moveaxis(x, axis, -1)
        for outer in np.ndindex(moved.shape[:-1]):
            for b in range(-(-along // 32)):
                part = np.ascontiguousarray(moved[outer][32 * b : 32 * b + 32])
                alone = dither.error_stats(part, q)
                at = (*outer[:axis], b, *outer[axis:])
                for name, row in blocks.items():
                    if name != "scale":
                        assert np.array_equal(row[at], alone[name], equal_nan=True), (name, at)
                top = np.abs(part).max()
                want = np.float32(top) / np.float32(7) if np.isfinite(top) else np.nan
                assert np.array_equal(blocks["scale"][at], want, equal_nan=True)


def test_scales_and_their_spread():
    x = np.ones((4, 32), np.float32) * np.array([[1], [4], [16], [0]], np.float32)
    s = dither.error_stats(x, "mxfp4", per_block=True)
    assert s["blocks"]["scale"].tolist() == [[0.25], [1.0], [4.0], [0.0]]
    assert s["scale_spread"] == 4.0 and s["scale_std"] == pytest.approx(math.sqrt(8 / 3))
    whole = dither.error_stats(x, "fp8_e4m3", per_block=True)
    assert whole["scale_spread"] == 0 and whole["blocks"]["scale"].shape == ()
    nothing = dither.error_stats(0 * x, "mxfp4")
    assert math.isnan(nothing["scale_spread"]) and math.isnan(nothing["kurtosis"])
    nv = dither.error_stats(x, "nvfp4", per_block=True)["blocks"]["scale"]
    np.testing.assert_allclose(nv[:3, 0] * 6, x[:3, 0], rtol=1e-6)  # every block's largest element is code 6


def test_what_has_no_value_is_nan():
    s = dither.error_stats(np.array([np.nan, np.inf], np.float32), "mxfp4")
    assert (s["count"], s["nonfinite"], s["clipped"], s["underflowed"]) == (2, 2, 0, 0)
    ratios = s.keys() - {"count", "nonfinite", "clipped", "underflowed", "last_bin"}
    assert all(math.isnan(s[name]) for name in ratios), s


def test_shapes_of_known_distributions():
    rng = np.random.default_rng(0)
    normal, uniform = rng.standard_normal(200_000), rng.uniform(-1, 1, 200_000)
    assert dither.error_stats(normal, "mxfp4")["kurtosis"] == pytest.approx(3, abs=0.05)
    s = dither.error_stats(uniform, "mxfp4")
    assert s["kurtosis"] == pytest.approx(1.8, abs=0.01) and s["crest"] == pytest.approx(3**0.5, rel=0.01)


@pytest.mark.parametrize("axis", [0, 1])
def test_threads_and_levels_never_change_a_bit(axis):
    x = np.resize(adversarial(4001)["wide"], (300, 333))
    for preset in ("mxfp4", "nvfp4", "int3_row", "fp8_e4m3"):
        results = set()
        try:
            for threads, level in ((1, "avx512"), (2, "avx512"), (5, "avx2"), (1, "baseline")):
                dither.set_num_threads(threads)
                _core.simd_level(level)
                s = dither.error_stats(x, preset, axis=axis, per_block=True)
                blocks = s.pop("blocks")
                results.add((str(s), *(row.tobytes() for row in blocks.values())))
        finally:
            _core.simd_level("avx512")
            dither.set_num_threads(None)
        assert len(results) == 1
