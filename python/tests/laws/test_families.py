"""Every law of the catalogue: its formula as printed, its parameters recovered from generated data."""

import warnings
from typing import Any

import numpy as np
import pytest

from dither import laws

VARIABLES: dict[str, np.ndarray] = {
    "N": np.geomspace(1e7, 1e10, 9),
    "D": np.geomspace(1e9, 1e12, 7),
    "C": np.geomspace(1e17, 1e22, 40),
    "W": np.geomspace(128, 8192, 5),
    "H": np.geomspace(2, 80, 4),
    "G": np.array([1.0, 2, 4, 8]),
    "K": np.arange(1.0, 30),
    "e": np.array([2.0, 3, 4]),
    "m": np.array([1.0, 2, 3]),
    "block": np.array([16.0, 32, 128]),
    "U": np.geomspace(2e8, 5e10, 5),
    "S": np.array([0.1, 0.5, 0.75, 0.9]),
    "x": np.geomspace(10, 1e8, 40),
    "P": np.array([2.0, 3, 4, 6, 8]),
    "experts": np.array([1.0, 4, 16, 64, 256]),
    "Pw": np.array([3.0, 4, 6, 8]),
    "Pa": np.array([3.0, 4, 6, 8]),
    "Pkv": np.array([2.0, 3, 4, 8]),
    "bits": np.array([2.0, 4, 8]),
    "Dq": np.geomspace(1e7, 9e8, 4),
    "L": np.linspace(1.2, 5, 30),
    "k": np.geomspace(1, 1e4, 20),
    "Nnv": np.geomspace(3e7, 3e9, 7),
    "Nv": np.geomspace(1e6, 3e8, 6),
    "LT": np.linspace(1.9, 2.6, 4),
    "LS": np.linspace(2.0, 3.2, 4),
    "batch": np.geomspace(3e4, 1e8, 15),
}
OWN = {
    ("kaplan_steps", "S"): np.geomspace(1e3, 1e6, 7),
    ("parscale", "P"): np.array([1.0, 2, 4, 8]),
    ("qat_share", "N"): np.geomspace(1e7, 5e8, 4),
    ("task_error", "L"): np.linspace(1.8, 5, 30),
    ("vocabulary", "H"): np.geomspace(4e9, 4e11, 6),
    ("distillation", "N"): np.geomspace(1e8, 1e10, 5),
    ("distillation", "D"): np.geomspace(1e9, 1e12, 5),
    ("rl_sigmoid", "C"): np.geomspace(1e2, 1e5, 30),
}
"""Values of a variable that are a law's own."""

