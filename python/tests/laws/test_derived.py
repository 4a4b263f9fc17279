"""The exponent a of N*(C) ~ C^a of the laws that have one, and its slope at a budget of the others."""

import numpy as np
import pytest

from dither import laws
from dither.cli.main import main
from dither.errors import UserError
from dither.laws import derived

CONSTANTS = {
    "gamma": dict(A=400, B=900, E=1.7, p=0.6, q=0.8, gamma=0.6),
    "kaplan_e": dict(A=1e8, B=1e9, E=1.7, alpha=0.34, beta=0.4),
    "over_training": dict(a=100.0, b=200.0, E=1.5, eta=0.12),
    "fine_grained_moe": dict(g=10, a=300, B=1000, E=1.5, gamma=0.3, alpha=0.3, beta=0.4),
    "sparse": dict(aS=16, bS=0.7, cS=12, bN=0.25, aD=1e9, bD=0.35, c=1.4),
}
HELD = {
    "precision": dict(Pw=4.0, Pa=6.0, Pkv=8.0),
    "fine_grained_moe": dict(G=4.0),
    "sparse": dict(S=0.0),
    "fp_training": dict(e=2.0, m=1.0, block=128.0),
    "data_constrained": dict(U=1e10),
}


def least_size(law, params, flops: float, held) -> float:
    """By brute force over 20,001 sizes."""
    n = np.geomspace(1e6, 1e14, 20_001)
    loss = law.predict(params, N=n, D=flops / (6 * n), **held)
    i = int(np.argmin(loss))
    return float(n[i])


@pytest.mark.parametrize("name", [*derived.EXPONENTS, "fp_training", "data_constrained"])
def test_the_exponent_is_that_of_the_optimal_size(name):
    """Against sizes searched by brute force at two budgets a factor of 10,000 (or 4) apart."""
    law, held = laws.get(name), HELD.get(name, {})
    params = CONSTANTS.get(name) or next(iter(law.published.values()))
    a_power = name in derived.EXPONENTS
    middle, apart = 1e22, 1e4 if a_power else 4.0
    sizes = [least_size(law, params, middle * apart**side, held) for side in (-0.5, 0.5)]
    expected = np.log(sizes[1] / sizes[0]) / np.log(apart)
    assert derived.optimal(law, middle, "a", held)(**params) == pytest.approx(expected, abs=2e-3)
    if a_power:
        assert derived.exponent_of(law)(**params) == pytest.approx(expected, abs=5e-4)
        assert derived.is_constant(law) == (name in ("chinchilla_tied", "over_training"))
    else:
        chinchilla = derived.exponent(alpha=params["alpha"], beta=params["beta"])
        assert abs(expected - chinchilla) > 0.02, "here the form of Chinchilla's law would be wrong"
        with pytest.raises(UserError, match="no power of compute"):
            derived.exponent_of(law)


def table(folder, name: str) -> str:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6)))
    truth = dict(A=450.0, B=2000.0, E=1.8, alpha=0.35, beta=0.35)
    data = laws.get("chinchilla").simulate(truth, N=n, D=d, noise=0.003, seed=0)
    path = folder / f"{name}.csv"
    np.savetxt(path, np.stack(list(data.values()), axis=1), delimiter=",", header="N,D,loss", comments="")
    return str(path)


def test_the_exponent_by_name_on_the_command_line(tmp_path, capsys):
    """One half by the form of tied laws (over_training has a parameter a); the slope at a budget."""
    data = table(tmp_path, "runs")
    for name, asked in (("over_training", "a@1e21"), ("chinchilla_tied", "a")):
        assert main(["fit", name, data, "--bootstrap", "0", "--profile", asked]) == 0
        assert "0.5   by the form of" in capsys.readouterr().out
    assert main(["fit", "chinchilla", data, "--bootstrap", "0", "--profile", "a", "a@1e21"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  a")]
    (one, at) = [line for line in lines if line[0] in ("a", "a@1e21")]
    assert [float(v) for v in one[1:] if v != ".."] == pytest.approx(
        [float(v) for v in at[1:] if v != ".."], rel=1e-3
    )
