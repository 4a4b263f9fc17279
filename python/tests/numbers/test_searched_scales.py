"""Scales that are found by trying, given, raised or undone: mse, static, zero points, four-over-six, the 3/4
pre-scale and the 17/16 guard."""

import ml_dtypes
import numpy as np
import pytest
from data import adversarial, bits

import dither
from dither import Quantizer

f = np.float32


def error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum of squared errors a row, in the order of the elements."""
    total = np.zeros(len(x))
    for column in range(x.shape[1]):
        total += (y[:, column].astype(float) - x[:, column]) ** 2
    return total


def best(x: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    """Of candidate results, for each row the first with the least error."""
    errors = np.stack([error(x, y) for y in candidates])
    return np.stack(candidates)[errors.argmin(axis=0), np.arange(len(x))]


ROWS = {
    name: x.reshape(-1, 32) for name, x in adversarial(1 << 13).items() if name in ("normal", "wide", "ties")
}


@pytest.mark.parametrize("preset", ["mxfp4", "mxfp8_e4m3", "mxint8"])
def test_mse_of_powers_tries_four_exponents(preset):
    q = Quantizer(preset)
    fmt = q.format
    for x in ROWS.values():
        peak = np.abs(x).max(axis=1)
        floor = np.frexp(peak)[1] - 1 - fmt.emax
        candidates = []
        for step in (0, 1, -1, -2):
            scale = np.ldexp(1.0, np.clip(floor + step, -127, 127))[:, None]
            on_grid = dither.cast((x / scale).astype(f), fmt)  # exact: a power of two
            candidates.append((on_grid * scale).astype(f))
        got = dither.fake_quant(x, q.replace(scale_rule="mse"))
        assert np.array_equal(got, best(x, candidates))
        assert (error(x, got) <= error(x, dither.fake_quant(x, q))).all()


@pytest.mark.parametrize("preset", ["int4_g32", "fp4_g32"])
def test_mse_of_fp32_scales_tries_81_ratios(preset):
    q = Quantizer(preset)
    for x in ROWS.values():
        full = np.abs(x).max(axis=1, keepdims=True) / f(q.format.max)
        candidates = []
        for k in (64, *range(63, 15, -1), *range(65, 97)):
            s = full * f(k / 64)
            with np.errstate(invalid="ignore"):
                candidates.append(np.where(s > 0, dither.cast(x / s, q.format) * s, f(0)))
        got = dither.fake_quant(x, q.replace(scale_rule="mse"))
        assert np.array_equal(got, best(x, candidates))


def test_mse_beats_every_other_rule_and_does_not_depend_on_random_bits():
    x = ROWS["normal"]
    for preset, rules in (("mxfp4", ("floor", "ceil", "rceil", "even")), ("int3_g32", ("absmax", "rceil"))):
        q = Quantizer(preset, scale_rule="mse")
        ours = dither.error_stats(x, q)["mse"]
        assert all(ours <= dither.error_stats(x, q.replace(scale_rule=rule))["mse"] for rule in rules)
    stochastic = Quantizer("mxfp4", scale_rule="mse", rounding="stochastic")
    lo, hi = dither.neighbours(x, Quantizer("mxfp4", scale_rule="mse"))
    y = dither.fake_quant(x, stochastic, seed=1)
    assert ((y == lo) | (y == hi)).all()  # the same scales as to nearest


def test_static_scales():
    x = adversarial()["wide"]
    y = dither.fake_quant(x, Quantizer("int8_g128", scale_rule="static", scale=0.1))
    assert np.array_equal(y, np.clip(np.rint(x / f(0.1)), -127, 127) * f(0.1))
    y = dither.fake_quant(x, Quantizer("mxfp8_e4m3", scale_rule="static", scale=0.25))
    assert np.array_equal(y, dither.cast(x * 4, "e4m3") / 4)
    assert (
        dither.error_stats(x, "mxfp8_e4m3:scale_rule=static,scale=1/4")["clipped"] == (np.abs(x) > 112).sum()
    )


def test_a_static_tensor_scale_fixes_the_second_level_alone():
    x = adversarial(1 << 13)["normal"].reshape(-1, 16)
    scale = float(f(0.002))
    got = dither.fake_quant(x, Quantizer("nvfp4", scale_rule="static", scale=scale))
    decode = f(scale)
    wanted = np.abs(x).max(axis=1, keepdims=True) * ((f(1) / decode) * (f(1) / f(6)))
    block = np.minimum(wanted, f(448)).astype(ml_dtypes.float8_e4m3fn).astype(f) * decode
    z = np.clip(x * (f(1) / block), -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(f)
    assert np.array_equal(got, z * block)
    half = dither.fake_quant(x[:7], Quantizer("nvfp4", scale_rule="static", scale=scale))
    assert np.array_equal(half, got[:7])  # a part sees the same tensor scale


@pytest.mark.parametrize("width", [2, 3, 4, 8])
def test_zero_points(width):
    top = 2**width - 1
    q = Quantizer(format=f"uint{width}", block=32, scale_format="fp32", zero_point=True)
    for shift in (0.0, 2.0, -30.0):
        for x in (rows + f(shift) for rows in ROWS.values()):
            low = np.minimum(x.min(axis=1, keepdims=True), f(0))
            high = np.maximum(x.max(axis=1, keepdims=True), f(0))
            s = (high - low) / f(top)
            zero = np.clip(np.rint(-low / s), 0, top)
            codes = np.clip(np.rint(x / s) + zero, 0, top)
            got = dither.fake_quant(x, q)
            assert np.array_equal(got, (codes - zero) * s)
            assert (dither.fake_quant(np.where(x == x, x, 0) * 0, q) == 0).all()
            lo, hi = dither.neighbours(x, q)
            assert ((got == lo) | (got == hi)).all()
    x = np.array([[0.0, 1.0, 3.0, 15.0]], f)
    assert np.array_equal(dither.fake_quant(x, q.replace(format="uint4")), x)


def four_over_six(x: np.ndarray, mean_of_squares: bool) -> np.ndarray:
    """arXiv 2512.02010 in Transformer Engine's order: bound 256, two scales in E4M3, the better one."""
    encode = f(256 * 6) / np.abs(x).max()
    decode, multiplier = f(1) / encode, encode * (f(1) / f(6))
    wanted = np.abs(x).max(axis=1, keepdims=True) * multiplier
    found, errors = [], []
    for factor in (1.0, 1.5):
        block = (wanted * f(factor)).astype(ml_dtypes.float8_e4m3fn).astype(f) * decode
        with np.errstate(divide="ignore"):
            z = np.clip(x * np.minimum(f(1) / block, np.finfo(f).max), -6, 6)
        y = z.astype(ml_dtypes.float4_e2m1fn).astype(f) * block
        found.append(y)
        errors.append(error(x, y) if mean_of_squares else np.abs(y.astype(float) - x).cumsum(axis=1)[:, -1])
    return np.where((errors[1] < errors[0])[:, None], found[1], found[0])