# law: (formula as Python, parameters)
LAWS: dict[str, tuple[str, dict[str, float]]] = {
    "chinchilla": (
        "E + A*N**-alpha + B*D**-beta",
        dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36),
    ),
    "chinchilla_tied": ("E + A*N**-alpha + B*D**-alpha", dict(A=500.0, B=1500.0, E=1.9, alpha=0.35)),
    "kaplan_e": (
        "E + ((A/N)**(alpha/beta) + B/D)**beta",
        dict(A=5e7, B=8e8, E=1.9, alpha=0.41, beta=0.45),
    ),
    "gamma": (
        "E + (A*N**-p + B*D**-q)**gamma",
        dict(A=300.0, B=900.0, E=1.9, p=0.35, q=0.4, gamma=0.8),
    ),
    "over_training": (
        "E + (a*(D/N)**eta + b*(D/N)**-eta)*(6*N*D)**-eta",
        dict(a=110.0, b=190.0, E=1.5, eta=0.12),
    ),
    "saturation": ("E + A*C**-alpha", dict(A=900.0, E=1.7, alpha=0.15)),
    "kaplan_n": ("A*N**-alpha", dict(A=11.0, alpha=0.076)),
    "shape": (
        "E + A*W**-alpha + B*H**-beta + F*N**-gamma + G*D**-delta",
        dict(A=20.0, B=1.5, F=300.0, G=1800.0, E=1.6, alpha=0.8, beta=0.9, gamma=0.35, delta=0.33),
    ),
    "fine_grained_moe": (
        "E + (g*G**-gamma + a)*N**-alpha + B*D**-beta",
        dict(g=60.0, a=250.0, B=900.0, E=1.6, gamma=0.6, alpha=0.3, beta=0.32),
    ),
    "ensemble": ("E + A*K**-alpha", dict(A=0.3, E=3.2, alpha=0.9)),
    "fp_training": (
        "eps + n*N**-alpha + d*D**-beta + D**beta/N**alpha*np.log2(block)*rho*(e + .5)**-delta*(m + .5)**-nu",
        dict(n=69.2343, d=68973.0, rho=1 / 11334.5, eps=1.9061, alpha=0.2368, beta=0.5162)
        | dict(delta=3.19, nu=2.95),
    ),
    "kaplan": (
        "((Nc/N)**(aN/aD) + Dc/D)**aD",
        dict(Nc=6e13, Dc=1.7e13, aN=0.08, aD=0.1),
    ),
    "kaplan_steps": ("(Nc/N)**aN + (Sc/S)**aS", dict(Nc=6e13, Sc=2000.0, aN=0.08, aS=0.7)),
    "bnsl": (
        "a + b*x**-c0*(1 + (x/d)**(1/f))**(-c1*f)",
        dict(a=0.3, b=20.0, c0=0.15, c1=0.3, d=1e5, f=0.4),
    ),
    "m3": ("b*(1/x + g)**c + e", dict(b=5.0, g=1e-5, c=0.3, e=0.5)),
    "moe_sparsity": (
        "e + a*N**-alpha + b*D**-beta + c*(1-S)**-l + d*(1-S)**-m*N**-g",
        dict(a=300.0, b=1500.0, c=0.04, d=40.0, e=1.6, alpha=0.4, beta=0.36, l=0.6, m=-0.7, g=0.2),
    ),
    "vocabulary": (
        "E - A1*Nnv**-a - A2*Nv**-b - B*H**-a",
        dict(A1=200.0, A2=20.0, B=500.0, E=5.5, a=0.4, b=0.35),
    ),
    "distillation": (
        "LT + LT**-c0*(1 + (LT/(LS*d1))**(1/f1))**(-c1*f1)*(A*N**-alpha + B*D**-beta)**gamma",
        dict(c0=1.2, c1=0.6, d1=0.9, f1=0.25, A=400.0, B=1500.0, alpha=0.42, beta=0.38, gamma=0.7),
    ),
    "bnsl_2": (
        "a + b*x**-c0*(1 + (x/d1)**(1/f1))**(-c1*f1)*(1 + (x/d2)**(1/f2))**(-c2*f2)",
        dict(a=0.2, b=10.0, c0=0.1, c1=0.25, d1=1e3, f1=0.3, c2=-0.1, d2=1e6, f2=0.3),
    ),
    "critical_batch": ("Dmin*(1 + batch/Bcrit)", dict(Dmin=2e10, Bcrit=3e6)),
    "timescale": ("c*(D/N)**m", dict(c=1.1, m=-0.5)),
    "parscale": (
        "E + (A/(N*(k*np.log(P) + 1)))**alpha",
        dict(A=2e7, k=0.35, E=0.9, alpha=0.2),
    ),
    "sparse": (
        "(aS*(1 - S)**bS + cS)*N**-bN + (aD/D)**bD + c",
        dict(aS=16.0, bS=0.7, cS=12.0, bN=0.25, aD=2e8, bD=0.35, c=1.4),
    ),
    "post_training": ("CT*D**gD*N**-gN*np.exp(-P*rate)", dict(CT=0.05, gD=0.5, gN=0.45, rate=1.2)),
    "precision": (
        "E + A*(N*(1-np.exp(-Pw/gw))*(1-np.exp(-Pa/ga))*(1-np.exp(-Pkv/gkv)))**-alpha + B*D**-beta",
        dict(A=4299.0, B=1.8e4, E=2.76, alpha=0.4965, beta=0.5, gw=2.6745, ga=2.2102, gkv=0.9578),
    ),
    "qat_share": ("np.exp(-a/np.log(8*D/(N*bits)))", dict(a=6.0)),
    "hyperparameter": ("c*N**a*D**b", dict(c=1.79, a=-0.713, b=0.307)),
    "compute_power": ("c*C**a", dict(c=0.3118, a=-0.125)),
    "task_error": ("eps - k*np.exp(-gamma*L)", dict(eps=0.86, k=2.2, gamma=0.71)),
    "task_accuracy": (
        "low + (high - low)/(1 + np.exp(k*(L - L0)))",
        dict(low=0.25, high=0.95, k=2.5, L0=2.2),
    ),
    "coverage": ("np.exp(-a*k**-b)", dict(a=2.0, b=0.4)),
    "rare_success": ("np.exp(-c*N**-b)", dict(c=120.0, b=0.25)),
    "rl_sigmoid": ("R0 + (A - R0)/(1 + (Cmid/C)**B)", dict(R0=0.2, A=0.61, Cmid=4000.0, B=1.3)),
    "routed": (
        "10**(a*np.log10(N) + b*np.log10(X) + c*np.log10(N)*np.log10(X) + d)",
        dict(a=-0.082, b=-0.108, c=0.009, d=1.104, start=1.847, most=314.478),
    ),
}
RIDGES = {"bnsl", "bnsl_2", "routed"}
"""Laws whose curve the data determine, but hardly the parameters."""
ELSEWHERE = {"data_constrained", "m4", "farseer", "qat_loss"}
"""Laws that have a test of their own."""


def values(law: laws.Law) -> dict[str, Any]:
    return {name: OWN.get((law.name, name), VARIABLES[name]) for name in law.variables}


def test_every_law_is_here():
    assert {*LAWS, *ELSEWHERE} == set(laws.names())


