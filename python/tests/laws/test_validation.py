"""Held-out errors, trends, nested laws and intervals, on generated runs of a law that is right or wrong."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError
from dither.laws import holdout, isoflop, scales, trends, validation

TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
BUDGETS = np.geomspace(1e18, 1e21, 6)
TARGET = {"N": 8e9, "D": 2e11}


def sweep(
    noise: float = 0.005, seed: int = 0, budgets: np.ndarray = BUDGETS, law: str = "chinchilla", **params
):
    """Seven sizes at each budget, about the optimal one."""
    n = np.concatenate([np.sqrt(c / 120) * np.geomspace(1 / 3, 3, 7) for c in budgets])
    d = np.repeat(budgets, 7) / (6 * n)
    return laws.get(law).simulate(params or TRUTH, N=n, D=d, noise=noise, seed=seed)


def curved(seed: int = 0) -> dict[str, np.ndarray]:
    """Runs of no law of the catalogue: the loss waves with compute."""
    data = sweep(0.002, seed)
    c = np.log(data["N"] * data["D"])
    return data | {"loss": data["loss"] * (1 + 0.01 * np.sin(2 * (c - c.mean()) / c.std()))}


def test_scales_are_budgets():
    data = sweep()
    scale = scales.scales({"N": data["N"], "D": data["D"]})
    assert (scale == np.repeat(np.arange(6), 7)).all()
    dense = np.geomspace(1, 1e4, 400)
    wide = scales.scales({"C": dense})
    assert all(
        np.ptp(np.log(dense[wide == i])) <= np.log(scales.WIDEST) + 1e-9 for i in range(wide.max() + 1)
    )


def test_hold_outs_of_a_right_law():
    fit = laws.fit("chinchilla", sweep())
    checks = laws.validate(fit)
    assert checks.largest is not None and checks.largest.seen == 35 and checks.largest.held == 7
    assert checks.largest.factor == pytest.approx(10**0.6, rel=1e-6)
    # Noise of .5 %: the law predicts to about that, naive predictors do not.
    assert checks.largest.error < 0.01 < checks.largest.last
    assert checks.largest.reducible > checks.largest.error
    assert len(checks.left_out) == 6 and len(checks.rolling) == 5
    assert checks.trend.p > 0.01 and len(checks.trend.means) == 6
    assert {"as fitted", "lad", "10 highest losses dropped"} <= set(checks.sensitivity)
    assert "largest scale held out" in str(checks)


def test_sensitivities_are_fits_to_other_choices():
    data = sweep()
    fit = laws.fit("chinchilla", data)
    body = data["N"] - 3e5 * np.sqrt(data["N"] / 1e7)
    early = {key: np.concatenate([values, values]) for key, values in data.items()}
    early["D"][42:] /= 3
    early["loss"][42:] *= 1.1
    found = laws.sensitivities(fit, other_N={"body": body}, checkpoints={"all": early})
    assert found["as fitted"] is fit
    assert {"huber(0.0001)", "huber(0.01)", "log_square", "lad", "highest loss dropped"} <= set(found)
    by_hand = {
        "N: body": data | {"N": body},
        "checkpoints: all": early,
        "D/N below 10 dropped": {k: v[data["D"] / data["N"] >= 10] for k, v in data.items()},
        "5 highest losses dropped": {k: v[np.argsort(data["loss"])[:-5]] for k, v in data.items()},
    }
    for name, rows in by_hand.items():
        expected = laws.fit("chinchilla", rows)
        assert len(found[name].loss) == len(rows["loss"]), name
        assert found[name].params == pytest.approx(expected.params, rel=1e-4), name
        assert expected.params["B"] != pytest.approx(fit.params["B"], rel=1e-3), name
    with pytest.raises(UserError, match="must be 42, one for each row of the table"):
        laws.sensitivities(fit, other_N={"body": body[1:]})
    with pytest.raises(UserError, match="must be positive"):
        laws.sensitivities(fit, other_N={"body": body - body.max()})
    with pytest.raises(UserError, match="no column 'loss'"):
        laws.sensitivities(fit, checkpoints={"all": {"N": body, "D": body}})


def test_checkpoints_keep_their_weights():
    data = sweep()
    counted, early = 1.0 + np.arange(42) % 3, {**data, "loss": data["loss"] * 1.01}
    fit = laws.fit("chinchilla", data, weights=counted)
    found = laws.sensitivities(fit, checkpoints={"early": {**early, "weights": counted}})[
        "checkpoints: early"
    ]
    assert found.params == pytest.approx(laws.fit("chinchilla", early, weights=counted).params, rel=1e-4)
    assert found.params["B"] != pytest.approx(laws.fit("chinchilla", early).params["B"], rel=1e-3)
    with pytest.raises(UserError, match="no column 'weights'"):
        laws.sensitivities(fit, checkpoints={"early": early})
    with pytest.raises(UserError, match=r"checkpoints 'early': .*losses that are missing.*rows 4"):
        lost = {**early, "loss": np.where(np.arange(42) == 3, np.nan, early["loss"]), "weights": counted}
        laws.sensitivities(fit, checkpoints={"early": lost})


def test_a_floor_that_is_not_there_is_no_number():
    fit = laws.fit(
        "chinchilla", sweep(0.03, 5, BUDGETS[:3], A=450.0, B=2000.0, E=1e-4, alpha=0.34, beta=0.36)
    )
    assert "(at its bound)" in str(fit) and "E went to 0" in str(fit)
    rows = {
        line[2:].split("  ")[0]: line
        for line in str(laws.validate(fit)).split("\n")
        if "at its bound" in line
    }
    assert "as fitted" in rows


def test_the_hold_out_is_the_fit_to_the_rest():
    data = sweep()
    fit = laws.fit("chinchilla", data)
    seen = np.arange(42) < 35
    found = holdout.hold_out(fit, seen)
    part = laws.fit("chinchilla", {key: values[seen] for key, values in data.items()})
    predicted = part.predict(N=data["N"][~seen], D=data["D"][~seen])
    assert found.bias == pytest.approx(np.mean(predicted / data["loss"][~seen] - 1), rel=1e-9)


def test_a_wrong_law_leaves_a_trend_and_no_calibrated_interval():
    fit = laws.fit("chinchilla", curved())
    assert trends.residual_trend(fit).p < 0.01
    assert "residuals still depend on compute" in validation.uncalibrated(fit)
    found = laws.predict_interval(fit, TARGET, n=100)
    assert not found.calibrated and "not calibrated" in str(found)


def test_size_and_tokens_that_grow_together_are_named():
    n = np.geomspace(1e8, 1e10, 24)
    runs = laws.get("chinchilla").simulate(TRUTH, N=n, D=20 * n, noise=0.003, seed=1)
    fit = laws.fit("chinchilla", runs)
    assert "D/N is 20 in all runs: their terms are not told apart" in " ".join(fit.cautions)
    assert validation.uncalibrated(fit) == "D/N is 20 in all runs"
    assert "in all runs" not in " ".join(laws.fit("chinchilla", sweep()).cautions)


def test_nested_laws():
    wrong = {one.name: one.rejected for one in validation.nested(laws.fit("chinchilla", sweep(0.002)))}
    assert wrong["E = 0"]
    tied = sweep(0.005, 1, law="chinchilla_tied", A=500.0, B=1500.0, E=1.9, alpha=0.35)
    right = {one.name: one.rejected for one in validation.nested(laws.fit("chinchilla", tied))}
    assert not right["alpha = beta"] and right["E = 0"]


def test_nested_laws_stay_within_the_bounds_of_the_fit():
    data = sweep(0.002)
    free = {one.name: one for one in validation.nested(laws.fit("chinchilla", data))}
    bounded = laws.fit("chinchilla", data, bounds={"beta": (0, 0.3)})
    found = {one.name: one for one in validation.nested(bounded)}
    assert all(one.worse > 0 for one in found.values()), found
    tied = laws.fit("chinchilla_tied", data, bounds={"alpha": (0, 0.3)})
    assert found["alpha = beta"].worse == pytest.approx(tied.value / bounded.value - 1, rel=1e-6)
    assert free["E = 0"].rejected and found["E = 0"].rejected


HELD = [
    ({"fixed": {"E": 1.8}}, ["alpha = beta"]),
    ({"fixed": {"E": 0.0}}, ["alpha = beta"]),
    ({"bounds": {"E": (1.0, 2.0)}}, ["alpha = beta"]),
    ({"bounds": {"E": (0.0, 2.0)}}, ["E = 0", "alpha = beta"]),
    ({"fixed": {"alpha": 0.34}}, ["E = 0", "alpha = beta"]),
    ({"fixed": {"alpha": 0.34, "beta": 0.36}}, ["E = 0"]),
    ({"fixed": {"alpha": 0.35, "beta": 0.35}}, ["E = 0"]),
    ({"bounds": {"alpha": (0.2, 0.3), "beta": (0.4, 0.5)}}, ["E = 0"]),
]


@pytest.mark.parametrize(("held", "names"), HELD)
def test_what_is_held_is_not_tested(held: dict, names: list[str]):
    fit = laws.fit("chinchilla", sweep(0.005, 1), **held)
    found = validation.nested(fit)
    assert [one.name for one in found] == names and all(one.worse > -1e-6 for one in found)


def test_predictions_state_their_distance_and_their_rivals():
    fit = laws.fit("chinchilla", sweep())
    found = laws.predict_interval(fit, TARGET, n=200)
    truth = float(laws.get("chinchilla").predict(TRUTH, **TARGET))
    assert found.family_low <= found.low < truth < found.high <= found.family_high
    assert set(found.rivals) == {"kaplan_e", "gamma", "chinchilla_tied"} and found.factor > 5
    with pytest.raises(UserError, match="far=True"):
        laws.predict_interval(fit, {"N": 1e13, "D": 1e15})


@pytest.mark.parametrize(
    ("budgets", "why"), [(BUDGETS[:3], "3 scales of compute only"), (BUDGETS[:1], "1 scale of compute only")]
)
def test_few_scales_are_not_calibrated(budgets: np.ndarray, why: str):
    fit = laws.fit("chinchilla", sweep(budgets=budgets))
    assert why in validation.uncalibrated(fit)


def test_validation_needs_scales():
    with pytest.raises(UserError, match="validation needs three"):
        laws.validate(laws.fit("chinchilla", sweep(budgets=BUDGETS[:2])))


def test_the_three_approaches():
    data = sweep(0.001)
    found = laws.approaches(data["N"], data["D"], data["loss"])
    expected = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    assert found.exponents["3"] == pytest.approx(expected, abs=0.02)
    assert found.exponents["2"] == pytest.approx(expected, abs=0.05)
    assert len(found.parabolas) == 6 and all(one.runs == 7 for one in found.parabolas)
    low = data["N"] < np.sqrt(6 * data["N"] * data["D"] / 120)
    edge = laws.approaches(*(data[key][low] for key in ("N", "D", "loss")))
    assert any("outside the sizes" in caution or "one side" in caution for caution in edge.cautions)


def spread(seed: int, noise: float = 0.002) -> dict[str, np.ndarray]:
    """Runs of any size and any number of tokens: no budgets."""
    rng = np.random.default_rng(seed)
    n, d = np.exp(rng.uniform(np.log(4e7), np.log(1e10), 200)), np.exp(rng.uniform(20, 25.3, 200))
    return laws.get("chinchilla").simulate(TRUTH, N=n, D=d, noise=noise, seed=seed)


def test_no_budget_is_wider_than_its_limit():
    data = spread(0)
    c = 6 * data["N"] * data["D"]
    parts = isoflop.budgets(c)
    assert sorted(np.concatenate(parts)) == list(range(200))
    assert all(c[part].max() <= isoflop.WIDEST * c[part].min() for part in parts)
    means = [c[part].mean() for part in parts]
    assert means == sorted(means)
    rounded = 1e20 * (1 + 1e-15 * np.arange(8))
    assert [len(part) for part in isoflop.budgets(np.append(rounded, [3e20, 3.1e20]))] == [8, 2]
    assert [len(part) for part in isoflop.budgets([1e20])] == [1]


@pytest.mark.parametrize("seed", range(4))
def test_runs_without_budgets_give_the_slope_too(seed: int):
    """200 runs over five decades; the slope of 20 such sweeps has an sd of .023 (pooled as one budget they
    gave a minimum outside the sizes, which entered the slope)."""
    data = spread(seed)
    found = laws.approaches(data["N"], data["D"], data["loss"])
    assert found.exponents["2"] == pytest.approx(0.36 / 0.7, abs=0.08)
    assert all(one.inside or one.cautions for one in found.parabolas)


def test_approaches_do_not_depend_on_the_order_of_rows():
    data = sweep(0.0)
    shuffled = []
    for seed in range(5):
        at = np.random.default_rng(seed).permutation(42)
        shuffled.append(laws.approaches(*(data[key][at] for key in ("N", "D", "loss"))).exponents)
    for one in shuffled:
        assert one == pytest.approx(shuffled[0], rel=1e-9)
    assert shuffled[0]["1"] == pytest.approx(0.5, abs=1e-9)  # the middle size of every budget
    assert shuffled[0]["2"] == pytest.approx(0.36 / 0.7, abs=1e-3)


def test_minima_outside_the_sizes_do_not_count():
    data = sweep(0.0)
    c = 6 * data["N"] * data["D"]
    some = (data["N"] < np.sqrt(c / 120)) | (c < 1e20)  # the larger budgets have small sizes only
    found = laws.approaches(*(data[key][some] for key in ("N", "D", "loss")))
    inside = [one for one in found.parabolas if one.inside]
    assert 3 <= len(inside) < len(found.parabolas) == 6
    slope = np.polyfit(np.log([one.C for one in inside]), np.log([one.N for one in inside]), 1)[0]
    assert found.exponents["2"] == pytest.approx(slope, rel=1e-9)
    few = data["N"] < np.sqrt(c / 120)
    none = laws.approaches(*(data[key][few] for key in ("N", "D", "loss")))
    assert np.isnan(none.exponents["2"]) and "approach 2 needs three budgets" in none.cautions[0]


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "least"), [("huber", 91), ("log_square", 86)])
def test_new_runs_lie_in_their_intervals_where_runs_are_few(objective: str, least: float):
    """Of 300 sweeps of 16 runs 92 % (Huber) and 87 % (squares) of new runs within their range lie in their
    95 % interval, and 97 and 93 % beyond it; with residuals as they are 88 and 84, 96 and 90 %."""
    truth = dict(A=450.0, B=2000.0, E=1.8, alpha=0.35, beta=0.35)
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 4), np.geomspace(5e8, 1e11, 4)))
    law, points = laws.get("chinchilla"), ({"N": 1e9, "D": 2e10}, {"N": 1e10, "D": 2e11})
    inside = np.zeros(2)
    for seed in range(300):
        fit = laws.fit(law, law.simulate(truth, N=n, D=d, noise=0.01, seed=seed), objective=objective)
        for i, at in enumerate(points):
            found = laws.predict_interval(fit, at, n=200, seed=seed, rivals=())
            new = float(law.predict(truth, **at)) * np.exp(0.01 * np.random.default_rng(seed + 999).normal())
            inside[i] += found.low < new < found.high
    print(f"\n{objective}: {inside / 3} % of new runs lie inside, within the range and beyond")
    assert inside[0] / 3 >= least


COVERAGE = {
    "right": lambda seed: sweep(0.005, seed),
    "heteroscedastic": lambda seed: _uneven(seed),
    "clustered": lambda seed: _clustered(seed),
    "clustered, scales": lambda seed: _clustered(seed),
    "clustered, scales and runs": lambda seed: _clustered(seed),
    "few scales": lambda seed: sweep(0.005, seed, BUDGETS[:2]),
    "wrong law": curved,
}


def _uneven(seed: int) -> dict[str, np.ndarray]:
    data = sweep(0.0)
    rng = np.random.default_rng(seed)
    spread = 0.01 * (data["N"] * data["D"] / 1e17) ** -0.25
    return data | {"loss": data["loss"] * np.exp(spread * rng.standard_normal(42))}


def _clustered(seed: int) -> dict[str, np.ndarray]:
    """All runs of a budget share most of their error."""
    data, rng = sweep(0.0), np.random.default_rng(seed)
    shared = np.repeat(rng.standard_normal(6), 7)
    return data | {"loss": data["loss"] * np.exp(0.005 * (0.9 * shared + 0.44 * rng.standard_normal(42)))}


@pytest.mark.slow
@pytest.mark.parametrize("case", COVERAGE)
def test_coverage_of_the_curve(case: str):
    """95 % bootstrap intervals of the curve at 4x the compute, over 100 sweeps (standard error at 95 %: 2.2).

    Where they cover far less than they say, the fit must be labelled. Under clustered noise intervals of
    resampled rows do (55 of 100; 93 fits are labelled), those of scales (90), and of scales and the runs
    inside them (94), hold.
    """
    make = COVERAGE[case]
    at = {"N": np.array([2.5e9]), "D": np.array([5e10])} if case == "few scales" else None
    at = at or {"N": np.array([5.8e9]), "D": np.array([1.15e11])}
    truth = float(laws.get("chinchilla").predict(TRUTH, **at)[0])
    covered, labelled = 0, 0
    for seed in range(100):
        fit = laws.fit("chinchilla", make(seed))
        by = {"clustered, scales": "scale", "clustered, scales and runs": "scale/row"}.get(case)
        low, high = fit.bootstrap(200, by=by, seed=seed).interval(
            0.95, lambda fit=fit, **p: float(fit.law.predict(p, **at)[0])
        )
        covered += low <= truth <= high
        labelled += bool(validation.uncalibrated(fit, by))
    print(f"\n{case}: covered {covered} of 100, labelled 'not calibrated' {labelled} of 100")
    if case in ("few scales", "wrong law", "clustered"):
        assert labelled >= (86 if case == "clustered" else 95)
    else:
        assert covered >= 82


def test_validation_of_too_few_runs_says_that_it_leaves_some_out():
    n = np.geomspace(1e7, 1e9, 5)
    fit = laws.fit("chinchilla", laws.get("chinchilla").simulate(TRUTH, N=n, D=1e9, noise=0.01))
    with pytest.raises(
        UserError, match="validation refits the law with runs left out: chinchilla has 5 free"
    ):
        laws.validate(fit)
