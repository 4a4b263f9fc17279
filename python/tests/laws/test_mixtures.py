"""Mixtures of data and what filtered data is worth when it is seen again."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError
from dither.laws.mixtures import pool_utility

pytest.importorskip("scipy")
DOMAINS = ("code", "prose", "web")


def test_a_mixing_law_gives_back_its_parameters():
    law = laws.mixing(DOMAINS)
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    truth = dict(c=1.4, t_code=0.3, t_prose=-0.8, t_web=-0.2)
    data = law.simulate(truth, **dict(zip(DOMAINS, shares.T, strict=True)))
    expected = 1.4 + np.exp(shares @ [0.3, -0.8, -0.2])
    np.testing.assert_allclose(data["loss"], expected, rtol=1e-12)
    assert laws.fit(law, data, objective="log_square").params == pytest.approx(truth, rel=1e-4)
    with pytest.raises(UserError, match="two domains"):
        laws.mixing(("code", "code"))


def mixed_runs(noise=0.002, rows=30):
    """Runs at shares of three domains, some of them zero, and the fits to the losses on two texts."""
    shares = np.random.default_rng(1).dirichlet(np.ones(3), rows)
    shares[:3] = np.eye(3)
    law, at = laws.mixing(DOMAINS), dict(zip(DOMAINS, shares.T, strict=True))
    truth = {
        "code": dict(c=1.2, t_code=-2.0, t_prose=0.1, t_web=-0.4),
        "prose": dict(c=1.5, t_code=0.2, t_prose=-1.5, t_web=-0.9),
    }
    fits = {
        name: laws.fit(law, law.simulate(p, noise=noise, seed=i, **at), objective="log_square")
        for i, (name, p) in enumerate(truth.items())
    }
    return law, truth, fits


def test_the_best_mixture_of_several_losses_lies_between():
    """Against the optimum of the laws that made the runs, of which the intervals hold all values."""
    law, truth, fits = mixed_runs()
    weights = np.array([0.75, 0.25])

    def losses(shares):
        at = dict(zip(DOMAINS, shares, strict=True))
        return np.array([float(law.predict(p, **at)) for p in truth.values()])

    best, value = laws.best_mixture(lambda r: float(weights @ losses(r)), 3)
    found = laws.mixture(fits, [3, 1], n=60)
    expected = dict(zip(DOMAINS, best, strict=True)) | {"mean loss": value}
    expected |= {f"loss {name}": one for name, one in zip(truth, losses(best), strict=True)}
    assert set(found.values) == set(expected) == set(found.intervals)
    for name, one in expected.items():
        low, high = found.intervals[name]
        assert low - 1e-9 <= one <= high + 1e-9, name
        assert found.values[name] == pytest.approx(one, abs=0.02)
    assert 0.3 < found.values["code"] < 0.9 and found.values["web"] == pytest.approx(0, abs=1e-6)


def test_mixtures_that_cannot_be_decided_are_refused():
    law, _, fits = mixed_runs(rows=12)
    with pytest.raises(UserError, match="always least with one domain alone"):
        laws.mixture({"code": fits["code"]})
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(UserError, match="one positive weight for each of the 2"):
            laws.mixture(fits, weights)
    turned: dict = {name: values[::-1] for name, values in fits["code"].arrays.items()}
    other = law.simulate(fits["code"].params, **turned)
    with pytest.raises(UserError, match="to the same runs"):
        laws.mixture(fits | {"other": laws.fit(law, other)})
    with pytest.raises(UserError, match=r"web .* at least 0.*rows 2 are"):
        law.arrays({"code": [0.5, 0.7], "prose": [0.5, 0.4], "web": [0.0, -0.1]})


def test_shares_outside_those_of_the_runs_are_said():
    shares = 0.2 + 0.4 * np.random.default_rng(0).dirichlet(np.ones(3), 30)
    law, at = laws.mixing(DOMAINS), dict(zip(DOMAINS, shares.T, strict=True))
    fits = {
        str(i): laws.fit(law, law.simulate(dict(c=1.0, t_web=0.5, t_code=-2.0 * i, t_prose=-1.0), **at))
        for i in (0, 1)
    }
    said = laws.mixture(fits, n=20).cautions
    assert any("the best share of web, 0, lies outside those of the runs (0.2" in text for text in said)


def test_the_utility_of_a_pool_halves_later_than_that_of_a_bucket():
    assert pool_utility(-0.2, 2.0, np.array([1, 3, 5])) == pytest.approx([-0.2, -0.1, -0.05])
    assert pool_utility([-0.2, -0.2], [2.0, 2.0], np.array([1, 5])) == pytest.approx([-0.2, -0.1])
    with pytest.raises(UserError, match="half-life"):
        pool_utility([-0.2, -0.1], [1.0, 0.0], 1)


def test_better_data_wins_a_short_run_and_more_data_a_long_one():
    best = laws.filtered_error(10.0, 0.1, -0.25, 1.0, 1e6, 40)
    both = laws.filtered_error(10.0, 0.1, [-0.25, -0.24], [1.0, 1.0], 2e6, 20)  # as many samples in all
    assert best[0] == pytest.approx(0.1 + 10 * 1e6**-0.25)
    assert np.all(np.diff(best) < 0)
    assert both[-1] < best[-1]
    with pytest.raises(UserError, match="at least"):
        laws.filtered_error(1.0, 0.1, -0.2, 1.0, 1e6, 0)
