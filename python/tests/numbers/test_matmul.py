"""Matrix products against exact rational arithmetic, one rounding at a time; what must not change a bit."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from data import bits

import dither
from dither import Accumulator, _core

HOPPER = Accumulator(fraction_bits=13)
WAYS = ["fp32", "fp64", "bf16", "fp16", HOPPER, Accumulator(25, 16, None), Accumulator(6, 3, 9)]
BITS = {"fp32": (24, -126, 127), "fp64": (53, -1022, 1023), "bf16": (8, -126, 127), "fp16": (11, -14, 15)}


def nearest(x: Fraction, precision: int, emin: int, emax: int) -> Fraction | float:
    """x rounded to `precision` significant bits, ties to even, with subnormals and overflow."""
    if x == 0:
        return x
    unit = Fraction(2) ** (max(exponent(x), emin) - precision + 1)
    y = round(x / unit) * unit  # Python rounds ties of fractions to even
    return y if abs(y) < Fraction(2) ** (emax + 1) else math.copysign(math.inf, x)


def exponent(x: Fraction) -> int:
    """floor(log2 |x|)."""
    e = abs(x).numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= abs(x) else e - 1


def cut_off(x: Fraction, unit: Fraction) -> Fraction:
    return math.trunc(x / unit) * unit


def narrow(a: list[Fraction], b: list[Fraction], how: Accumulator) -> Fraction:
    """The rule of dither.Accumulator as its docstring states it."""
    span = how.promote_every or max(len(a), 1)
    total = Fraction(0)
    for start in range(0, len(a), span):
        acc = Fraction(0)
        for i in range(start, min(start + span, len(a)), how.group):
            pairs = list(zip(a[i : i + how.group], b[i : i + how.group], strict=True))[: start + span - i]
            exponents = [exponent(x) + exponent(y) for x, y in pairs if x and y]
            exponents += [exponent(acc)] if acc else []
            if not exponents:
                continue
            unit = Fraction(2) ** (max(exponents) - how.fraction_bits)
            acc = sum((cut_off(x * y, unit) for x, y in pairs), cut_off(acc, unit))
            if acc:
                acc = cut_off(acc, Fraction(2) ** (exponent(acc) - how.fraction_bits))
        rounded = nearest(total + Fraction(nearest(acc, *BITS["fp32"])), *BITS["fp32"])
        total = Fraction(rounded)
    return total


def exact(a: np.ndarray, b: np.ndarray, how: str | Accumulator) -> float:
    """One element of the product in rational arithmetic."""
    left, right = ([Fraction(float(x)) for x in v] for v in (a, b))
    if isinstance(how, Accumulator):
        return float(narrow(left, right, how))
    acc = Fraction(0)
    for x, y in zip(left, right, strict=True):
        acc = nearest(acc + x * y, *BITS[how])
        if isinstance(acc, float):
            return acc
    return float(acc)


def operands(m: int, k: int, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return tuple(
        (rng.standard_normal(s) * 2.0 ** rng.integers(-4, 5, s)).astype(np.float32) for s in ((m, k), (k, n))
    )  # type: ignore[return-value]


@pytest.mark.parametrize("how", WAYS, ids=str)
@pytest.mark.parametrize("formats", [(None, None), ("mxfp4", "mxfp8_e4m3"), ("nvfp4", "int4_g32")])
def test_every_rounding_is_the_stated_one(how, formats):
    qa, qb = formats
    a, b = operands(3, 70, 4)
    got = dither.matmul(a, b, qa, qb, how)
    x = a if qa is None else dither.fake_quant(a, qa)
    y = b if qb is None else dither.fake_quant(b, qb, axis=0)
    want = np.array([[exact(row, column, how) for column in y.T] for row in x])
    assert got.dtype == (np.float64 if how == "fp64" else np.float32)
    assert np.array_equal(got, want.astype(got.dtype))


def test_an_independent_model_of_fp8_tensor_cores():
    """MMA-Sim's rule for Hopper's FP8 (F = 13, groups of 32, results cut off to E8M13) restated with frexp,
    for data on E4M3's normal grid, where its exponents and ours agree."""
    rng = np.random.default_rng(1)
    a, b = (dither.cast(rng.standard_normal((8, 256)).astype(np.float32) * 8 + 1, "e4m3") for _ in range(2))
    a, b = (np.where(np.abs(x) < 2.0**-6, np.float32(1), x) for x in (a, b))
    for row in range(8):
        total = 0.0
        for group in range(0, 256, 32):
            x, y = (v[row, group : group + 32].astype(np.float64) for v in (a, b))
            (mx, ex), (my, ey) = np.frexp(x), np.frexp(y)
            me, ee = np.frexp(np.float64(total))
            top = max((ex + ey - 2).max(), ee - 1 if total else -999)
            terms = np.trunc(np.ldexp(mx * my, ex + ey - top + 13)).sum()
            terms += np.trunc(np.ldexp(me, ee - top + 13))
            m, e = np.frexp(np.ldexp(terms, top - 13))
            total = float(np.ldexp(np.trunc(m * 2.0**14), e - 14))
        got = dither.matmul(a[row : row + 1], b[row], accumulate=Accumulator(13, 32, None))
        assert got[0] == total


