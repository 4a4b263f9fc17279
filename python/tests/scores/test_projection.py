"""Sparse projections: the matrix is what the documentation says, and inner products survive."""

import numpy as np
import pytest
import torch

import dither
from dither._core import random_bits
from dither.errors import UserError
from dither.scores import project


def matrix(d: int, k: int, s: int, seed: int, stream: int, first: int = 0) -> np.ndarray:
    """Entry by entry: word c s + j of the stream places coordinate c in block j."""
    m, block = np.zeros((d, k)), k // s
    for c in range(d):
        for j in range(s):
            word = random_bits(seed, stream, (first + c) * s + j, 32)
            m[c, j * block + ((word >> 1) * block >> 31)] += (-1 if word & 1 else 1) / np.sqrt(s)
    return m


@pytest.mark.parametrize("s", [1, 2, 4, 8])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
def test_it_is_the_matrix(n, s):
    x = np.random.default_rng(n).standard_normal((n, 333)).astype(np.float32)
    found = project(x, 64, entries=s, seed=5, stream=9)
    np.testing.assert_allclose(found, x.astype(np.float64) @ matrix(333, 64, s, 5, 9), rtol=1e-5, atol=1e-5)


def test_parts_add_up_and_layouts_do_not_matter():
    x = np.random.default_rng(1).standard_normal((20, 1000)).astype(np.float32)
    whole = project(x, 256, seed=3)
    parts = project(x[:, :391], 256, seed=3) + project(x[:, 391:], 256, seed=3, first=391)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    np.testing.assert_array_equal(project(x[5:9], 256, seed=3), whole[5:9])
    np.testing.assert_array_equal(project(np.asfortranarray(x), 256, seed=3), whole)
    half = torch.from_numpy(x).bfloat16()
    np.testing.assert_array_equal(project(half, 256, seed=3), project(half.float(), 256, seed=3))
    dither.set_num_threads(2)
    try:
        np.testing.assert_array_equal(project(x, 256, seed=3), whole)
    finally:
        dither.set_num_threads(None)
    assert project(x[:0], 256).shape == (0, 256) and not project(x[:, :0], 256).any()


def test_more_coordinates_than_are_held_at_once():
    """The places of 2^18 coordinates are held at a time: sums go on across that line."""
    x = np.zeros((3, (1 << 18) + 70), np.float32)
    x[0, -1], x[1, (1 << 18) - 1], x[2, 5] = 2, 3, 4
    found = project(x, 128, seed=2)
    for row, c in enumerate((x.shape[1] - 1, (1 << 18) - 1, 5)):
        np.testing.assert_allclose(found[row], x[row, c] * matrix(1, 128, 4, 2, 0, c)[0], rtol=1e-6)


def test_inner_products_survive():
    """Cosines of Gaussian rows move by 1/sqrt(k) rms, as under a dense matrix. With 780 pairs the rms is
    known to about 3 %; the bounds are 12 % wide, 4 sigma."""
    k, x = 1024, np.random.default_rng(0).standard_normal((40, 20000)).astype(np.float32)

    def cosines(v: np.ndarray) -> np.ndarray:
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        return (v @ v.T)[np.triu_indices(len(v), 1)]

    error = cosines(project(x, k, seed=1)) - cosines(x)
    assert abs(np.sqrt((error**2).mean()) * np.sqrt(k) - 1) < 0.12
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))


def test_refusals():
    x = np.ones((2, 3), np.float32)
    for k, s in ((10, 4), (0, 1), (8, 0)):
        with pytest.raises(UserError, match="divide"):
            project(x, k, entries=s)
    with pytest.raises(UserError, match="seed"):
        project(x, 8, seed=-1)
    with pytest.raises(UserError, match="2 axes"):
        project(x[0], 8)
