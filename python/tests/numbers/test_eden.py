"""MS-EDEN: its arithmetic against a second statement of it, and its unbiasedness with stated power."""

import numpy as np
import pytest

import dither
from dither import UserError, _core

f = np.float32


def sample(rows: int = 4, columns: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(f)


def test_the_parts_are_those_of_the_definition():
    """An element is an E2M1 number times its block's E4M3 scale, a neighbour of S times the nearest scale."""
    x = sample()
    r = dither.hadamard(x, 128, 5, stream=3)
    y = dither.ms_eden(x, seed=5, stream=3)
    decode = np.abs(r).max() / f(6 * 255.99)
    for block, result, group in zip(
        r.reshape(-1, 16), y.reshape(-1, 16), np.repeat(r.reshape(-1, 128), 8, axis=0), strict=True
    ):
        nearest = dither.cast(np.abs(block).max() * f(17 / 16 * 0.93 / 6) / decode, "e4m3")
        codes = dither.cast(block / (nearest * decode), "e2m1")
        assert np.array_equal(np.sign(codes), np.sign(result))
        used = codes != 0
        scale = np.unique(np.round(result[used] / codes[used] / decode * 1024) / 1024)
        assert len(scale) == 1 and dither.cast(scale.astype(f), "e4m3")[0] == scale[0]
        assert abs(scale[0] / nearest - 1) < 0.2 and group.shape == (128,)


def reference(r: np.ndarray, seed: int, stream: int, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    """The scales and elements of rotated rows in numpy, one step after the other; `shape`: the blocks of
    the array whose axis 1 was made the rows."""
    decode = np.abs(r).max() / f(6 * 255.99)
    blocks = r.reshape(-1, 16)
    scale = dither.cast(np.abs(blocks).max(axis=1) * f(17 / 16 * 0.93 / 6) / decode, "e4m3")
    step = (scale * decode)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(step > 0, dither.cast(blocks / step, "e2m1"), f(0))

    def dot(a, b):
        x = a.reshape(-1, 128).astype(float) * b.reshape(-1, 128)
        while x.shape[1] > 1:
            x = x[:, : x.shape[1] // 2] + x[:, x.shape[1] // 2 :]
        return x[:, 0]

    signal, kept = dot(blocks, blocks), dot(blocks, codes * step)
    factor = np.divide(signal, kept, out=np.ones_like(signal), where=kept > 0)
    wanted = scale * np.repeat(factor, 8).astype(f)
    turned = len(shape) > 1
    in_memory = wanted.reshape(shape).swapaxes(1, 2).copy() if turned else wanted
    corrected = dither.cast(
        in_memory, "e4m3", rounding="stochastic", bits=16, seed=seed, stream=stream ^ 1 << 63
    )
    corrected = (corrected.swapaxes(1, 2) if turned else corrected).reshape(-1)
    return (codes * (corrected * decode)[:, None]).reshape(r.shape)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_the_kernel_is_the_arithmetic(level):
    """Every SIMD level, rows with zeros, underflowing blocks and outliers, along the last axis and others."""
    x = sample(46, 384, 4) * np.float32(2.0) ** np.linspace(-12, 12, 46, dtype=f)[:, None]
    x[3], x[5, 128:], x[7, ::9] = 0, 1e-30, 40000
    best = _core.simd_level()
    _core.simd_level(level)
    try:
        r = dither.hadamard(x, 128, 6, stream=2)
        assert np.array_equal(dither.ms_eden(x, seed=6, stream=2), reference(r, 6, 2))
        deep = np.ascontiguousarray(x.reshape(2, 23, 384).swapaxes(1, 2))
        got = dither.ms_eden(deep, 1, seed=6, stream=2)
        want = reference(r, 6, 2, (2, 23, 24))
        assert np.array_equal(got.swapaxes(1, 2).reshape(x.shape), want)
    finally:
        _core.simd_level(best)


def test_the_projection_on_the_rotated_vector_is_right_on_average():
    """<r, y> / <r, r> is 1 for every rotation but for the rounding of the scales. Over 400 draws a bias of
    0.1 % would be seen at five sigma; rounding to nearest alone has one of more than 0.3 %."""
    x = sample(2, 512, 1)
    ours, nearest = [], []
    for seed in range(400):
        r = dither.hadamard(x, 128, seed).astype(float)
        y = dither.ms_eden(x, seed=seed).astype(float)
        ours.append((r * y).sum() / (r * r).sum())
        nearest.append((r * dither.fake_quant(r.astype(f), "nvfp4")).sum() / (r * r).sum())
    sigma = np.std(ours) / 20
    assert 5 * sigma < 1e-3
    assert abs(np.mean(ours) - 1) < 5 * sigma
    assert abs(np.mean(nearest) - 1) > 0.003


def test_every_element_is_unbiased_over_rotations():
    """3000 rotations of one row: no element's mean is off by five standard errors, which is 1.5 % of the
    row's root mean square; and the mean over all of them is the vector."""
    x = sample(1, 128, 2)
    draws = np.stack([dither.ms_eden(x, seed=s, rotated=False)[0] for s in range(3000)]).astype(float)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    off = (draws.mean(axis=0) - x[0]) / error
    assert error.max() * 5 < 0.015 * np.sqrt((x**2).mean())
    assert np.abs(off).max() < 5
    assert abs((off**2).mean() - 1) < 5 * np.sqrt(2 / 128)  # chi-squared: neither bias nor luck


def test_its_error_is_far_below_that_of_stochastic_rounding():
    """The paper reports about 2.4 times less than stochastic rounding of the elements."""
    x = sample(64, 512, 3)
    ours = ((dither.ms_eden(x, seed=1, rotated=False) - x).astype(float) ** 2).mean()
    r = dither.hadamard(x, 128, 1)
    stochastic = dither.fake_quant(r, "nvfp4:rounding=stochastic,guard=17/16", seed=1)
    assert 1.8 < ((stochastic - r).astype(float) ** 2).mean() / ours < 3


def test_products_of_rotated_operands_need_nothing_undone():
    a, b = sample(8, 256, 4), sample(16, 256, 5)
    product = dither.ms_eden(a, seed=9) @ dither.ms_eden(b, seed=9).T
    assert np.abs(product - a @ b.T).mean() < 0.2 * np.abs(a @ b.T).mean() + 2


def test_axes_dtypes_and_special_arrays():
    x = sample(3, 128)
    rotated = dither.hadamard(x, 128, 1)
    across = dither.ms_eden(x.T.copy(), 0, seed=1)
    assert np.array_equal(across.T, reference(rotated, 1, 0, (1, 3, 8)))
    assert not np.array_equal(
        across.T, dither.ms_eden(x, seed=1)
    )  # other bits: blocks are numbered in C order
    assert dither.ms_eden(x.astype(np.float16), seed=1).dtype == np.float16
    assert not dither.ms_eden(np.zeros((2, 128), f), seed=1).any()
    x[1, 5] = np.inf
    assert np.isnan(dither.ms_eden(x, seed=1)).all()
    with pytest.raises(UserError, match="128"):
        dither.ms_eden(np.ones(100, f), seed=1)
    with pytest.raises(UserError, match="seed"):
        dither.ms_eden(sample(), seed=-1)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    x = sample()
    got = dither.ms_eden(torch.from_numpy(x), seed=7)
    assert np.array_equal(got.numpy(), dither.ms_eden(x, seed=7))