def test_narrow_accumulators_lose_what_promotion_keeps():
    """Cutting off toward zero next to a large accumulator loses more and more of positive products; promotion
    every 128 of them bounds it."""
    rng = np.random.default_rng(0)
    a, b = (dither.cast(rng.uniform(0, 1, (16, 4096)).astype(np.float32), "e4m3") for _ in range(2))
    true = dither.matmul(a, b.T, accumulate="fp64")

    def worst(how):
        return float(np.max(np.abs(dither.matmul(a, b.T, accumulate=how) / true - 1)))

    held, promoted, full = worst(Accumulator(13, 32, None)), worst(HOPPER), worst("fp32")
    assert full < 1e-5 < promoted < 0.01 < held < 0.1


@pytest.mark.parametrize(
    "preset", ["mxfp4", "nvfp4", "mxfp8_e5m2", "mxfp6_e2m3", "int3_row", "fp8_e4m3", "bf16"]
)
def test_packed_operands_give_the_bits_of_their_values(preset):
    rng = np.random.default_rng(3)
    for m, k, n in ((1, 512, 70), (5, 96, 33), (3, 50, 7)):
        a, w = (rng.standard_normal(s).astype(np.float32) for s in ((m, k), (n, k)))
        packed_a, packed_w = dither.quantize(a, preset), dither.quantize(w, preset)
        for how in ("fp32", HOPPER):
            want = dither.matmul(a, w.T, preset, preset, how)
            assert np.array_equal(dither.matmul(packed_a, packed_w.T, accumulate=how), want)
            assert np.array_equal(dither.matmul(a, packed_w.T, qa=preset, accumulate=how), want)
            across = dither.quantize(np.ascontiguousarray(w.T), preset, axis=0)  # packed along n
            assert np.array_equal(dither.matmul(packed_a, across, accumulate=how), want)


@pytest.mark.parametrize(
    "parts",
    [
        {"format": "uint4", "block": 32, "scale_format": "fp32", "zero_point": True},
        {"format": "nf4", "block": 16, "scale_format": "fp32"},
        {"preset": "nvfp4", "block": (16, 16)},
        {"preset": "nvfp4", "four_over_six": "mse"},
        {"preset": "mxfp4", "prescale": 0.75},
        {"preset": "int8", "block": "column"},
        {"format": "binary16p8se"},
    ],
    ids=str,
)
def test_other_packed_operands_too(parts):
    q = dither.Quantizer(**parts)
    a, w = operands(3, 96, 40)
    w = np.ascontiguousarray(w.T)
    want = dither.matmul(a, dither.fake_quant(w, q).T)
    assert np.array_equal(dither.matmul(a, dither.quantize(w, q).T), want)


