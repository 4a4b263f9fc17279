"""Hold-outs of checkpoints, of groups, and the naive predictors beside them."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError
from dither.laws import holdout, validation

TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
RUNS, CHECKPOINTS = 8, 10


def checkpoints(seed: int = 0) -> dict[str, np.ndarray]:
    """Eight runs of ten checkpoints, whose losses share the run's own error of 2 %."""
    rng = np.random.default_rng(seed)
    run = np.repeat(np.arange(RUNS), CHECKPOINTS)
    n = np.geomspace(2e7, 5e9, RUNS)[run]
    d = 20 * n * np.tile(np.linspace(0.1, 1, CHECKPOINTS), RUNS) * rng.uniform(0.9, 1.1, len(run))
    loss = laws.get("chinchilla").predict(TRUTH, N=n, D=d) * np.exp(0.02 * rng.standard_normal(RUNS)[run])
    return {"N": n, "D": d, "loss": loss, "run": np.array([f"r{i}" for i in run])}


@pytest.fixture(scope="module")
def several() -> tuple[laws.Fit, np.ndarray]:
    data = checkpoints()
    return laws.fit("chinchilla", data), data["run"]


@pytest.mark.parametrize("how", ["run", "by", "scale/by"])
def test_no_checkpoint_of_a_run_that_is_held_out_is_seen(several: tuple[laws.Fit, np.ndarray], how: str):
    """The largest scale is of one run: all its checkpoints are left out, and the error is a new run's."""
    fit, run = several
    given = {"run": {"run": run}, "by": {"by": run}, "scale/by": {"by": ("scale", run)}}[how]
    found = validation.validate(fit, **given).largest
    assert found is not None and (found.seen, found.held) == (RUNS - 1, 1)
    assert found.unit == ("runs" if how == "run" else "groups")
    own = holdout.HoldOuts(fit)
    top = own.scale == own.scale.max()
    last = run == f"r{RUNS - 1}"
    assert top[last].any() and not top[~last].any() and not top[last].all()
    by_hand = laws.fit("chinchilla", {k: v[~last] for k, v in checkpoints().items()})
    error = np.abs(by_hand.predict(N=fit.arrays["N"][top], D=fit.arrays["D"][top]) / fit.loss[top] - 1).mean()
    assert found.error == pytest.approx(error, rel=1e-6)
    assert own.of(~top, top).seen == 77  # without labels they are rows
    assert holdout.hold_out(fit, ~last, run=run).error == pytest.approx(holdout.hold_out(fit, ~last).error)


def test_every_hold_out_leaves_out_whole_runs(several: tuple[laws.Fit, np.ndarray]):
    fit, run = several
    parts = holdout.HoldOuts(fit, run)
    found = [*parts.rolling(), *parts.left_out()]
    assert found and all(3 <= one.seen <= RUNS - one.held and one.unit == "runs" for one in found)
    without = holdout.HoldOuts(fit)
    assert len(without.left_out()) == without.scale.max() + 1 >= len(parts.left_out())
    assert "7 runs ->   1 run up" in str(validation.validate(fit, run=run))


def test_labels_that_are_no_runs_hold_nothing_out():
    """Seeds and budgets are resampled together, but one of them spans sizes."""
    data = checkpoints()
    fit = laws.fit("chinchilla", data)
    assert holdout.runs_of(fit, np.tile(np.arange(CHECKPOINTS), RUNS)) is None
    assert holdout.runs_of(fit, "scale") is None and holdout.runs_of(fit, None) is None
    assert holdout.runs_of(fit, np.arange(len(fit.loss))) is None
    assert holdout.runs_of(fit, (np.arange(len(fit.loss)), data["run"])) is data["run"]
    with pytest.raises(UserError, match="must be 80, one for each row"):
        validation.validate(fit, run=data["run"][1:])


def test_where_nothing_is_left_it_is_said():
    """Three runs of many checkpoints: with one of them held out two sizes are left, of which no exponent
    follows."""
    data = {key: values[: 3 * CHECKPOINTS] for key, values in checkpoints().items()}
    checks = validation.validate(laws.fit("chinchilla", data), run=data["run"])
    assert checks.largest is None and checks.rolling == () and checks.left_out == ()
    assert "held out:\n  not possible" in str(checks)
    assert checks.card()["largest"] is None and checks.card()["nested"]


@pytest.mark.parametrize("order", range(4))
def test_the_last_loss_is_the_best_of_the_largest_scale(order: int):
    """Budgets that are equal but for rounding: the order of rows says nothing."""
    budgets = np.geomspace(1e18, 1e21, 6)
    n = np.concatenate([np.sqrt(c / 120) * np.geomspace(1 / 3, 3, 7) for c in budgets])
    d = np.repeat(budgets, 7) / (6 * n)
    at = np.random.default_rng(order).permutation(42)
    loss = laws.get("chinchilla").predict(TRUTH, N=n, D=d)
    last, _ = holdout.naive((6 * n * d)[at], loss[at], np.array([1e22]))
    assert last == loss[35:].min() < np.sort(loss)[1]


def test_what_orders_the_rows_is_named():
    law = laws.get("kaplan_n")
    fit = laws.fit(law, law.simulate(dict(A=20.0, alpha=0.08), N=np.geomspace(1e7, 1e9, 24), noise=0.01))
    text = str(validation.validate(fit))
    assert "trend with N" in text and "power law of N" in text and " rows -> " in text
    assert "compute" not in text and "runs" not in text
