"""Divergence as an outcome: Firth's logistic regression."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError


def test_a_table_of_two_by_two_is_that_with_a_half_added_to_every_cell():
    outcome = np.r_[np.ones(3), np.zeros(5), np.zeros(7)]
    group = np.r_[np.zeros(8), np.ones(7)]
    found = laws.logistic(outcome, {"level": np.ones(15), "group": group})
    assert found.coefficients["level"] == pytest.approx(np.log(3.5 / 5.5), abs=1e-5)
    assert found.coefficients["group"] == pytest.approx(np.log(0.5 / 7.5) - np.log(3.5 / 5.5), abs=1e-5)
    assert found.chance(level=1, group=0) == pytest.approx(3.5 / 9, abs=1e-5)


def test_coefficients_are_recovered_and_covered():
    """20 tables of 150 runs; 95 % coverage gives fewer than 17 in less than 2 % of such tests."""
    noise, estimates, covered = np.random.default_rng(0), [], 0
    for _ in range(20):
        c, z = noise.uniform(-2, 2, 150), noise.uniform(-1, 1, 150)
        outcome = noise.random(150) < 1 / (1 + np.exp(1 - 1.5 * c + 0.5 * z))
        found = laws.logistic(outcome, {"level": np.ones(150), "c": c, "z": z})
        estimates.append(list(found.coefficients.values()))
        low, high = found.interval("c")
        covered += low <= 1.5 <= high
    assert covered >= 17
    assert np.allclose(np.mean(estimates, axis=0), [-1, 1.5, -0.5], atol=0.25)


def test_outcomes_that_separate_have_a_finite_estimate_and_a_skewed_interval():
    x = np.linspace(-1, 1, 20)
    found = laws.logistic(x > 0, {"level": np.ones(20), "x": x})
    low, high = found.interval("x")
    value = found.coefficients["x"]
    assert 0 < low < value < high < 1e3 and high - value > value - low
    never = laws.logistic(np.zeros(20), {"level": np.ones(20), "x": x})
    level = laws.logistic(np.zeros(20), {"level": np.ones(20)})
    assert level.chance(level=1) == pytest.approx(0.5 / 21, rel=1e-6)
    assert never.interval("x")[0] < 0 < never.interval("x")[1]


def test_features_that_say_the_same_and_outcomes_that_are_none_are_refused():
    n, d = np.geomspace(1e7, 1e9, 30), np.tile(np.geomspace(1e9, 1e10, 5), 6)
    outcome = n * d > 1e18
    three = {"level": np.ones(30), "C": np.log(6 * n * d), "N": np.log(n), "D/N": np.log(d / n)}
    with pytest.raises(UserError, match="tell each other apart"):
        laws.logistic(outcome, three)
    assert laws.logistic(outcome, {k: three[k] for k in ("level", "C", "D/N")}).coefficients["C"] > 0
    for wrong in ([0.5] * 30, [0, 1], np.full(30, np.nan)):
        with pytest.raises(UserError):
            laws.logistic(wrong, {"level": np.ones(30)})
    with pytest.raises(UserError, match="give every one"):
        laws.logistic(outcome, {"level": np.ones(30)}).chance(C=1)
