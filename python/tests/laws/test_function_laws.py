"""Laws given as a function: the same optimum as the engine's, through the same interface."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError

pytest.importorskip("scipy")

CHINCHILLA = laws.get("chinchilla")
TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)


def as_function() -> laws.FunctionLaw:
    return laws.FunctionLaw(
        "mine",
        CHINCHILLA.formula,
        CHINCHILLA.variables,
        CHINCHILLA.parameters,
        "this test",
        function=lambda A, B, E, alpha, beta, N, D: E + A * N**-alpha + B * D**-beta,
        starts={"A": (100.0, 1000.0), "B": (1000.0,), "E": (1.5,), "alpha": (0.3,), "beta": (0.3, 0.4)},
    )


def made() -> dict[str, np.ndarray]:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 6), np.geomspace(5e8, 1e11, 6)))
    return CHINCHILLA.simulate(TRUTH, N=n, D=d, noise=0.01, seed=4)


@pytest.mark.parametrize("objective", ["huber", "log_square", "raw_square"])
def test_the_optimum_is_the_engine_s(objective: str):
    mine = laws.fit(as_function(), made(), objective=objective, delta=1e-2)
    engine = laws.fit("chinchilla", made(), objective=objective, delta=1e-2)
    assert mine.value == pytest.approx(engine.value, rel=1e-6)
    assert mine.params == pytest.approx(engine.params, rel=2e-2)
    assert mine.certificate.starts == 4


def test_the_rest_of_the_interface():
    fit = laws.fit(as_function(), made(), objective="log_square", fixed={"E": 1.8})
    assert fit.params["E"] == pytest.approx(1.8)
    low, high = fit.bootstrap(20, seed=1).interval()["alpha"]
    assert low < fit.params["alpha"] < high
    assert fit.predict(N=1e9, D=1e10) == pytest.approx(CHINCHILLA.predict(TRUTH, N=1e9, D=1e10), rel=0.02)


@pytest.mark.parametrize("law", [as_function(), "chinchilla"])
def test_a_law_whose_parameters_are_all_held_is_evaluated(law):
    fit = laws.fit(law, made(), fixed=TRUTH)
    assert fit.params == pytest.approx(TRUTH)
    r = np.abs(fit.residuals)
    assert fit.value == pytest.approx(np.where(r <= 1e-3, r * r / 2, 1e-3 * (r - 5e-4)).sum(), rel=1e-9)
    assert fit.certificate.minima == 1


def test_unknown_names():
    with pytest.raises(UserError, match="has no parameter"):
        laws.fit(as_function(), made(), starts={"Z": [1.0]})