@pytest.mark.parametrize("choice", ["mse", "mae"])
def test_four_over_six(choice):
    x = adversarial(1 << 13)["normal"].reshape(-1, 16)
    q = Quantizer("nvfp4", four_over_six=choice)
    assert np.array_equal(dither.fake_quant(x, q), four_over_six(x, choice == "mse"))
    assert dither.error_stats(x, q)["mse"] < dither.error_stats(x, "nvfp4")["mse"]
    single = np.array(
        [6.0, 4.1, -4.1, 0.0] * 4, f
    )  # 4.1 is far from 4, and close to 6 * 2/3 of a scale of 1.5
    assert np.abs(dither.fake_quant(single, q)).max() <= 6.2


def clipped(x: np.ndarray, q: Quantizer) -> int:
    return dither.error_stats(x, q)["clipped"]


def test_the_guard_never_clips_over_all_roundings_of_the_scale():
    """Each midpoint of two neighbouring normal E4M3 scales, where rounding shrinks a scale the most (to 16/17
    of what was asked for), and the numbers around it, as the absmax of a block."""
    scales = dither.decode(np.arange(8, 127, dtype=np.uint8), "e4m3")
    asked = np.concatenate([(scales[1:] + scales[:-1]) / 2, scales, scales * f(1.001)]).astype(f)
    for guard, clips in ((17 / 16, False), (1, True)):
        peaks = (asked * f(6) / f(guard)).view(np.int32)[:, None] + np.arange(-20, 21)
        peaks = peaks.astype(np.int32).view(f).reshape(-1, 1)
        peaks = peaks[peaks * f(guard) <= 448 * 6]
        single = Quantizer(format="e2m1", block=1, scale_format="e4m3", guard=guard)
        assert (clipped(peaks, single) > 0) == clips
        # Two levels: the tensor scale leaves room for the guard; blocks down to 2^-14 of the largest.
        rng = np.random.default_rng(3)
        for largest in (1.0, 1.37e-3, 5.5e7):
            x = f(largest) * np.exp2(-rng.uniform(0, 14, (4096, 1))).astype(f)
            x[0] = largest
            assert (clipped(x, Quantizer("nvfp4", block=1, guard=guard)) > 0) == clips


