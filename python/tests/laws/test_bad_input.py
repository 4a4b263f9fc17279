"""Bad arguments of the public functions of dither.laws: a UserError that says what is wrong."""

from typing import Any

import numpy as np
import pytest

from dither import laws as typed
from dither.errors import UserError
from dither.laws import checkpoints

laws: Any = typed  # arguments here are of types that it does not take
LAW: Any = laws.get("chinchilla")
N, D = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 5), np.geomspace(5e8, 1e11, 5)))
RUNS: Any = LAW.simulate(dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36), N=N, D=D, noise=0.004, seed=1)
AT: Any = {"N": 1e9, "D": 1e10}
NAN = float("nan")


@pytest.fixture(scope="module")
def fit():
    return laws.fit(LAW, RUNS)


MAPPED: dict[str, Any] = {
    "no floor": (dict(law="kaplan_n"), "has no floor E"),
    "other variables": (dict(law="saturation"), "no law of N and D alone"),
    "unknown law": (dict(law="chinchila"), "did you mean 'chinchilla'"),
    "pairing": (dict(on=("Q",)), "paired on N, D or both"),
    "no pairing": (dict(on=()), "not on nothing"),
}


@pytest.mark.parametrize("name", MAPPED)
def test_maps_of_losses(name):
    arguments, message = MAPPED[name]
    with pytest.raises(UserError, match=message):
        laws.loss_to_loss(RUNS, RUNS, **arguments)


def test_laws_and_parameters_that_are_none():
    for law in (None, 3, ("chinchilla",)):
        with pytest.raises(UserError, match="unknown law"):
            laws.fit(law, RUNS)
    good = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
    for bad in (NAN, None, "1.8", [1.8]):
        with pytest.raises(UserError, match="E of chinchilla must be a number"):
            LAW.predict({**good, "E": bad}, **AT)
    assert LAW.predict({**good, "E": np.float32(1.8)}, **AT) == pytest.approx(
        LAW.predict(good, **AT), rel=1e-6
    )


def test_losses_that_no_map_takes():
    for bad in ({**RUNS, "N": 0 * N}, {**RUNS, "loss": NAN * N}, {**RUNS, "loss": -RUNS["loss"]}):
        with pytest.raises(
            UserError, match=r"data_x must be positive and finite; rows 1, 2, 3, 4, 5, \.\.\."
        ):
            laws.loss_to_loss(bad, RUNS, E_x=1.0, E_y=1.0)
    with pytest.raises(UserError, match="one loss of x or of y only"):
        laws.loss_to_loss({**RUNS, "loss": np.full(25, 2.0)}, RUNS, E_x=1.0, E_y=1.0)
    one = laws.loss_to_loss(RUNS, RUNS, E_x=1.0, E_y=1.0)
    with pytest.raises(UserError, match="needs resamples"):
        one.interval(2.5, n=0)


OF_A_FIT: list[Any] = [
    (lambda f: f.interval(1.2), "level of an interval lies between 0 and 1"),
    (lambda f: f.interval(NAN), "level of an interval"),
    (lambda f: f.bootstrap(20).bca(0), "level of an interval"),
    (lambda f: f.profile("E", level=1.0), "level of an interval"),
    (lambda f: f.profile("E", points=-3), "a profile has points"),
    (lambda f: f.bootstrap(2.5), "a whole number, not 2.5"),
    (lambda f: f.predict(N="a", D=1e9), "must be numbers"),
    (lambda f: laws.predict_interval(f, AT, level=1.5), "level of an interval"),
    (lambda f: laws.predict_interval(f, {"N": [1e9, 2e9], "D": 1e10}), "one run to come"),
    (lambda f: laws.predict_interval(f, AT, rivals=["saturation"]), "no rival of chinchilla"),
    (lambda f: laws.crossover(f, f, 2.0, []), "one budget or more"),
    (lambda f: laws.crossover(f, f, 2.0, [-1.0]), "one budget or more"),
    (lambda f: laws.fit(LAW, {**RUNS, "N": N.reshape(5, 5)}), "is no column: it has the shape"),
    (lambda f: laws.fit(LAW, {"N": 1e9, "D": 1e10, "loss": 2.5}), "is no column"),
    (lambda f: laws.fit(LAW, {**RUNS, "loss": RUNS["loss"] * 1j}), "not a column of numbers"),
    (lambda f: laws.fit(LAW, RUNS, bounds={"E": 2}), "are a pair of numbers, not 2"),
    (lambda f: laws.fit(LAW, RUNS, bounds={"E": ("a", 2)}), "are a pair of numbers"),
    (lambda f: laws.fit(LAW, RUNS, starts=[[NAN] * 5]), "starts must be finite"),
    (lambda f: laws.fit(LAW, RUNS, threads=-1), "one thread or more"),
    (lambda f: LAW.simulate(f.params, **AT, noise=-1.0), "noise is a standard deviation"),
    (lambda f: laws.pass_at_k([1, 2], [4, 4], 2.5), "k must be whole"),
    (lambda f: laws.beta_binomial(["a", "b", "c"], 4), "must be counts"),
    (lambda f: laws.rerun_noise([[1.0], [2.0]]), "a group is a pair"),
    (lambda f: laws.fit_intervals(LAW, RUNS, low="loss", high="loss", noise=NAN), "noise is a standard"),
    (lambda f: checkpoints.curves(RUNS), "no column 'run'"),
]


@pytest.mark.parametrize("case", range(len(OF_A_FIT)))
def test_arguments_are_named(case, fit):
    call, message = OF_A_FIT[case]
    with pytest.raises(UserError, match=message):
        call(fit)


def test_pictures():
    pytest.importorskip("matplotlib")
    from dither.laws import plots

    with pytest.raises(UserError, match="columns of one length"):
        plots.isoflop(N, D, RUNS["loss"] * NAN)
    for curve in (([1.0, 2.0], [1.0]), ([1.0, 2.0], [NAN, 1.0])):
        with pytest.raises(UserError, match="as many FLOPs as losses"):
            plots.envelope({"a": curve})
