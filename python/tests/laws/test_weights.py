"""Weights of runs: their unit changes nothing, and rows of weight 0 are not there."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError
from dither.laws import validation

TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
RUNS = 36
AT = {"N": 1e10, "D": 2e11}


def made(seed: int = 0) -> dict[str, np.ndarray]:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 6), np.geomspace(5e8, 1e11, 6)))
    return laws.get("chinchilla").simulate(TRUTH, N=n, D=d, noise=0.01, seed=seed)


def among_others(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Four other rows: one before, two between, one after those of a table."""
    return np.concatenate([others[:1], values[:20], others[1:3], values[20:], others[3:]])


@pytest.mark.parametrize("objective", ["log_square", "huber", "lad"])
def test_the_unit_of_weights_changes_no_interval_and_no_test(objective: str):
    weights = 1 + np.arange(RUNS) % 3
    found = []
    for unit in (1.0, 100.0, 0.01):
        fit = laws.fit("chinchilla", made(), objective=objective, weights=unit * weights)
        one = fit.profile("E", points=0)
        tests = validation.nested(fit)
        found.append((one.low, one.high, *(test.worse for test in tests), *(test.rejected for test in tests)))
    assert found[1] == pytest.approx(found[0], rel=1e-4) and found[2] == pytest.approx(found[0], rel=1e-4)
    assert found[0][0] < fit.params["E"] < found[0][1] < 2.2


def test_weights_of_one_are_none():
    fits = [laws.fit("chinchilla", made(), weights=w) for w in (None, np.ones(RUNS))]
    ends = [(one.low, one.high) for one in (fit.profile("E", points=0) for fit in fits)]
    assert ends[0] == ends[1]


def with_rows_of_weight_0() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Losses below the floor, broken, in other units, and far above."""
    data = made()
    table = {name: among_others(values, values[:4]) for name, values in data.items()}
    weights = among_others(np.ones(RUNS), np.zeros(4))
    table["loss"][weights == 0] = 0.9, np.nan, 40.0, 3.0
    return table, weights


def test_rows_of_weight_0_are_not_there():
    table, weights = with_rows_of_weight_0()
    alone = laws.fit("chinchilla", made(), weights=np.ones(RUNS))
    fit = laws.fit("chinchilla", table, weights=weights)
    assert fit.params == alone.params and fit.cautions == alone.cautions
    assert fit.card() == alone.card() and fit.card()["rows"] == RUNS
    one, other = fit.profile("E", points=0), alone.profile("E", points=0)
    assert (one.low, one.high, one.limit) == (other.low, other.high, other.limit)
    assert laws.predict_interval(fit, AT, n=50) == laws.predict_interval(alone, AT, n=50)
    groups = np.arange(RUNS) // 6
    given = among_others(groups, np.arange(4))
    body = among_others(0.9 * made()["N"], np.ones(4))
    checks = laws.validate(fit, by=given, other_N={"body": body})
    assert checks.card() == laws.validate(alone, by=groups, other_N={"body": 0.9 * made()["N"]}).card()
    drawn = fit.bootstrap(50, by=given)
    assert drawn.groups == 6 and (drawn.values == alone.bootstrap(50, by=groups).values).all()
    counts = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=30)
    assert (
        fit.bootstrap(weights=counts).values == alone.bootstrap(weights=counts[:, weights > 0]).values
    ).all()


def test_messages_number_the_rows_of_the_table():
    table, weights = with_rows_of_weight_0()
    table["loss"][30] *= 1.5
    assert "rows 31 lie more than" in " ".join(laws.fit("chinchilla", table, weights=weights).cautions)
    table, weights = with_rows_of_weight_0()
    table["N"][[2, 39 - 1]] /= 1e9
    said = " ".join(laws.fit("chinchilla", table, weights=weights).cautions)
    assert "Rows 3, 39 (2 of 36) lie apart" in said


BAD = [
    (np.r_[np.inf, np.ones(RUNS - 1)], "finite numbers that are not negative"),
    (np.r_[np.nan, np.ones(RUNS - 1)], "finite numbers that are not negative"),
    (np.ones(RUNS - 1), "weights must be 36"),
    (np.zeros(RUNS), "no rows of a weight above 0"),
    (np.r_[np.ones(4), np.zeros(RUNS - 4)], "there are 4 rows"),
]


@pytest.mark.parametrize(("weights", "message"), BAD)
def test_weights_that_cannot_be_are_named(weights: np.ndarray, message: str):
    with pytest.raises(UserError, match=message):
        laws.fit("chinchilla", made(), weights=weights)


def test_labels_are_of_all_rows():
    table, weights = with_rows_of_weight_0()
    fit = laws.fit("chinchilla", table, weights=weights)
    with pytest.raises(UserError, match="must be 40, one for each row of the table"):
        fit.bootstrap(10, by=np.arange(RUNS))
