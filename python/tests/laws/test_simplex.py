"""The shares that make a loss least, against optima known otherwise."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError


@pytest.mark.parametrize("scale", [1e-6, 1.0, 4.0, 30.0, 1e6])
def test_the_best_shares_do_not_depend_on_the_scale_of_the_loss(scale):
    """Least where 8 exp(-8 r) = 6 exp(6 r - 2), r = (2 + ln(8/6)) / 14. A first step that is too long for
    the slope must not lose a share for good."""

    def loss(r):
        return scale * float(np.exp(-8 * r[0]) + np.exp(4 * r[0] - 2 * r[1]))

    found, value = laws.best_mixture(loss, 2)
    best = (2 + np.log(8 / 6)) / 14
    assert found[0] == pytest.approx(best, abs=1e-6)
    assert value == pytest.approx(loss(np.array([best, 1 - best])), rel=1e-12)


def test_no_random_convex_loss_is_left_above_its_optimum():
    """150 sums of exponentials over 2 to 8 domains, of slopes from 1 to 20 and scales over 12 decades: a
    bound by the exact slopes, and scipy's own search from here and the equal mixture, find nothing lower."""
    optimize = pytest.importorskip("scipy.optimize")
    for seed in range(150):
        rng = np.random.default_rng(seed)
        domains, terms = int(rng.integers(2, 9)), int(rng.integers(1, 7))
        t = rng.normal(0, rng.choice([1, 5, 20]), (terms, domains))
        weights = np.exp(rng.normal(0, 2, terms)) * rng.choice([1e-6, 1, 1e6])

        def loss(q, t=t, weights=weights):
            return float(weights @ np.exp(t @ q))

        def slope(q, t=t, weights=weights):
            return t.T @ (weights * np.exp(t @ q))

        found, value = laws.best_mixture(loss, domains)
        assert (found >= 0).all() and found.sum() == pytest.approx(1, abs=1e-12)
        assert value == loss(found)
        # Of a convex loss no shares lie lower than this below; it is a root of how far they do.
        assert slope(found) @ found - slope(found).min() < 1e-2 * value, seed
        for start in (np.full(domains, 1 / domains), 0.9 * found + 0.1 / domains):
            other = optimize.minimize(
                lambda q, f=loss, v=value: f(q) / v, start, jac=lambda q, s=slope, v=value: s(q) / v,
                method="SLSQP", bounds=[(0, 1)] * domains, options={"maxiter": 1000, "ftol": 1e-14},
                constraints={"type": "eq", "fun": lambda q: q.sum() - 1, "jac": np.ones_like},
            )  # fmt: skip
            assert not other.success or abs(other.x.sum() - 1) > 1e-9 or other.fun > 1 - 1e-8, seed


def test_the_best_mixture_is_that_of_a_fine_grid():
    t = np.array([[-2.0, 0.3, 0.1], [0.2, -1.5, 0.0], [0.4, 0.1, -2.5]])

    def loss(shares):
        return float(np.exp(t @ shares) @ [0.5, 0.3, 0.2])

    found, value = laws.best_mixture(loss, 3)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    ticks = np.linspace(0, 1, 201)
    grid = [(loss(np.array([a, b, 1 - a - b])), a, b) for a in ticks for b in ticks if a + b <= 1]
    best = min(grid)
    assert value <= best[0] and best[0] - value < 1e-4
    assert found[:2] == pytest.approx(best[1:], abs=0.01)


def test_a_domain_that_only_harms_gets_nothing():
    found, value = laws.best_mixture(lambda h: float(2 + h[0] + (h[1] - 0.5) ** 2 + (h[2] - 0.5) ** 2), 3)
    assert found == pytest.approx([0, 0.5, 0.5], abs=1e-6) and value == pytest.approx(2, abs=1e-12)


def test_a_share_may_be_needed_however_small():
    """2507.09404's form is infinite where a domain that it needs has no share."""
    weights, powers = np.array([0.5, 0.2, 0.01]), np.array([0.3, 0.5, 0.2])
    found, _ = laws.best_mixture(lambda h: float(1 / (weights @ h**powers)), 3)
    assert found[2] == pytest.approx(0.00339, abs=1e-5)
    worth = weights * powers * found ** (powers - 1)
    assert worth == pytest.approx([worth[0]] * 3, rel=1e-4)  # alike at the optimum
    weights = np.array([0.1, 0.1, 0.1, 0.01])
    with np.errstate(divide="ignore"):
        found, _ = laws.best_mixture(lambda h: float(weights @ h**-0.3), 4)
    assert found == pytest.approx([0.3154] * 3 + [0.0537], abs=1e-4)


def test_losses_without_slope_corners_and_losses_that_bend_down():
    assert laws.best_mixture(lambda h: 1.0, 3)[0] == pytest.approx([1 / 3] * 3)
    assert laws.best_mixture(lambda h: float(h @ [3, 1, 2]), 3)[0] == pytest.approx([0, 1, 0], abs=1e-9)
    found, value = laws.best_mixture(lambda h: -float(h @ h) + 0.01 * h[0], 3)
    assert found[0] == 0 and value <= -0.5  # below the equal mixture


def test_losses_that_cannot_be_searched_are_refused():
    with pytest.raises(UserError, match="two domains"):
        laws.best_mixture(lambda h: 1.0, 1)
    with pytest.raises(UserError, match="is the loss smooth"):
        laws.best_mixture(lambda h: float(np.floor(10 * h[0]) + h[1] ** 2), 3)
    with pytest.raises(UserError, match="not finite"):
        laws.best_mixture(lambda h: float("nan"), 3)
