"""Losses known as intervals: the likelihood, means, the noise between reruns, and laws fitted to them."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError
from dither.laws.intervals import likelihood
from dither.paired import paired_interval

TRUTH = {"A": 1900.0, "B": 2.2e4, "E": 0.53, "alpha": 0.5, "beta": 0.557}


def test_the_likelihood_of_an_interval_is_its_chance_also_far_in_the_tails():
    stats = pytest.importorskip("scipy.stats")
    low = np.array([-1.0, -np.inf, 2.0, 30.0, -40.0, 0.0, 1.0])
    high = np.array([0.5, 0.3, np.inf, 30.001, -39.0, 1e-9, 1.0])
    log, mean = likelihood(0.1, 0.7, low, high)
    a, b = (low - 0.1) / 0.7, (high - 0.1) / 0.7
    normal = stats.norm
    expected = [np.log(normal.cdf(b[i]) - normal.cdf(a[i])) for i in (0, 1)]
    expected.append(normal.logsf(a[2]))
    expected.append(normal.logsf(a[3]) + np.log1p(-np.exp(normal.logsf(b[3]) - normal.logsf(a[3]))))
    expected.append(normal.logcdf(b[4]) + np.log1p(-np.exp(normal.logcdf(a[4]) - normal.logcdf(b[4]))))
    expected.append(normal.logpdf(a[5]) - np.log(0.7) + np.log(1e-9))
    expected.append(normal.logpdf(a[6]) - np.log(0.7))
    assert np.allclose(log, expected, rtol=1e-6)
    for i in (0, 1, 2):
        truncated = stats.truncnorm(a[i], b[i], loc=0.1, scale=0.7)
        assert mean[i] == pytest.approx(truncated.mean(), rel=1e-9)
    assert ((mean >= low) & (mean <= high)).all()


def test_the_interval_of_exact_values_is_students():
    values = np.random.default_rng(3).standard_normal(9)
    found, expected = laws.interval_mean(values, values), paired_interval(values.tolist(), [0.0] * 9)
    assert found.value == pytest.approx(expected.mean)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6)


def test_means_of_values_rounded_coarser_than_their_spread_are_covered():
    """20 simulations; a coverage of 95 % gives fewer than 17 in less than 2 % of such tests."""
    noise, covered, off = np.random.default_rng(4), 0, []
    for _ in range(20):
        values = np.round((0.003 + 0.004 * noise.standard_normal(12)) / 0.005) * 0.005
        found = laws.interval_mean(*laws.rounded(values, 0.005), noise=0.002)
        covered += found.low <= 0.003 <= found.high
        off.append(found.value - 0.003)
    assert covered >= 17 and abs(np.mean(off)) < 0.0012


def test_a_bound_on_one_side_moves_a_mean_to_its_side_and_an_open_side_is_refused():
    low, high = np.array([1.0, 1.1, 0.9, -np.inf]), np.array([1.0, 1.1, 0.9, 0.2])
    assert laws.interval_mean(low, high).value < 0.95
    unknown = laws.interval_mean(np.append(low[:3], -np.inf), np.append(high[:3], np.inf))
    assert unknown.value == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(UserError, match="open on one side"):
        laws.interval_mean([0.0] * 3, [np.inf] * 3)
    for wrong in (
        ([1.0, 2.0, 3.0], [0.5, 3.0, 4.0]),
        ([1.0, np.nan, 1.0], [1.0, 1.0, 1.0]),
        ([1.0], [1.0, 2.0]),
    ):
        with pytest.raises(UserError):
            laws.interval_mean(*wrong)


def test_a_median_counts_infinite_and_unknown_values_and_its_interval_covers():
    """400 samples of 11; the order statistics 2 and 10 cover the median in 98.8 % of them."""
    found = laws.interval_median([0.0, 1, 2, 3, 4, np.inf, -np.inf], [0.5, 1, 2, 3, 4, np.inf, np.inf])
    assert (found.low, found.value, found.high) == (-np.inf, 2.5, np.inf) and found.n == 7
    endless = laws.interval_median([np.inf] * 7, [np.inf] * 7)
    assert endless.value == np.inf and endless.sd == 0
    noise = np.random.default_rng(6).standard_normal((400, 11))
    covered = np.mean([(e := laws.interval_median(x, x)).low <= 0 <= e.high for x in noise])
    assert 0.965 < covered <= 1
    with pytest.raises(UserError, match="too few"):
        laws.interval_median([1.0] * 5, [1.0] * 5)
    with pytest.raises(UserError, match="median may be anything"):
        laws.interval_median([-np.inf] * 7, [np.inf] * 7)
    with pytest.raises(UserError, match="NaN"):
        laws.interval_median([np.nan] * 8, [1.0] * 8)


def test_the_noise_between_reruns_is_recovered_from_rounded_pairs():
    """100 pairs: the sd is known to 7 %; a rounding step of the sd's size would bias plain differences."""
    noise = np.random.default_rng(5)
    values = noise.uniform(0.7, 1.1, 100)[:, None] + 0.006 * noise.standard_normal((100, 2))
    cells = [laws.rounded(np.round(pair / 0.005) * 0.005, 0.005) for pair in values]
    found = laws.rerun_noise(cells)
    assert found.low < 0.006 < found.high and found.value == pytest.approx(0.006, rel=0.2)
    assert found.n == 100
    five = laws.rerun_noise(cells[:5])
    assert five.high / five.low > 2  # few pairs say little
    with pytest.raises(UserError, match="run twice"):
        laws.rerun_noise([laws.rounded([1.0], 0.005)])
    with pytest.raises(UserError, match="agree exactly"):
        laws.rerun_noise([([1.0, 1.0], [1.0, 1.0])])


