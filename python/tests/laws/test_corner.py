"""Least absolute deviations: optima where residuals vanish, and what certifies them."""

from itertools import combinations

import numpy as np
import pytest

from dither import laws
from dither.laws import absolute, corner
from dither.laws.engine import Optima


@pytest.mark.parametrize("seed", range(6))
def test_least_absolute_deviations_end_at_a_certified_corner(seed):
    """As many runs are met exactly as there are parameters, and no step to any side has a smaller sum."""
    rng = np.random.default_rng(seed)
    n, d = np.exp(rng.uniform(15, 22, 30)), np.exp(rng.uniform(20, 26, 30))
    weights = rng.uniform(0.5, 2.0, 30)
    truth = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
    data = laws.get("chinchilla").simulate(truth, N=n, D=d, noise=0.01, seed=seed)
    fit = laws.fit("chinchilla", data, objective="lad", weights=weights)
    assert fit.certificate.is_minimum and not fit.certificate.flat
    assert np.sum(np.abs(fit.residuals) < 1e-12) == 5
    least = np.sum(weights * np.abs(fit.residuals))
    assert fit.value == pytest.approx(least, rel=1e-6)
    for _ in range(300):
        moved = fit.theta.copy()
        moved[:5] += rng.standard_normal(5) * 10.0 ** rng.uniform(-9, -4)
        there = fit.law.curve(fit.law.from_theta(moved), fit.arrays)
        assert np.sum(weights * np.abs(np.log(data["loss"] / there))) > least


def test_a_curve_through_runs_that_is_no_optimum_is_left_for_one():
    """Two runs for two parameters are met, but the others pull further than these hold."""
    fit = laws.fit("kaplan_n", {"N": [1e6, 1e7, 1e8, 1e9, 1e10], "loss": [4.0, 3.2, 2.9, 2.0, 1.9]})
    slope = np.log(4.0 / 3.2) / np.log(10)  # through the first two runs
    theta = fit.law.to_theta(np.array([4.0 * 1e6**slope, slope]))
    lad, one = laws.Objective("lad", 1e-3), np.ones((1, 1))
    there = Optima(theta[None, None], one, 0 * one, np.zeros((1, 1), int), np.zeros((1, 1), int))
    settled, bend = corner.settle(fit.law, fit.rows, there, lad, fit.low, fit.high)
    best = laws.fit("kaplan_n", {"N": fit.arrays["N"], "loss": fit.loss}, objective="lad")
    np.testing.assert_allclose(settled.theta[0, 0], best.theta, rtol=1e-10)
    assert bend is not None and np.linalg.eigvalsh(bend)[0] > 0
    # Of linear residuals every pair of runs is a corner: none has a smaller sum.
    logs, y = np.log(fit.arrays["N"]), np.log(fit.loss)
    sums = [
        np.abs(y - y[i] - (logs - logs[i]) * (y[k] - y[i]) / (logs[k] - logs[i])).sum()
        for i in range(5)
        for k in range(i)
    ]
    assert np.abs(best.residuals).sum() == pytest.approx(min(sums), rel=1e-12)


@pytest.mark.parametrize(("floor", "seed", "bound"), [(1e-3, 8, True), (1e-6, 5, True), (1e-3, 26, True),
                                                     (1e-3, 35, False), (0.3, 26, False)])  # fmt: skip
def test_least_absolute_deviations_are_certified_at_a_bound_and_where_the_law_bends(floor, seed, bound):
    """E at its bound, and optima where fewer runs are met than parameters are free (26 and 35, of 1e-3): all
    ended without a certificate. No step inside the bounds has a smaller sum."""
    flops = np.repeat(np.geomspace(1e18, 1e21, 6), 7)
    n = np.sqrt(flops / 120) * np.tile(np.geomspace(1 / 4, 4, 7), 6)
    truth = dict(A=450.0, B=2000.0, E=floor, alpha=0.34, beta=0.36)
    data = laws.get("chinchilla").simulate(truth, N=n, D=flops / (6 * n), noise=0.02, seed=seed)
    fit = laws.fit("chinchilla", data, objective="lad")
    assert fit.certificate.is_minimum and ("E" in fit.certificate.active_bounds) == bound
    met = int(np.sum(np.abs(fit.residuals) < 1e-9))
    free = 4 if bound else 5
    assert met == free - 1 if seed in (26, 35) and floor == 1e-3 else met == free
    least, rng = np.sum(np.abs(fit.residuals)), np.random.default_rng(seed)
    for _ in range(2000):
        moved = fit.theta + rng.standard_normal(5) * 10.0 ** rng.uniform(-9, -2)
        moved = np.clip(moved, fit.low, fit.high)
        there = fit.law.curve(fit.law.from_theta(moved), fit.arrays)
        assert np.sum(np.abs(np.log(data["loss"] / there))) >= least * (1 - 1e-12)


