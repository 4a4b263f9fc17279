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
