"""Nothing is said more than 100 times beyond the runs unless it is asked for, whatever says it."""

import numpy as np
import pytest

from dither import laws
from dither.cli.main import main
from dither.errors import UserError
from dither.laws import decisions, derived, planning

TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)


@pytest.fixture(scope="module")
def fit():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 6)))
    return laws.fit("chinchilla", laws.get("chinchilla").simulate(TRUTH, N=n, D=d, noise=0.005, seed=0))


def test_optima_far_beyond_the_runs_are_asked_for(fit):
    far = derived.optimal(fit.law, 1e30, "N")
    drawn = fit.bootstrap(20)
    for what in (lambda: fit.profile(far, points=0), lambda: drawn.interval(derived=far)):
        with pytest.raises(UserError, match=r"times beyond the runs; add larger .*--far"):
            what()
    low, high = drawn.interval(derived=far, far=True)
    assert low < far(**fit.params) < high
    assert fit.reach_of(derived.optimal(fit.law, 1e19, "N")) == 1
    assert 1 < fit.reach_of(derived.optimal(fit.law, 1e22, "N")) < 100


def test_comparisons_far_beyond_the_runs_are_asked_for(fit):
    with pytest.raises(UserError, match="times beyond the runs"):
        laws.crossover(fit, fit, 1.5, [1e20, 1e30], n=10)
    found = laws.crossover(fit, fit, 1.5, [1e20, 1e30], n=10, far=True)
    assert found.factor > 1e9 and laws.crossover(fit, fit, 1.5, [1e19], n=10).factor == 1
    said = laws.worth(
        laws.fit("chinchilla", dict(fit.arrays) | {"loss": fit.loss * 1.01}), fit, 2, 1e21, n=10
    )
    assert any("times beyond the runs" in text for text in said.cautions)


def test_decisions_of_laws_without_size_and_tokens_too(tmp_path, capsys):
    law = laws.get("compute_power")
    data = law.simulate(
        law.published["2401.02954, learning rate"], C=np.geomspace(1e17, 1e19, 12), noise=0.05, seed=5
    )
    path = tmp_path / "rates.csv"
    np.savetxt(path, np.stack([data["C"], data["loss"]], axis=1), delimiter=",", header="C,lr", comments="")
    plan = ["plan", "hyper", "--data", str(path), "--loss", "lr", "--bootstrap", "20", "--flops"]
    assert main([*plan, "1e30"]) == 2
    assert "1e+11 times beyond the runs" in capsys.readouterr().err
    assert main([*plan, "1e30", "--far"]) == 0 and "times beyond the runs" in capsys.readouterr().out
    assert main([*plan, "1e20"]) == 0 and "10 times beyond the runs" in capsys.readouterr().out
    fit = laws.fit(law, data)

    def rate(**params: float) -> dict[str, float]:
        return {"rate": float(law.predict(params, C=1e30))}

    with pytest.raises(UserError, match="times beyond the runs"):
        laws.decide(law, rate, fit, n=20, at={"C": 1e30})
    unsaid = laws.decide(law, rate, fit, n=20).cautions
    assert any("not known: it does not say at which C" in text for text in unsaid)


def test_profiles_far_beyond_the_runs_on_the_command_line(fit, tmp_path, capsys):
    path = tmp_path / "runs.csv"
    table = np.stack([*fit.arrays.values(), fit.loss], axis=1)
    np.savetxt(path, table, delimiter=",", header="N,D,loss", comments="")
    command = ["fit", "chinchilla", str(path), "--bootstrap", "0", "--profile"]
    for far in ("N@1e30", "loss@1e35"):
        assert main([*command, far]) == 2 and "(--far)" in capsys.readouterr().err
    assert main([*command, "loss@1e24", "--far"]) == 0
    assert "x beyond the data" in capsys.readouterr().out


def test_laws_of_losses_known_as_intervals_too(fit):
    data = {**fit.arrays, "low": fit.loss, "high": fit.loss}
    found = laws.fit_intervals("chinchilla", data)
    with pytest.raises(UserError, match="times beyond the runs"):
        found.predict(N=1e12, D=1e10)
    assert found.predict(N=1e12, D=1e10, far=True) < found.predict(N=1e9, D=1e10)


def test_samples_far_beyond_those_that_were_taken_are_asked_for():
    pytest.importorskip("scipy")
    law = laws.beta_binomial(np.random.default_rng(0).binomial(10, 0.3, 40), [10] * 39 + [8])
    assert law.trials == 10 and law.pass_at(1000) > 0.9
    for k in (1001, 1e9, [1, 2000]):
        with pytest.raises(UserError, match=r"times beyond the samples of a problem \(10\)"):
            law.pass_at(k)
    assert law.pass_at(1e9, far=True) <= 1
    for k in (0, -1, float("nan")):
        with pytest.raises(UserError, match="1 or more"):
            law.pass_at(k)


def test_bits_and_splits_know_their_own_variables():
    """Own runs of up to 3 mantissa bits say something of 23, and nothing of 800."""
    law = laws.get("fp_training")
    params = law.published["2501.02423"]
    n, d, e, m = (v.ravel() for v in np.meshgrid([1e8, 1e9, 4e9], [1e10, 1e11, 4e11], [1, 2, 4], [0, 1, 3]))
    fit = laws.fit(law, law.simulate(params, N=n, D=d, e=e, m=m, block=32.0, noise=0.001, seed=0))
    one = decisions.own(fit, n=10)
    for mantissa, factor in ((4, 4.5 / 3.5), (23, 23.5 / 3.5)):
        at = {"e": 2.0, "m": float(mantissa)}
        found = decisions.judge(lambda _: {"bits": 1.0}, one, where=lambda _, at=at: at)
        assert any(f"{factor:.3g} times beyond the runs" in text for text in found.cautions)
    with pytest.raises(UserError, match="times beyond the runs"):
        decisions.judge(lambda _: {"bits": 1.0}, one, where=lambda _: {"m": 800.0})


def test_a_target_out_of_reach_of_some_draws_has_an_open_interval(fit):
    """Their share is said, and no draw is dropped: of 100 constants 14 have a floor above the target."""
    draws = np.repeat(np.array([list(TRUTH.values())]), 100, axis=0)
    draws[:, 2] = np.where(np.arange(100) < 14, 1.95, 1.8) + 1e-4 * np.arange(-50, 50)
    one = decisions.Constants(fit.law, TRUTH, draws, "made", "100 draws")
    target = planning.for_loss(fit.law, 1.9, served=1e12)
    found = decisions.judge(lambda params: target(**params), one)
    for name in ("N", "D", "training FLOPs", "inference FLOPs"):
        low, high = found.intervals[name]
        assert low < found.values[name] < high == np.inf, name
    assert "14.00% of the draws do not get there at any cost" in found.cautions[0]
    assert "not bounded" in str(found) and "95 %" in str(found)
    few = decisions.Constants(fit.law, TRUTH, draws[13:], "made", "87 draws")  # 1: less than 2.5 %
    found = decisions.judge(lambda params: target(**params), few)
    assert np.isfinite(found.intervals["N"]).all() and "1.15% of the draws" in found.cautions[0]
    none = decisions.judge(lambda p: {"x": np.nan if p["E"] > 1.9 else 1.0}, one, where=lambda _: None)
    assert "14.00% of the draws have no such value and are left out" in none.cautions[0]
