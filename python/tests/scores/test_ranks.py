"""Ranks and rank correlations against scipy and the definitions."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import dither
from dither.errors import UserError
from dither.scores import kendall, rank, spearman


def rows(n: int, values: int | None, count: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, n, values or 0])
    return rng.standard_normal((count, n)) if values is None else rng.integers(0, values, (count, n)) / 7


@pytest.mark.parametrize("n", [0, 1, 2, 3, 100, 255, 256, 257, 2048, 5001, 65536, 65537])
@pytest.mark.parametrize("values", [None, 2, 50])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_are_scipys(n, values, dtype):
    x = rows(n, values).astype(dtype)
    np.testing.assert_array_equal(rank(x), scipy.stats.rankdata(x, axis=1))
    np.testing.assert_array_equal(rank(x[0]), scipy.stats.rankdata(x[0]))


@pytest.mark.parametrize("kind", ["one part", "outlier", "both ends", "geometric", "ascending", "subnormal"])
def test_ranks_of_uneven_numbers_are_scipys(kind):
    z = np.random.default_rng(0).standard_normal(30_000)
    x = {
        "one part": np.where(z > 2, 1.0, 1e-9 * z),
        "outlier": np.append(z, 1e300),
        "both ends": np.sign(z) * (1 - 1e-12 * np.abs(z)),
        "geometric": np.exp2(50 * z),
        "ascending": np.sort(z),
        "subnormal": z * 1e-310,
    }[kind]
    np.testing.assert_array_equal(rank(x), scipy.stats.rankdata(x))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=False, width=64), min_size=1, max_size=60))
def test_ranks_of_any_numbers(x):
    np.testing.assert_array_equal(rank(np.array(x)), scipy.stats.rankdata(x))


@pytest.mark.parametrize("n", [2, 3, 100, 4096, 4097, 20000])
@pytest.mark.parametrize("values", [None, 3, 1000])
def test_spearman_is_scipys(n, values):
    x = rows(n, values, 5)
    x = x[[len(np.unique(r)) > 1 for r in x]]
    expected = np.array([[np.asarray(scipy.stats.spearmanr(a, b))[0] for b in x] for a in x])
    np.testing.assert_allclose(spearman(x), expected, atol=2e-7)


@pytest.mark.parametrize("n", [2, 3, 64, 65, 100, 255, 257, 4000, 17000])
@pytest.mark.parametrize("values", [None, 2, 30])
def test_kendall_is_scipys(n, values):
    x = rows(n, values, 4)
    found = kendall(x)
    for i, j in itertools.combinations(range(4), 2):
        expected = np.asarray(scipy.stats.kendalltau(x[i], x[j]))[0]
        np.testing.assert_allclose(found[i, j], expected, atol=1e-14, err_msg=f"{n} {values}")
        assert found[i, j] == found[j, i] or np.isnan(found[i, j])


def test_monotone_maps_and_threads_change_nothing():
    x = rows(3000, None, 6)
    for measure in (spearman, kendall):
        base = measure(x)
        np.testing.assert_array_equal(measure(np.exp(x)), base)
        np.testing.assert_array_equal(measure(x * 8), base)
        dither.set_num_threads(3)
        try:
            np.testing.assert_array_equal(measure(x), base)
        finally:
            dither.set_num_threads(None)
        np.testing.assert_array_equal(np.diag(base), 1)
        assert (base == base.T).all() and (np.abs(base) <= 1).all()
        np.testing.assert_allclose(measure(np.stack([x[0], -x[0]]))[0, 1], -1, atol=1e-7)


def test_what_has_no_rank():
    x = rows(50, None)
    x[1, 7] = np.nan
    for function in (rank, spearman, kendall):
        with pytest.raises(UserError, match="row 1, element 7 is NaN"):
            function(x)
    with pytest.raises(UserError, match="at least two"):
        spearman(np.ones((2, 1)))
    x[1, 7], x[0, 3], x[3, 9] = np.inf, -np.inf, np.nan
    with pytest.raises(UserError, match="row 3, element 9 is NaN"):
        spearman(x.astype(np.float32))
    constant = np.stack([np.ones(9), np.arange(9.0)])
    for function in (spearman, kendall):
        np.testing.assert_array_equal(np.isnan(function(constant)), [[True, True], [True, False]])
    infinite = np.array([[np.inf, -np.inf, 1.0], [3.0, 1.0, 2.0]])
    assert spearman(infinite)[0, 1] > 1 - 1e-12 and kendall(infinite)[0, 1] == 1
