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
    assert mine.certificate.starts == 20  # four of its own, the others about them


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


CASES = {
    "sparse": dict(aS=16.0, bS=0.7, cS=12.0, bN=0.25, aD=2e8, bD=0.35, c=1.4),
    "kaplan": dict(Nc=6e13, Dc=1.7e13, aN=0.08, aD=0.1),
    "precision": dict(A=4299.0, B=1.8e4, E=2.76, alpha=0.4965, beta=0.5, gw=2.6745, ga=2.2102, gkv=0.9578),
    "data_constrained": dict(A=521.0, B=1488.0, E=1.87, alpha=0.353, beta=0.353, R_D=15.4, R_N=5.3),
    "routed": dict(a=-0.082, b=-0.108, c=0.009, d=1.104, start=1.847, most=314.478),
    "task_accuracy": dict(low=0.25, high=0.95, k=2.5, L0=2.2),
}
VALUES = {
    "N": (1e7, 1e10), "D": (1e9, 1e12), "U": (2e8, 5e10), "S": (0.1, 0.9), "Pw": (3, 8), "Pa": (3, 8),
    "Pkv": (2, 8), "experts": (1, 256), "L": (1.2, 5),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_units_of_size_and_tokens_do_not_matter(name: str):
    """In units of a billion the old starts, which were absolute, ended up to 50 times higher than the truth
    leads to; in their own units routed did by 25 % and task_accuracy 25 times."""
    law = laws.get(name)
    for seed in range(2):
        rng = np.random.default_rng(seed)
        ends = {v: np.log(VALUES[v]) for v in law.variables}
        table = {v: np.exp(rng.uniform(low, high, 40)) for v, (low, high) in ends.items()}
        data = law.simulate(CASES[name], noise=0.003, seed=seed, **table)
        known = laws.fit(law, data, starts=[list(CASES[name].values())]).value
        for unit in (1.0, 1e9):
            moved = {v: x / unit if v in ("N", "D", "U") else x for v, x in data.items()}
            fit = laws.fit(law, moved)
            assert fit.value <= known * (1 + 1e-5), (seed, unit)
            assert fit.certificate.starts >= 20


def test_no_hit_rate_is_told_of_a_few_starts():
    few = laws.fit("chinchilla", made(), starts=[list(TRUTH.values())])
    assert "of 1 starts" not in str(few) and "starts: 1" in str(few)
    assert "% of 20 starts reach it" in str(laws.fit("chinchilla", made()))