@pytest.mark.parametrize("name", LAWS)
def test_every_law_gives_back_its_parameters(name: str):
    law = laws.get(name)
    params = LAWS[name][1]
    grid = np.meshgrid(*values(law).values())
    variables: dict[str, Any] = {v: g.ravel() for v, g in zip(law.variables, grid, strict=True)}
    data = law.simulate(params, **variables)
    fit = laws.fit(name, data, objective="huber" if isinstance(law, laws.SumLaw) else "log_square")
    if name not in RIDGES:
        assert fit.params == pytest.approx(params, rel=1e-4)
    assert fit.predict(**variables) == pytest.approx(data["loss"], rel=1e-6)


@pytest.mark.parametrize("name", LAWS)
def test_the_formula_is_the_model(name: str):
    """The law's prediction against the formula as it prints it, evaluated by Python."""
    law = laws.get(name)
    formula, params = LAWS[name]
    rng = np.random.default_rng(3)
    drawn = {v: rng.choice(axis, 20) for v, axis in values(law).items()}
    names = {**drawn, **params, "np": np}
    if name == "routed":
        inner = drawn["experts"] - 1 + 1 / (1 / params["start"] - 1 / params["most"])
        names["X"] = 1 / (1 / inner + 1 / params["most"])
    expected = eval(formula, {}, names)
    assert law.predict(params, **drawn) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", laws.names())
def test_published_constants_are_values_of_the_law(name: str):
    law = laws.get(name)
    for params in law.published.values():
        point = {v: axis[len(axis) // 2] for v, axis in values(law).items()}
        assert law.predict(params, **point) > 0


def test_m4_solves_its_equation():
    law, params = laws.get("m4"), dict(a=0.8, b=60.0, c=0.4, e=0.1, e0=0.95)
    x = np.geomspace(1, 1e8, 50)
    y = law.predict(params, x=x)
    left = (y - params["e"]) / (params["e0"] - y) ** params["a"]
    assert left == pytest.approx(params["b"] * x ** -params["c"], rel=1e-9)
    fit = laws.fit("m4", {"x": x, "loss": y}, objective="log_square")
    assert fit.predict(x=x) == pytest.approx(y, rel=1e-4)


def test_farseer_and_qat_loss_as_they_are_printed():
    p = dict(a1=-0.5, b1=-1.0, alpha=0.02, a2=0.9, b2=2.0, beta=0.05, a3=-0.4, b3=1.0, gamma=-0.1)
    n, d = 3e8, 2e10
    expected = np.exp(p["a3"] * n ** p["gamma"] + p["b3"])
    expected += np.exp(p["a2"] * n ** p["beta"] + p["b2"]) * d ** -np.exp(p["a1"] * n ** p["alpha"] + p["b1"])
    assert laws.get("farseer").predict(p, N=n, D=d) == pytest.approx(expected, rel=1e-12)
    law = laws.get("qat_loss")
    q = {parameter.name: 0.3 for parameter in law.parameters} | dict(A=400.0, B=900.0)
    dq, bits = 4e9, 4.0
    sq, sf = 8 * dq / (n * bits), 8 * (d - dq) / (n * bits)
    expected = 0.3 + 400 * n**-0.3 + 900 * d**-0.3 + 0.3 * 2 ** (-0.3 * bits)
    expected += 0.3 * 2 ** (-0.3 * bits) / (n**0.3 * sq**0.3)
    expected += 0.3 * 2 ** (-0.3 * bits) / (n**0.3 * sf**0.3 * sq**0.3)
    assert law.predict(q, N=n, D=d, Dq=dq, P=bits) == pytest.approx(expected, rel=1e-12)


def test_repeated_data_is_worth_less_and_less():
    law = laws.get("data_constrained")
    params = dict(next(iter(law.published.values())))
    unique = 1e9
    losses = law.predict(params, N=5e7, D=unique * np.array([1.0, 4, 16, 64, 256, 4096]), U=unique)
    gains = -np.diff(losses)
    assert (gains > 0).all() and gains[-1] < 1e-3
    one_epoch = laws.get("chinchilla").predict(
        {k: params[k] for k in "A B E alpha beta".split()}, N=5e7, D=1e9
    )
    assert losses[0] == pytest.approx(one_epoch, rel=1e-12)
    # More repetitions than R_D bring at most as much as R_D times new data.
    limit = unique * (1 + params["R_D"])
    assert losses[-1] == pytest.approx(law.predict(params, N=5e7, D=limit, U=limit), rel=1e-6)


@pytest.mark.parametrize("name", ["chinchilla", "kaplan_e", "gamma"])
def test_a_law_without_a_floor_warns_of_nothing(name: str):
    law, params = laws.get(name), {"A": 1e8, "B": 1e9, "E": 0.0, "alpha": 0.4, "beta": 0.4}
    params = params if name != "gamma" else {"A": 1e8, "B": 1e9, "E": 0.0, "p": 1.0, "q": 1.0, "gamma": 0.4}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = float(law.predict(params, N=1e9, D=1e10))
    smaller = float(law.predict({**params, "E": 1e-12}, N=1e9, D=1e10))
    assert value == pytest.approx(smaller, rel=1e-9)
