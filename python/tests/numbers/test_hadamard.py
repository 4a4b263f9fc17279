"""The block Hadamard transform: against the matrix, its inverse, its signs, its bits and its errors."""

import ml_dtypes
import numpy as np
import pytest
from data import adversarial, bits

import dither
from dither import _core

GOLDEN_MINUS = [0, 2, 3, 5, 7, 13, 15, 21, 26, 27, 29]
GOLDEN_RAMP = [-90, 18, 38, 2, 42, 30, 2, 22, 62, -22, -10, -30, -22, -2, -30, -10]


def matrix(d: int) -> np.ndarray:
    """Sylvester's construction."""
    h = np.ones((1, 1))
    while len(h) < d:
        h = np.block([[h, h], [h, -h]])
    return h


def signs(seed: int, stream: int, count: int) -> np.ndarray:
    return np.array([1.0 - 2 * _core.random_bits(seed, stream, j, 1) for j in range(count)])


@pytest.mark.parametrize("block", [1, 2, 8, 16, 32, 128, 1024])
@pytest.mark.parametrize("along_axis", [False, True])
def test_is_the_matrix_with_signs(block, along_axis):
    x = np.random.default_rng(block).standard_normal((3, 2 * block))
    s = signs(5, 9, 2 * block) if along_axis else np.tile(signs(5, 9, block), 2)
    want = ((x * s).reshape(3, 2, block) @ matrix(block)).reshape(x.shape) / np.sqrt(block)
    got = dither.hadamard(x, block, seed=5, stream=9, along_axis=along_axis)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14 * block)
    back = dither.hadamard(got, block, seed=5, stream=9, along_axis=along_axis, inverse=True)
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-14 * block)
    single = dither.hadamard(x.astype(np.float32), block, seed=5, stream=9, along_axis=along_axis)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, want, rtol=0, atol=1e-6 * np.sqrt(block))


def steps(x: np.ndarray, block: int, s: np.ndarray, inverse: bool) -> np.ndarray:
    """The stated order of operations in numpy, blocks along the last axis: it fixes every bit."""
    v = x.reshape(-1, block) * (1 if inverse else s.astype(x.dtype))
    h = 1
    with np.errstate(all="ignore"):
        while h < block:
            pairs = v.reshape(-1, block // (2 * h), 2, h)
            low, high = pairs[:, :, 0], pairs[:, :, 1]
            v = np.stack((low + high, low - high), axis=2).reshape(-1, block)
            h *= 2
        v = v * x.dtype.type(1 / np.sqrt(block))
    return (v * (s.astype(x.dtype) if inverse else 1)).reshape(x.shape).astype(x.dtype)


@pytest.mark.parametrize("block", [1, 4, 8, 32, 256])
@pytest.mark.parametrize("inverse", [False, True])
def test_every_bit_follows_the_stated_order(block, inverse):
    s = signs(2**64 - 1, 3, block)
    for name, x in adversarial(2048).items():
        for a in (x, x.astype(np.float64)):
            got = dither.hadamard(a, block, seed=2**64 - 1, stream=3, inverse=inverse)
            assert np.array_equal(bits(got), bits(steps(a, block, s, inverse))), name


def test_golden_vectors():
    """The signs of seed 0 and one transformed ramp: they never change."""
    minus = [j for j in range(32) if _core.random_bits(0, 0, j, 1)]
    x = np.zeros((32, 32), np.float32) + np.eye(32, dtype=np.float32)
    first_row = dither.hadamard(x)[:, 0] * np.float32(np.sqrt(32))  # H's first column is all ones: the signs
    assert [j for j in range(32) if first_row[j] < 0] == minus == GOLDEN_MINUS
    ramp = dither.hadamard(np.arange(16, dtype=np.float32), 16, seed=7, stream=1)
    assert (4 * ramp).tolist() == GOLDEN_RAMP


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_any_axis_dtype_and_layout(dtype):
    x = np.random.default_rng(0).standard_normal((5, 64, 3)).astype(dtype)
    for axis, block in ((1, 32), (-2, 8), (1, 64)):
        got = dither.hadamard(x, block, seed=1, axis=axis)
        last = dither.hadamard(np.ascontiguousarray(np.moveaxis(x, axis, -1)), block, seed=1)
        assert got.dtype == x.dtype and np.array_equal(got, np.moveaxis(last, -1, axis))
    wide = np.float64 if dtype == np.float64 else np.float32
    want = dither.hadamard(x.astype(wide), 16, axis=1).astype(dtype)
    assert np.array_equal(dither.hadamard(x, 16, axis=1), want)
    assert np.array_equal(
        dither.hadamard(x[:, ::2], 32, axis=1), dither.hadamard(x[:, ::2].copy(), 32, axis=1)
    )


def test_out_in_place_and_empty():
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    want = dither.hadamard(x, out_dtype="fp64")
    out = np.empty_like(x)
    assert dither.hadamard(x, out=out) is out and np.array_equal(out, want)
    assert want.dtype == np.float64
    dither.hadamard(x, out=x)
    assert np.array_equal(x, want)
    assert dither.hadamard(np.empty((3, 0), np.float32)).shape == (3, 0)
    assert dither.hadamard(np.float32(2), 1, seed=None) == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_threads_and_levels_never_change_a_bit(axis):
    x = np.resize(adversarial(4096)["wide"], (64, 32, 64))
    results = set()
    try:
        for threads, level in ((1, "avx512"), (2, "avx512"), (3, "avx2"), (1, "baseline")):
            dither.set_num_threads(threads)
            _core.simd_level(level)
            for d in (8, 32):
                results.add((d, dither.hadamard(x, d, axis=axis, along_axis=True).tobytes()))
    finally:
        _core.simd_level("avx512")
        dither.set_num_threads(None)
    assert len(results) == 2


def test_spreads_an_outlier():
    """A block's outlier of size 1 leaves no element above 1/sqrt(32) of it: what the rotation is for."""
    x = np.zeros(32, np.float32)
    x[11] = 1
    assert np.abs(dither.hadamard(x)).max() == np.float32(1 / np.sqrt(32))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: dither.hadamard(x, 3), dither.UserError, "power of two"),
        (lambda x: dither.hadamard(x, 0), dither.UserError, "power of two"),
        (lambda x: dither.hadamard(x, 64), dither.UserError, "no multiple of block=64"),
        (lambda x: dither.hadamard(x, 16, axis=0), dither.UserError, "4 elements"),
        (lambda x: dither.hadamard(x, 2.0), TypeError, "block="),  # type: ignore[arg-type]
        (lambda x: dither.hadamard(x, 16, seed=-1), dither.UserError, "seed="),
        (lambda x: dither.hadamard(x, 16, seed=None, stream=1), dither.UserError, "need a seed"),
        (lambda x: dither.hadamard(x.astype(int), 16), TypeError, "astype"),
        (lambda x: dither.hadamard(x, 16, axis=2), dither.UserError, "axis 2"),
    ],
)
def test_errors_say_what_to_do(call, error, says):
    with pytest.raises(error, match=says):
        call(np.ones((4, 32), np.float32))
