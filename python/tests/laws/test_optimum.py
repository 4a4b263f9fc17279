"""The default starts reach the best known optimum: of random laws on random designs, against many starts."""

from dataclasses import dataclass

import numpy as np
import pytest

from dither import laws
from dither.laws import engine

SPANS = {"N": (1e6, 1e11), "D": (1e8, 1e13), "W": (64, 16384), "H": (2, 100), "G": (1, 32), "C": (1e16, 1e24)}


@dataclass
class Case:
    """Runs of a random law; theta: its parameters as they are searched."""

    law: laws.SumLaw
    data: dict[str, np.ndarray]
    theta: np.ndarray
    objective: str


def drawn(name: str, rng: np.random.Generator) -> Case:
    """12 to 80 runs, scattered or on five levels, with noise of 1e-4 to .1 and now and then an outlier; each
    term is .02 to 2 at the middle of the runs."""
    law, rows, arrays = laws.get(name), int(rng.choice([12, 20, 40, 80])), {}
    assert isinstance(law, laws.SumLaw)
    for variable in law.variables:
        low, high = np.log(SPANS[variable])
        width = rng.uniform(0.4, 1) * (high - low)
        begin = rng.uniform(low, high - width)
        scattered = rng.random() < 0.5
        x = rng.uniform(begin, begin + width, rows)
        arrays[variable] = np.exp(x if scattered else rng.choice(np.linspace(x.min(), x.max(), 5), rows))
    model, at = law.model, {k: i for i, k in enumerate(law.thetas)}
    theta, bend = rng.uniform(0.1, 0.9, len(at)), 1.0
    if model.outer:
        bend = np.exp(rng.uniform(np.log(0.12), np.log(1.3)))
        theta /= bend
        theta[at[model.outer]] = bend
    for one, value in law.fixed.items():
        theta[at[one]] = value
    theta[at[model.floor or ""]] = np.log(rng.uniform(0.3, 2.5))
    x = law.columns(arrays)
    for term in model.terms:
        means = [1.0 if e.feature is None else x[:, model.features.index(e.feature)].mean() for e in term]
        height = sum(e.factor * theta[at[e.param]] * m for e, m in zip(term, means, strict=True))
        theta[at[term[0].param]] -= height - np.log(rng.uniform(0.02, 2)) / bend
    y = engine.predict(model, x, theta) + 10 ** rng.uniform(-4, -1) * rng.standard_normal(rows)
    if rng.random() < 0.2:
        y[rng.integers(rows)] += rng.choice([-0.3, 0.4])
    objective = str(rng.choice(["huber", "huber", "log_square", "raw_huber"]))
    return Case(law, {**arrays, "loss": np.exp(y)}, theta, objective)


def best_known(fit: laws.Fit, truth: np.ndarray, rng: np.random.Generator, starts: int = 24) -> float:
    """The lowest end of the truth and of starts around it and around the fit, near and far."""
    law = fit.law
    assert isinstance(law, laws.SumLaw)
    size = np.array([0.3 if name in law.grid or name == law.model.outer else 2.0 for name in law.thetas])
    about = np.where(np.arange(starts)[:, None] % 3 == 1, fit.theta, truth)
    spread = rng.choice([0.1, 0.5, 2], (starts, 1)) * size * rng.standard_normal((starts, len(size)))
    ends, value = np.clip(np.vstack([truth, about + spread]), fit.low, fit.high), np.inf
    for _ in range(3):
        optima = engine.minimise(
            law.model, fit.rows, ends, objective=fit.objective, low=fit.low, high=fit.high, evaluations=3000
        )
        ends, value = optima.theta[0], float(np.nanmin(optima.value))
    return value


def missed(name: str, seed: int, count: int) -> list[tuple[int, float]]:
    """Fits that end higher than the best known optimum, although they are certified and know of no other
    minimum near theirs: which, and by what share."""
    found = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        case = drawn(name, rng)
        fit = laws.fit(case.law, case.data, objective=case.objective)
        known = best_known(fit, case.theta, rng)
        if known < fit.value * (1 - 1e-6) - 1e-18:
            if fit.certificate.is_minimum and fit.certificate.minima == 1:
                found.append((i, 1 - known / fit.value))
            else:
                assert fit.cautions, (name, i)
    return found


@pytest.mark.parametrize("name", ["chinchilla", "kaplan_e", "gamma", "shape"])
def test_random_laws_are_fitted_to_the_best_known_optimum(name: str):
    """24 laws. The five bent copies of Chinchilla's optimum that once were kaplan_e's starts missed by 24 %
    to 91 % in 1 of 15, without a certificate."""
    rng, uncertified = np.random.default_rng(0), 0
    for i in range(24):
        case = drawn(name, rng)
        fit = laws.fit(case.law, case.data, objective=case.objective)
        known = best_known(fit, case.theta, rng)
        certified = fit.certificate.is_minimum and fit.certificate.minima == 1
        uncertified += not certified
        assert fit.value <= known * (1 + 1e-6) + 1e-18 or not certified, (i, fit.value, known)
        assert fit.value <= known * 1.1 + 1e-18, (i, fit.value, known)
    assert uncertified <= 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["chinchilla", "kaplan_e", "gamma", "shape", "over_training", "saturation", "fine_grained_moe"]
)
def test_many_random_laws_are_fitted_to_the_best_known_optimum(name: str):
    """200 laws. Huber's objective of a dozen runs with an outlier has minima that no start of ours meets:
    in 1 of 200 kaplan_e, gamma and shape laws each."""
    found = missed(name, 1, 200)
    assert len(found) <= 2, found


def test_a_sum_with_a_small_exponent_is_found():
    """Chinchilla's optimum on such runs has E = 0 and beta = .02, so that what starts from it ends 50 times
    too high (half of the seeds did)."""
    truth, law = dict(A=3.5e9, B=2.57e9, E=1.863, alpha=0.4475, beta=0.1335), laws.get("kaplan_e")
    for seed in range(10):
        rng = np.random.default_rng(seed)
        n, d = (
            np.exp(rng.uniform(np.log(low), np.log(high), 40)) for low, high in ((2.5e8, 6e10), (1.4e9, 7e11))
        )
        data = law.simulate(truth, N=n, D=d, noise=0.003, seed=seed)
        fit = laws.fit(law, data)
        known = laws.fit(law, data, starts=[list(truth.values())])
        assert fit.certificate.is_minimum and fit.value <= known.value * (1 + 1e-9), seed


def test_equal_starts_count_once():
    case = drawn("chinchilla", np.random.default_rng(0))
    one = [500.0, 1500.0, 1.5, 0.3, 0.3]
    assert laws.fit("chinchilla", case.data, starts=[one, one, one]).certificate.starts == 1


def test_rivals_without_an_optimum_are_left_out_of_a_forecast():
    rng = np.random.default_rng(0)
    n, d = np.exp(rng.uniform(17, 22, 30)), np.exp(rng.uniform(21, 25, 30))
    truth = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
    fit = laws.fit("chinchilla", laws.get("chinchilla").simulate(truth, N=n, D=d, noise=0.005))
    at = dict(N=1e10, D=1e11)
    assert laws.predict_interval(fit, at, n=20, rivals=["kaplan_e", "gamma"]).left_out == ()
    table = laws.get("chinchilla").simulate(truth, N=n, D=20 * n, noise=0.005)
    told = laws.predict_interval(
        laws.fit("chinchilla", table), at, n=20, far=True, rivals=["chinchilla_tied", "kaplan_e"]
    )
    assert "chinchilla_tied" in told.left_out and "chinchilla_tied" not in told.rivals
    assert "without chinchilla_tied" in str(told)