def sweep(seed: int, sd: float, step: float):
    noise = np.random.default_rng(seed)
    n = np.repeat(np.geomspace(2e7, 1.7e9, 7), 6)
    d = np.tile(np.geomspace(3e8, 3e10, 6), 7)
    loss = laws.get("chinchilla").predict(TRUTH, N=n, D=d) * np.exp(sd * noise.standard_normal(len(n)))
    low, high = laws.rounded(np.round(loss / step) * step if step else loss, step)
    return {"N": n, "D": d, "low": low, "high": high, "loss": loss}


def test_exact_losses_give_the_least_squares_fit():
    data = sweep(0, 0.005, 0.0)
    found = laws.fit_intervals("chinchilla", data)
    plain = laws.fit("chinchilla", data, objective="log_square")
    assert found.params == pytest.approx(plain.params, rel=1e-4) and found.certified
    assert found.sd == pytest.approx(float(np.sqrt(np.mean(plain.residuals**2))), rel=1e-3)
    assert found.counts == {"exact": 42, "rounded": 0, "bounded": 0}


def test_a_law_is_recovered_from_rounded_and_bounded_losses():
    """A fifth of the runs broke off: only that their loss lies below what they had is known."""
    data = sweep(1, 0.006, 0.02)
    broken = np.random.default_rng(2).random(42) < 0.2
    data["low"] = np.where(broken, 0.0, data["low"])
    data["high"] = np.where(broken, data["loss"] * 1.1, data["high"])
    found = laws.fit_intervals("chinchilla", data, noise=0.004)
    assert found.certified and found.counts["bounded"] == int(broken.sum())
    assert 0.004 <= found.sd < 0.01
    for name in ("E", "alpha"):
        low, high = found.interval(name)
        assert low < TRUTH[name] < high
    assert found.predict(N=1e9, D=2e10) == pytest.approx(
        laws.get("chinchilla").predict(TRUTH, N=1e9, D=2e10), rel=0.01
    )


@pytest.mark.slow
def test_the_interval_of_the_floor_covers_it_where_rounding_is_coarse():
    """30 sweeps; 95 % coverage gives fewer than 26 in less than 2 % of such tests."""
    found = [laws.fit_intervals("chinchilla", sweep(s, 0.004, 0.01)).interval("E") for s in range(100, 130)]
    assert sum(low <= TRUTH["E"] <= high for low, high in found) >= 26


def test_what_cannot_be_fitted_is_refused_in_words():
    data = sweep(0, 0.005, 0.005)
    with pytest.raises(UserError, match="positive"):
        laws.fit_intervals("chinchilla", {**data, "low": data["low"] - 5})
    with pytest.raises(UserError, match="low <= high"):
        laws.fit_intervals("chinchilla", {**data, "low": data["high"] + 1})
    few = {name: values[:6] for name, values in data.items()}
    few["low"] = np.array([few["low"][0], *[0.0] * 5])
    with pytest.raises(UserError, match="free parameters"):
        laws.fit_intervals("chinchilla", few)
    with pytest.raises(UserError, match="no interval of"):
        laws.fit_intervals("chinchilla", data).interval("gamma")
