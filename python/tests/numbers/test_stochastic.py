"""Stochastic rounding as a random experiment: probabilities, bias and variance of every mode.

The bits are addressed, so these tests give the same figures on every run. Each says what it would find: a
deviation of five standard errors.
"""

import numpy as np
import pytest

import dither

MODES = ("stochastic_a", "stochastic", "stochastic_c")


def probability(v: np.ndarray, mode: str, bits: int) -> np.ndarray:
    """The share of the 2^bits values of R that round away (P3109 v4.0, section 4.7.4)."""
    scaled = v * 2.0**bits
    if mode == "stochastic_a":
        return np.floor(scaled) / 2.0**bits
    return (np.floor(scaled + 0.5) if mode == "stochastic" else np.rint(scaled)) / 2.0**bits


def draws(v: np.ndarray, count: int, mode: str, bits: int) -> np.ndarray:
    """Whether each of `count` draws for each v rounded up; v is the fraction between two values of e4m3."""
    x = (16 + 2 * v).astype(np.float32)
    y = dither.cast(np.tile(x, (count, 1)), "e4m3", rounding=mode, bits=bits, seed=20, stream=bits)
    assert np.isin(y, (16, 18)).all()
    return y == 18


@pytest.mark.parametrize("bits", [1, 4, 8, 13, 32])
@pytest.mark.parametrize("mode", MODES)
def test_probabilities(mode, bits):
    """512 values, 1024 draws each. Overall the frequency is within 5 * 0.5 / sqrt(2^19) = 0.0035 of what
    P3109 states; for each value within 6 standard errors, at most 0.094."""
    v = np.round(np.random.default_rng(bits).random(512) * 2**18) / 2**18  # exact in x
    p = probability(v, mode, bits)
    up = draws(v, 1024, mode, bits).mean(axis=0)
    assert abs((up - p).mean()) < 5 * 0.5 / np.sqrt(512 * 1024)
    assert (np.abs(up - p) <= 6 * np.sqrt(p * (1 - p) / 1024)).all()  # exactly 0 or 1 where p is


@pytest.mark.parametrize("mode", MODES)
def test_bias_over_all_fractions(mode):
    """2^19 fractions, evenly spread, one draw each, 4 random bits. B and C are unbiased: the mean error is
    within 5 * sqrt(1/6) / sqrt(2^19) = 0.0028 spacings of zero. A is 2^-5 = 0.031 too low."""
    v = (np.arange(1 << 19) + 0.5) / (1 << 19)
    x = (16 + 2 * v).astype(np.float64)
    y = dither.cast(x, "e4m3", rounding=mode, bits=4, seed=1)
    bias = ((y - x) / 2).mean()
    assert abs(bias + (2.0**-5 if mode == "stochastic_a" else 0)) < 0.0028


@pytest.mark.parametrize("mode", MODES)
def test_variance(mode):
    """The error of one rounding has the variance p (1 - p) spacings^2. 512 values and 1024 draws give the
    mean ratio to it within 5 * sqrt(2 / 1024 / 512) = 1 %."""
    v = np.random.default_rng(3).uniform(0.1, 0.9, 512)
    v = np.round(v * 2**10) / 2**10
    p = probability(v, mode, 12)
    sample = draws(v, 1024, mode, 12).var(axis=0, ddof=1)
    assert abs((sample / (p * (1 - p))).mean() - 1) < 0.01


@pytest.mark.parametrize("mode", MODES)
def test_neighbouring_elements_are_independent(mode):
    """Correlation over 2^18 draws: within 5 / sqrt(2^18) = 0.01 of zero, at several distances."""
    up = draws(np.array([0.5]), 1 << 18, mode, 8).ravel() - 0.5
    for distance in (1, 2, 16, 64, 256):
        assert abs((up[:-distance] * up[distance:]).mean() * 4) < 5 / np.sqrt(1 << 18)


def test_every_mode_is_exact_on_the_grid():
    x = dither.decode(np.arange(256, dtype=np.uint8), "e4m3")
    x = x[np.isfinite(x)]
    for mode in MODES:
        for bits in (1, 8, 32):
            y = dither.cast(x, "e4m3", rounding=mode, bits=bits, seed=0)
            assert np.array_equal(y, x) and np.array_equal(np.signbit(y), np.signbit(x))
