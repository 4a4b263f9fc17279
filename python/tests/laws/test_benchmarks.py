"""The chain of 2405.10938 on generated models: components, lines over compute, a task."""

import numpy as np
import pytest

from dither import laws
from dither.errors import UserError
from dither.laws.benchmarks import principal, simulate

NAMES = [f"b{i + 1}" for i in range(6)]
FAMILIES = {
    "one": ([0.10, 0.02, 0.00], [-4.6, -0.9, 0.1]),
    "two": ([0.08, -0.01, 0.01], [-3.7, 0.5, -0.4]),
    "three": ([0.09, 0.00, -0.01], [-4.0, 0.2, 0.6]),
    "four": ([0.11, 0.01, 0.02], [-5.1, -0.6, -0.8]),
}
C = {name: np.geomspace(1e20, 3e23, 7) for name in FAMILIES}
AXES = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 3)))[0].T
MEAN, BETA, CONST = np.full(6, 0.5), [-4.0, 1.0, 0.5], 0.3


def made(noise: float = 0.0, seed: int = 0, **more: float):
    return simulate(FAMILIES, C, AXES, MEAN, BETA, CONST, noise=noise, seed=seed, **more)


def truth(flops: float, family: str, floor: float = 0.0) -> float:
    theta, nu = (np.array(v) for v in FAMILIES[family])
    z = (theta * np.log(flops) + nu) @ np.array(BETA) + CONST
    return 1 - (1 - floor) / (1 + np.exp(-z))


def test_exact_tables_give_the_chain_back():
    found = laws.observational(made(), NAMES, "task")
    assert found.components.explained.sum() == pytest.approx(1, abs=1e-12) and not found.cautions
    assert found.components.axes @ found.components.axes.T == pytest.approx(np.eye(3), abs=1e-12)
    # the plane of the components is that of the loadings
    assert np.linalg.svd(found.components.axes @ AXES.T)[1] == pytest.approx(np.ones(3), abs=1e-9)
    for family in FAMILIES:
        for flops in (1e20, 1e22, 1e24):
            assert float(found.at(flops, family)) == pytest.approx(truth(flops, family), abs=1e-7)
    # components may be turned, but how fast the task's logit moves with compute may not
    for family, (theta, _) in FAMILIES.items():
        assert found.beta @ found.families[family][0] == pytest.approx(np.dot(BETA, theta), rel=1e-6)
    data = made()
    scores = np.stack([data[name] for name in NAMES], axis=1)
    assert found.predict(scores) == pytest.approx(data["task"], abs=1e-7)


def test_noisy_tables_predict_and_intervals_cover():
    """Noise of .01; the interval of the task at 3 times the largest model, 20 tables: 19 expected (sd 1)."""
    covered = 0
    for seed in range(20):
        found = laws.observational(made(0.01, seed), NAMES, "task")
        low, high = found.interval(1e24, "two", n=100, seed=seed)
        covered += low < truth(1e24, "two") < high
        assert abs(float(found.at(1e24, "two")) - truth(1e24, "two")) < 0.05
    assert covered >= 15


def test_many_families_of_two_models_are_resampled_in_time():
    """Half of the resamples of such a family have one size: of 40 families, some would always."""
    families = {f"f{i}": ([0.10, 0.001 * i, 0.0], [-4.6, -0.9, 0.02 * i]) for i in range(40)}
    sizes = {name: np.array([1e20, 3e22]) for name in families}
    data = simulate(families, sizes, AXES, MEAN, BETA, CONST, noise=0.01, seed=0)
    low, high = laws.observational(data, NAMES, "task").interval(1e23, "f3", n=20)
    assert low < high


def test_a_chance_floor_and_models_that_only_guess():
    data = made(floor=0.25)
    found = laws.observational(data, NAMES, "task", floor=0.25)
    assert float(found.at(1e24, "one")) == pytest.approx(truth(1e24, "one", 0.25), abs=1e-7)
    low = {**data, "task": np.where(np.arange(28) == 0, 0.22, data["task"])}
    said = laws.observational(low, NAMES, "task", floor=0.25).cautions
    assert any("1 models are worse than a guess" in caution for caution in said)


def test_larger_models_are_held_out():
    found = laws.observational(made(0.005, 1), NAMES, "task")
    errors = found.hold_out(2e22)
    assert errors["seen"] == 16 and errors["held"] == 12
    assert errors["scores"] < 0.02 and errors["compute"] < 0.04 < errors["naive"]


def test_few_components_are_said():
    found = laws.observational(made(0.05), NAMES, "task", components=1)
    assert any("1 components hold" in caution for caution in found.cautions)
    two = {k: v[:2] + v[7:] if isinstance(v, list) else np.r_[v[:2], v[7:]] for k, v in made().items()}
    assert any("one: two sizes" in c for c in laws.observational(two, NAMES, "task").cautions)


def test_components_are_those_of_the_covariance():
    x = np.random.default_rng(1).standard_normal((40, 5)) * [3, 2, 1, 0.5, 0.1]
    found = principal(x, 5)
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    assert found.explained == pytest.approx(values / values.sum(), rel=1e-9)
    assert np.cov(found.of(x).T) == pytest.approx(np.diag(values), abs=1e-9)


def spoiled(name: str, values) -> dict:
    return {**made(), name: values}


BAD = [
    (
        lambda: laws.observational(spoiled("b2", [None] + [0.5] * 27), NAMES, "task"),
        r"missing scores \(b2: rows 1\)",
    ),
    (
        lambda: laws.observational(spoiled("task", [np.nan] * 28), NAMES, "task"),
        r"task: rows 1, 2, 3, 4, 5, \.\.\.",
    ),
    (lambda: laws.observational(made(), NAMES, "b1"), "must not predict itself"),
    (lambda: laws.observational(made(), NAMES, "tusk"), "did you mean 'task'"),
    (lambda: laws.observational(made(), [*NAMES, "b1"], "task"), "each named once"),
    (lambda: laws.observational(made(), NAMES[:2], "task"), "3 components need as many benchmarks"),
    (lambda: laws.observational(spoiled("task", [3.0] * 28), NAMES, "task"), "between floor 0 and ceiling 1"),
    (lambda: laws.observational(spoiled("C", np.zeros(28)), NAMES, "task"), "must be positive"),
    (
        lambda: laws.observational(spoiled("family", ["x"] + ["y"] * 27), NAMES, "task"),
        "'x' has one size only",
    ),
    (
        lambda: laws.observational({k: v[:5] for k, v in made().items()}, NAMES, "task"),
        "5 models for 3 components",
    ),
    (lambda: laws.observational(made(), NAMES, "task", family="fam"), "no column 'fam'"),
    (lambda: laws.observational(made(), NAMES, "task", components=6), "fewer than 6 components"),
    (lambda: laws.observational(made(), NAMES, "task").at(1e22, "tow"), "did you mean 'two'"),
    (lambda: laws.observational(made(), NAMES, "task").at(1e27, "two"), "pass far=True"),
    (lambda: laws.observational(made(), NAMES, "task").at(-1.0, "two"), "positive and finite"),
    (lambda: laws.observational(made(), NAMES, "task").hold_out(1e30), "leaves no model on one side"),
    (lambda: laws.observational(made(), NAMES, "task").hold_out(1.5e20), "no family of a held-out model"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call, message: str):
    with pytest.raises(UserError, match=message):
        call()