def test_a_row_alone_is_the_row_of_the_product():
    a, b = operands(200, 300, 77)
    w = dither.quantize(np.ascontiguousarray(b.T), "mxfp4")
    for how in ("fp32", "bf16", HOPPER):
        for right in (b, w.T):
            whole = dither.matmul(a, right, accumulate=how)
            for i in (0, 13, 199):
                assert np.array_equal(dither.matmul(a[i], right, accumulate=how), whole[i])


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 33, 40), (130, 257, 70), (400, 20, 600)])
def test_threads_and_levels_never_change_a_bit(shape):
    m, k, n = shape
    a, b = operands(m, k, n)
    a.flat[:: 7 * k // 2 + 1] *= np.float32(1e-38)
    w = dither.quantize(np.ascontiguousarray(b.T), "mxfp4")
    for how in ["fp32"] if m * n * k > 1e6 else WAYS:
        results = set()
        try:
            for threads, level in ((1, "avx512"), (2, "avx512"), (5, "avx2"), (1, "baseline")):
                dither.set_num_threads(threads)
                _core.simd_level(level)
                results.add(dither.matmul(a, b, accumulate=how).tobytes() + dither.matmul(a, w.T).tobytes())
        finally:
            _core.simd_level("avx512")
            dither.set_num_threads(None)
        assert len(results) == 1


@pytest.mark.parametrize("how", WAYS, ids=str)
def test_specials_and_sizes_at_the_edge(how):
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    a = np.array([[1, 2, 0], [inf, 1, 1], [nan, 0, 0], [inf, 0, 1], [0, 0, 0]], np.float32)
    b = np.array([[1, -1], [2, inf], [-inf, 0]], np.float32)
    with np.errstate(invalid="ignore"):
        want = a.astype(np.float64) @ b.astype(np.float64)
    got = dither.matmul(a, b, accumulate=how)
    assert np.array_equal(got, want, equal_nan=True) and got[4, 0] != got[4, 0]  # 0 * inf
    huge = np.full((1, 4), 3e38, np.float32)
    product = dither.matmul(huge, huge.T, accumulate=how)[0, 0]
    assert product == 4 * np.float64(huge[0, 0]) ** 2 if how == "fp64" else np.isposinf(product)
    tiny = np.full((1, 4), 1e-45, np.float32)
    assert dither.matmul(tiny, np.ones((4, 1), np.float32), accumulate="fp32")[0, 0] == np.float32(5.6e-45)
    for m, k, n in ((0, 3, 2), (2, 0, 3), (2, 3, 0)):
        zeros = dither.matmul(np.ones((m, k), np.float32), np.ones((k, n), np.float32), accumulate=how)
        assert zeros.shape == (m, n) and not zeros.any()
    minus = dither.matmul(np.full((1, 1), np.float32(-0.0)), np.ones((1, 1), np.float32), accumulate=how)
    assert bits(minus.astype(np.float32))[0, 0] == 0  # the accumulator starts at +0


def test_shapes_strides_and_dtypes():
    a, b = operands(6, 40, 5)
    want = dither.matmul(a, b)
    assert np.array_equal(
        dither.matmul(a[::2, ::3], b[::3]), dither.matmul(a[::2, ::3].copy(), b[::3].copy())
    )
    assert np.array_equal(
        dither.matmul(a[:, ::-1], b[::-1].copy()), dither.matmul(a[:, ::-1].copy(), b[::-1])
    )
    assert np.array_equal(dither.matmul(b.T, a.T), want.T)
    assert np.array_equal(dither.matmul(a[0], b[:, 1]), want[0, 1]) and dither.matmul(a[0], b).shape == (5,)
    assert np.array_equal(dither.matmul(a.astype(">f4"), b), want)
    batch = np.stack([a, 2 * a, 3 * a])
    assert np.array_equal(dither.matmul(batch, b), np.stack([want, 2 * want, dither.matmul(3 * a, b)]))
    both = dither.matmul(batch[:, None], np.stack([b, -b]))
    assert both.shape == (3, 2, 6, 5) and np.array_equal(both[1, 1], -2 * want)
    stacked = dither.quantize(np.stack([b.T, 2 * b.T]), "mxfp4")
    got = dither.matmul(a, stacked.mT)
    assert got.shape == (2, 6, 5) and np.array_equal(2 * got[0], got[1])
    half = a.astype(ml_dtypes.bfloat16)
    assert np.array_equal(dither.matmul(half, b), dither.matmul(half.astype(np.float32), b))
    assert dither.matmul(a, b, out_dtype="bf16").dtype == ml_dtypes.bfloat16
    wide = dither.matmul(a, b, accumulate="fp64")
    assert np.array_equal(dither.matmul(a, b, accumulate="fp64", out_dtype="fp32"), wide.astype(np.float32))
    wide_in = dither.matmul(a.astype(np.float64), b.astype(np.float64), "mxfp4", "mxfp4")
    assert np.array_equal(wide_in, dither.matmul(a, b, "mxfp4", "mxfp4"))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda a, b: dither.matmul(a, a), dither.UserError, "columns of a"),
        (lambda a, b: dither.matmul(a, b, accumulate="fp23"), dither.UserError, "fp32"),
        (lambda a, b: dither.matmul(a, b, accumulate=14), TypeError, "Accumulator"),  # type: ignore[arg-type]
        (lambda a, b: dither.matmul(a.astype(float), b), TypeError, "float32"),
        (lambda a, b: dither.matmul(a.astype(int), b), TypeError, "astype"),
        (lambda a, b: dither.matmul(np.float32(1), b), dither.UserError, "scalars"),
        (lambda a, b: dither.matmul(a, b, "mxfp4:rounding=stochastic"), dither.UserError, "beforehand"),
        (lambda a, b: dither.matmul(dither.quantize(a, "mxfp4"), b, "mxfp4"), dither.UserError, "already"),
        (lambda a, b: dither.matmul(a, b, "mxfp5"), dither.UserError, "mxfp4"),
        (lambda a, b: dither.matmul(np.stack([a] * 2), np.stack([b] * 3)), dither.UserError, "broadcast"),
        (lambda a, b: Accumulator(0), dither.UserError, "fraction_bits"),
        (lambda a, b: Accumulator(31), dither.UserError, "1 to 30"),
        (lambda a, b: Accumulator(14, group=0), dither.UserError, "group"),
        (lambda a, b: Accumulator(14, 32, 100), dither.UserError, "multiple of group"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, error, says):
    with pytest.raises(error, match=says):
        call(*operands(4, 32, 6))
