"""Maps between losses with errors in both of them and free floors."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError
from dither.laws.descent import differences
from dither.laws.joint_map import _problem, joint_fit

TRUTH = dict(kappa=1.4, K=0.8, E_x=1.6, E_y=1.2)


def made(rows: int, noise: float, seed: int, ends: tuple[float, float] = (1.75, 4.5)):
    """Losses of y from those of x by TRUTH; noise: sd of ln x and ln y."""
    rng = np.random.default_rng(seed)
    x = np.exp(rng.uniform(np.log(ends[0]), np.log(ends[1]), rows))
    y = TRUTH["K"] * (x - TRUTH["E_x"]) ** TRUTH["kappa"] + TRUTH["E_y"]
    noisy = noise * rng.standard_normal((2, rows))
    return x * np.exp(noisy[0]), y * np.exp(noisy[1])


def test_exact_pairs_give_the_map_back():
    found = joint_fit(*made(30, 0.0, 0))
    assert found.params == pytest.approx(TRUTH, rel=1e-4)
    c = found.certificate
    assert c.is_minimum and not c.active_bounds and found.sd < 1e-6


def test_the_jacobian_is_that_of_the_distances():
    x, y = made(25, 0.02, 1)
    found = joint_fit(x, y, ratio=2.0)
    problem = _problem(x, y, 2.0, found.low, found.high, float(np.mean(np.log(x))))
    for theta in (found.theta, found.theta * [1.1, 0.9, 0.97, 0.9]):
        by_differences = differences(problem.residuals, found.low, found.high)(theta)
        assert problem.jacobian(theta) == pytest.approx(by_differences, abs=1e-6)


def test_distances_are_the_least_over_a_fine_grid():
    x, y = made(12, 0.05, 2)
    found = joint_fit(x, y, E_x=1.6)
    t = np.linspace(np.log(1.6), np.log(6), 400_001)[1:, None]
    p = found.params
    f = np.log(p["K"] * (np.exp(t) - p["E_x"]) ** p["kappa"] + p["E_y"])
    squares = np.min((t - np.log(x)) ** 2 + (f - np.log(y)) ** 2, axis=0)
    assert found.value == pytest.approx(0.5 * squares.sum(), rel=1e-4)


def test_the_map_back_is_the_inverse():
    x, y = made(40, 0.005, 3)
    there, back = joint_fit(x, y).params, joint_fit(y, x).params
    assert there["kappa"] * back["kappa"] == pytest.approx(1, rel=1e-4)
    assert (there["E_x"], there["E_y"]) == pytest.approx((back["E_y"], back["E_x"]), rel=1e-3)


def test_parameters_are_recovered_where_regression_is_biased():
    """20 sets of 150 pairs with noise of 4 % in both, at the true floors. Regression of y on x gives a kappa
    more than 6 standard errors of its mean too small; the joint fit is within 3."""
    regression, joint = [], []
    for seed in range(20):
        x, y = made(150, 0.04, seed, ends=(2.1, 4.5))
        u, v = np.log(x - TRUTH["E_x"]), np.log(np.maximum(y - TRUTH["E_y"], 1e-3))
        regression.append(np.polyfit(u, v, 1)[0])
        joint.append(joint_fit(x, y, E_x=TRUTH["E_x"], E_y=TRUTH["E_y"]).params["kappa"])
    off = {}
    for name, values in (("regression", regression), ("joint", joint)):
        off[name] = (np.mean(values) - TRUTH["kappa"]) / (np.std(values, ddof=1) / np.sqrt(len(values)))
    assert off["regression"] < -6 and abs(off["joint"]) < 3, off


@pytest.mark.slow
def test_intervals_cover():
    """95 % profile intervals over 60 sets of 60 pairs: 57 expected with a standard deviation of 1.7."""
    covered = dict.fromkeys(("kappa", "E_x", "E_y"), 0)
    for seed in range(60):
        found = joint_fit(*made(60, 0.005, seed))
        for name in covered:
            low, high = found.interval(name)
            covered[name] += (low is None or low < TRUTH[name]) and (high is None or high > TRUTH[name])
    print(covered)
    assert min(covered.values()) >= 52, covered


def test_intervals_and_resamples_agree_and_what_is_not_identified_has_no_end():
    found = joint_fit(*made(60, 0.005, 0))
    low, high = found.interval("kappa")
    assert low is not None and high is not None and low < TRUTH["kappa"] < high
    drawn = found.bootstrap(40, seed=1)
    assert drawn.shape == (40, 4)
    spread = np.percentile(drawn[:, 0], 97.5) - np.percentile(drawn[:, 0], 2.5)
    assert 0.4 < (high - low) / spread < 2.5
    # nearly straight: no floor shows
    far = joint_fit(*made(20, 0.01, 0, ends=(3.5, 4.5)))
    assert far.interval("E_x")[0] is None


def test_it_is_the_map_of_two_tables():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 1e9, 6), np.geomspace(3e8, 3e10, 6)))
    law, truth = laws.get("kaplan_e"), dict(A=5e7, B=8e8, E=1.9, alpha=0.41, beta=0.45)
    x, clean = law.simulate(truth, N=n, D=d, noise=0.002, seed=0), law.predict(truth, N=n, D=d)
    noise = 0.002 * np.random.default_rng(1).standard_normal(36)
    y = {**x, "loss": (0.6 * (clean - 1.9) ** 1.2 + 1.3) * np.exp(noise)}
    map_ = laws.loss_to_loss(x, y, E_x="free", E_y="free", errors="both")
    assert map_.joint is not None and map_.joint.certificate.is_minimum
    low, high = map_.joint.interval("kappa")
    assert (low is None or low < 1.2) and (high is None or high > 1.2)
    assert map_.predict(3.0) == pytest.approx(0.6 * 1.1**1.2 + 1.3, rel=0.005) and map_.r2 > 0.99
    half = laws.loss_to_loss(x, y, E_x=1.9, E_y="free", errors="both")
    assert half.E_x == 1.9 and half.kappa == pytest.approx(1.2, abs=0.1)
    assert {"A", "B", "E"} <= set(half.translate(truth))


def tables(x: np.ndarray, y: np.ndarray) -> list[dict[str, np.ndarray]]:
    keys = {"N": np.geomspace(1e7, 1e9, len(x)), "D": np.geomspace(1e8, 1e10, len(x))}
    return [{**keys, "loss": x}, {**keys, "loss": y}]


BAD = [
    (lambda x, y: joint_fit(x[:4], y[:4]), "4 pairs for 4 parameters"),
    (lambda x, y: joint_fit(x, y, E_x=9.0), "not below every loss"),
    (lambda x, y: joint_fit(x, y, ratio=0.0), "a positive number, not 0"),
    (lambda x, y: joint_fit(x, y).interval("K"), "give one of kappa, E_x, E_y"),
    (lambda x, y: joint_fit(x, y, E_x=1.6).interval("E_x"), "give one of kappa, E_y"),
    (lambda x, y: laws.loss_to_loss(*tables(x, y), E_x="free"), "needs errors='both'"),
    (lambda x, y: laws.loss_to_loss(*tables(x, y), E_x="Free", errors="both"), "or 'free', not 'Free'"),
    (lambda x, y: laws.loss_to_loss(*tables(x, y), E_x=1.0, E_y=1.0, ratio=2.0), "belongs to a joint fit"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call, message: str):
    with pytest.raises(UserError, match=message):
        call(*made(20, 0.01, 0))