def test_stochastic_rounding_under_the_guard_is_unbiased_and_without_it_is_not():
    """The mean of 4096 roundings of a block; a bias of 4 % of a quantum would be seen at five sigma, and the
    largest element without the guard is 6 % too small every time."""
    x = np.full(16, 0.1, f)
    x[0] = f(6 * 1.0624)  # its scale rounds down to 1
    draws = np.tile(x, (4096, 1))
    for guard in (1, 17 / 16):
        q = Quantizer(
            format="e2m1", block=16, scale_format="e4m3", rounding="stochastic", bits=16, guard=guard
        )
        y = dither.fake_quant(draws, q, seed=11).astype(float)
        off = (y[:, 0].mean() - x[0]) / (y[:, 0].std() / 64 + 1e-12)
        assert (abs(off) > 5) == (guard == 1), (guard, off)
        small = (y[:, 1:].mean() - 0.1) / (y[:, 1:].std() / np.sqrt(4096 * 15))
        assert abs(small) < 5


def test_the_prescale_is_undone_and_nothing_clips():
    q = Quantizer("mxfp4", prescale=0.75)
    x = adversarial(1 << 13)["wide"].reshape(-1, 32)
    scale = np.ldexp(1.0, np.frexp(np.abs(x).max(axis=1, keepdims=True))[1] - 3)
    stored = dither.cast(0.75 * x.astype(float) / scale, "e2m1") * scale  # what a GEMM reads: 3/4 of x
    assert np.array_equal(dither.fake_quant(x, q), stored.astype(f) / f(0.75))
    assert dither.error_stats(x, q)["clipped"] == 0 < dither.error_stats(x, "mxfp4")["clipped"]
    assert not q.clips and not q.exact_in("bf16")
    lo, hi = dither.neighbours(x, q)
    assert (lo <= x).all() and (x <= hi).all()


@pytest.mark.parametrize("prescale", [1, 0.75])
def test_stochastic_mxfp4_is_unbiased_with_the_prescale_alone(prescale):
    """2^14 draws of a block whose largest element is 7.5/8 of the next power of two, 16 random bits; a bias
    of 1 % of the largest element would be seen at five sigma. Without the pre-scale it clips: -20 %."""
    x = np.linspace(-7.5, 7.5, 32).astype(f)
    q = Quantizer("mxfp4", rounding="stochastic", bits=16, prescale=prescale)
    y = dither.fake_quant(np.tile(x, (1 << 14, 1)), q, seed=5).astype(float)
    sigma = y.std(axis=0) / 128 + 1e-9
    off = np.abs(y.mean(axis=0) - x) / sigma
    assert sigma.max() * 5 < 0.01 * 7.5
    assert (off.max() < 5) == (prescale == 0.75), off


def test_bits_of_the_searches_are_the_same_for_any_axis():
    x = adversarial(32 * 40)["normal"].reshape(32, 40)
    for spec in ("mxfp4:scale_rule=mse", "nvfp4:four_over_six=mse", "int4_g32:scale_rule=mse"):
        turned = dither.fake_quant(np.ascontiguousarray(x.T), spec, axis=0).T
        assert np.array_equal(bits(dither.fake_quant(x, spec)), bits(np.ascontiguousarray(turned)))