def test_the_linear_step_is_the_least_of_all_corners():
    """Against every corner; rows that repeat, weights, and columns that are not independent too."""
    rng = np.random.default_rng(0)
    for case in range(30):
        j, r = rng.standard_normal((9, 3)) * [1.0, 1e-6, 1e4], rng.standard_normal(9)
        weight = rng.uniform(0.2, 3.0, 9)
        if case % 3 == 0:
            j[4:8], r[4:8] = j[:4], r[:4]
        found = absolute.least(j, r, weight)
        assert found is not None
        step, vanish = found
        sums = [
            float(weight @ np.abs(r - j @ np.linalg.solve(j[[*at]], r[[*at]])))
            for at in combinations(range(9), 3)
            if np.linalg.matrix_rank(j[[*at]] / [1.0, 1e-6, 1e4]) == 3
        ]
        assert weight @ np.abs(r + j @ step) == pytest.approx(min(sums), rel=1e-9)
        assert np.abs(r + j @ step)[vanish] == pytest.approx(0, abs=1e-9)
    assert absolute.least(np.ones((4, 2)), np.arange(4.0), np.ones(4)) is None
    assert absolute.least(np.zeros((4, 1)), np.arange(4.0), np.ones(4)) is None


def test_rows_that_repeat_are_one_of_their_weights():
    rng = np.random.default_rng(3)
    n, d = np.exp(rng.uniform(15, 22, 20)), np.exp(rng.uniform(20, 26, 20))
    truth = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
    data = laws.get("chinchilla").simulate(truth, N=n, D=d, noise=0.01, seed=0)
    often = rng.integers(1, 4, 20)
    repeated = {name: np.repeat(values, often) for name, values in data.items()}
    one = laws.fit("chinchilla", repeated, objective="lad")
    other = laws.fit("chinchilla", data, objective="lad", weights=often.astype(float))
    assert one.certificate.is_minimum and other.certificate.is_minimum
    np.testing.assert_allclose(one.theta, other.theta, rtol=1e-9)


def test_what_the_runs_do_not_tell_apart_is_not_certified():
    n, d = np.full(20, 1e8), np.geomspace(1e9, 1e12, 20)
    truth = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
    data = laws.get("chinchilla").simulate(truth, N=n, D=d, noise=0.01, seed=0)
    fit = laws.fit("chinchilla", data, objective="lad")
    assert not fit.certificate.is_minimum
    assert "do not tell" in " ".join(fit.cautions)
    held = laws.fit("chinchilla", data, objective="lad", fixed=truth)  # nothing is searched
    assert held.certificate.is_minimum


@pytest.mark.parametrize("name", ["chinchilla", "kaplan_e"])
def test_resamples_end_at_corners_too(name):
    """Most were taken for failures (59 and 90 of 100), and intervals were of the others alone."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 5), np.geomspace(5e8, 1e11, 5)))
    truth = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
    data = laws.get("chinchilla").simulate(truth, N=n, D=d, noise=0.004, seed=1)
    drawn = laws.fit(name, data, objective="lad").bootstrap(40)
    assert drawn.failed <= 1
    logs = np.log(data["loss"])
    for counts, values in list(zip(drawn.counts, drawn.values, strict=True))[:10]:
        law = drawn.fit.law
        r = logs - np.log(law.curve(values, drawn.fit.arrays))
        assert np.sum((np.abs(r) < 1e-9) & (counts > 0)) >= 4  # 5 parameters, or the floor at its bound
