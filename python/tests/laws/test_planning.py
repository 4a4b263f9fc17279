"""Decisions against closed forms, coverage of samples, and schedules against their sums."""

import law_tables
import numpy as np
import pytest

from dither import laws
from dither.errors import UserError
from dither.laws import decisions, planning
from dither.studies.papers import chinchilla_replication

TRUTH = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)


def test_the_budget_is_the_closed_form():
    found = laws.budget(laws.get("chinchilla"), 5.76e23)(**TRUTH)
    g = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62)
    assert found["N"] == pytest.approx(g * (5.76e23 / 6) ** (0.28 / 0.62), rel=1e-5)
    assert found["N"] * found["D"] * 6 == pytest.approx(5.76e23)
    with pytest.raises(UserError, match="has no N and D"):
        laws.budget(laws.get("saturation"), 1e20)


def test_the_cheapest_way_to_a_loss():
    law = laws.get("chinchilla")
    trained = planning.for_loss(law, 2.1)(**TRUTH)
    assert law.predict(TRUTH, N=trained["N"], D=trained["D"]) == pytest.approx(2.1, rel=1e-9)
    best = laws.budget(law, trained["training FLOPs"])(**TRUTH)
    assert best["N"] == pytest.approx(trained["N"], rel=1e-3)
    served = planning.for_loss(law, 2.1, served=1e13)(**TRUTH)
    assert served["N"] < trained["N"] and served["D"] > trained["D"]
    assert np.isinf(planning.for_loss(law, 1.6)(**TRUTH)["N"])


def test_intervals_come_from_own_runs():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6)))
    law = laws.get("chinchilla")
    fit = laws.fit(law, law.simulate(TRUTH, N=n, D=d, noise=0.003, seed=1))
    what = laws.budget(law, 1e22)
    found = laws.decide(law, what, fit, n=100)
    low, high = found.intervals["N"]
    assert low < what(**TRUTH)["N"] < high and "36 own runs" in found.basis
    assert "100 resamples of own runs" in found.spread
    said = laws.decide(law, what)
    assert said.basis.startswith("published, 2404.10102") and "4,000 resamples" in said.spread


def test_published_intervals_are_those_of_its_runs():
    """The covariance that stands in the package, against resamples of the published runs."""

    data, law = law_tables.chinchilla(), laws.get("chinchilla")
    fit = laws.fit(law, data)
    drawn = fit.bootstrap(weights=chinchilla_replication.resamples(len(data["loss"]), 4000)).values
    logs = np.concatenate([np.log(drawn[:, :3]), drawn[:, 3:]], axis=1)
    (factor,) = (np.array(one.factor) for one in law.spread.values())
    np.testing.assert_allclose(factor @ factor.T, np.cov(logs.T), rtol=2e-3, atol=1e-9)
    what = laws.budget(law, 5.76e23)
    resampled = np.percentile([what(**law.named(one))["N"] for one in drawn[:400]], (2.5, 97.5))
    said = laws.decide(law, what, n=400).intervals["N"]
    np.testing.assert_allclose(np.log(said), np.log(resampled), atol=0.15)


def test_constants_without_draws_are_held():
    """The interval of a product is that of the part that is known; of nothing known there is none."""
    law = laws.get("chinchilla")
    known, fixed = decisions.of_publication(law, n=200), decisions.given(law, TRUTH, "these")
    both = decisions.judge(lambda p, q: {"product": p["alpha"] * q["beta"]}, known, fixed)
    alone = decisions.judge(lambda p: {"alpha": p["alpha"]}, known)
    np.testing.assert_allclose(both.intervals["product"], np.multiply(alone.intervals["alpha"], 0.28))
    assert "without that of chinchilla (these came without any)" in both.spread
    none = decisions.judge(lambda p: {"alpha": p["alpha"]}, fixed)
    assert none.intervals == {} and "none: these came without any" in str(none)
    with pytest.raises(UserError, match="has no parameter"):
        decisions.given(law, TRUTH | {"gamma": 1.0})


def test_more_data_harms_beyond_the_critical_size():
    post = dict(CT=0.05, gD=0.5, gN=0.45, rate=0.5)
    tokens = planning.critical_tokens(0.28, 410.7, post, 1e9, 4.0)
    law, gap = laws.get("chinchilla"), laws.get("post_training")

    def after(d: float) -> float:
        return float(law.predict(TRUTH, N=1e9, D=d) + gap.predict(post, N=1e9, D=d, P=4.0))

    assert after(tokens) < min(after(0.9 * tokens), after(1.1 * tokens))


def test_bits_for_memory_are_least():
    post, law, gap = (
        dict(CT=5.0, gD=0.5, gN=0.45, rate=0.9),
        laws.get("chinchilla"),
        laws.get("post_training"),
    )
    found = planning.bits_for_memory(law, post, 1e9, 2e10)(**TRUTH)
    assert 2 < found["bits"] < 16 and found["N"] == pytest.approx(8e9 / found["bits"])
    for bits in (0.9 * found["bits"], 1.1 * found["bits"]):
        n = 8e9 / bits
        loss = law.predict(TRUTH, N=n, D=2e10) + gap.predict(post, N=n, D=2e10, P=bits)
        assert loss > found["loss"]


def test_bits_for_compute_are_least():
    """The optimal bits do not depend on the budget (2411.04330, section 4.3)."""
    constants = dict(A=4299.0, B=1.806e4, E=2.76, alpha=0.4965, beta=0.5, gw=2.6745, ga=2.2102, gkv=0.9578)
    found = planning.bits_for_compute(1e21)(**constants)
    assert 1 < found["bits"] < 16
    assert found["bits"] == pytest.approx(planning.bits_for_compute(1e24)(**constants)["bits"], rel=1e-4)
    assert found["N"] * found["D"] * 6 * found["bits"] / 16 == pytest.approx(1e21)
    x = found["bits"] / np.array([2.6745, 2.2102, 0.9578])
    assert np.sum(x / np.expm1(x)) == pytest.approx(1, abs=1e-5) and found["bits"] == pytest.approx(
        3.47, abs=0.01
    )
    for bits, size in ((0.9, 1.0), (1.1, 1.0), (1.0, 0.9), (1.0, 1.1)):
        p, n = found["bits"] * bits, found["N"] * size
        point = dict(N=n, D=1e21 * 16 / (6 * n * p), Pw=p, Pa=p, Pkv=p)
        assert laws.get("precision").predict(constants, **point) > found["loss"]


def test_bits_at_a_held_size_grow_with_training():
    """Least over a fine grid of bits: 5.7 of a budget of 20 tokens a parameter at 16 bits, 7.7 of 100. Fewer
    bits cost less, so that this trains 56 and 208; the optima that train 20 and 100 have 4.29 and 6.57."""
    p = dict(A=4299.0, B=1.806e4, E=2.76, alpha=0.4965, beta=0.4965, gw=2.6745, ga=2.2102, gkv=0.9578)
    grid = np.linspace(1, 16, 150_001)
    worth = np.prod([1 - np.exp(-grid / p[g]) for g in ("gw", "ga", "gkv")], axis=0)
    for ratio, expected in ((20, 5.71), (100, 7.70)):
        n, flops = 1e8, 6 * 1e8 * 1e8 * ratio
        loss = p["A"] * (n * worth) ** -0.4965 + p["B"] * (flops * 16 / (6 * n * grid)) ** -0.4965
        found = planning.bits_for_compute(flops, n)(**p)
        assert found["bits"] == pytest.approx(grid[np.argmin(loss)], abs=2e-4)
        assert found["bits"] == pytest.approx(expected, abs=0.01) and found["N"] == n
        assert found["D"] / n == pytest.approx(ratio * 16 / expected, rel=1e-3)
    for ratio, paid, expected in ((20, 5.357, 4.286), (100, 41.075, 6.572)):
        found = planning.bits_for_compute(6 * n * n * paid, n)(**p)
        assert found["D"] / n == pytest.approx(ratio, rel=1e-3)
        assert found["bits"] == pytest.approx(expected, abs=1e-3)


def test_the_split_of_a_float_is_the_published_one():
    """2501.02423's own advice: E2M1, E4M3 and E8M7 for 4, 8 and 16 bits."""
    decision = {
        bits: decisions.decide(laws.get("fp_training"), planning.split_of_bits(bits)) for bits in (4, 8, 16)
    }
    for bits, (e, m) in {4: (2, 1), 8: (4, 3), 16: (8, 7)}.items():
        found = decision[bits].values
        assert (found["exponent bits"], found["mantissa bits"]) == (e, m)
        assert abs(found["exponent bits, in fractions"] - e) < 0.5 and found["next best costs"] > 1
        assert "2501.02423" in decision[bits].basis
    whole = planning.split_of_bits(12)(delta=2.0, nu=2.0)
    assert whole["exponent bits, in fractions"] == 5.5  # half of 12, less a half
    for bad in (float("inf"), float("nan"), 2, 4.5, 65):
        with pytest.raises(UserError, match="3 to 64 bits"):
            planning.split_of_bits(bad)


def test_crossover():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 6), np.geomspace(2e9, 2e11, 6)))
    law = laws.get("chinchilla")
    plain = laws.fit(law, law.simulate(TRUTH, N=n, D=d, noise=0.001, seed=1))
    worse = laws.fit(law, law.simulate(TRUTH | {"E": 1.75}, N=n, D=d, noise=0.001, seed=2))
    found = laws.crossover(worse, plain, 2.0, np.geomspace(1e18, 1e25, 8), n=50, far=True)
    # Twice the compute is worth most where the loss still falls fast; a higher floor counts at the end.
    assert found.advantage[0] > 0 > found.advantage[-1]
    assert found.crossing is not None and 1e18 < found.crossing < 1e25
    assert "better" in laws.crossover(plain, plain, 4.0, [1e20], n=20).verdict


def test_beta_binomial_recovers_rates_and_zeros():
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    rates = np.where(rng.random(2000) < 0.2, 0.0, rng.beta(0.4, 2.0, 2000))
    successes = rng.binomial(200, rates)
    found = laws.beta_binomial(successes, 200)
    assert (found.a, found.b, found.zero) == pytest.approx((0.4, 2.0, 0.2), rel=0.25)
    assert found.log_likelihood > found.plain + 2
    for k in (1, 10, 100):
        assert found.pass_at(k) == pytest.approx(laws.pass_at_k(successes, 200, k), abs=0.01)
    plain = laws.beta_binomial(rng.binomial(200, rng.beta(0.8, 3.0, 1000)), 200)
    assert plain.zero < 0.05


def test_pass_at_k_is_exact():
    assert laws.pass_at_k([0, 1, 4], 4, 2) == pytest.approx((0 + 0.5 + 1) / 3)
    with pytest.raises(UserError, match="fewest trials"):
        laws.pass_at_k([1], 4, 5)
    with pytest.raises(UserError, match="whole counts"):
        laws.beta_binomial([5, 1, 1], 4)


def test_schedules_against_their_sums():
    rates = np.concatenate([np.full(50, 1e-3), np.linspace(1e-3, 1e-4, 50)])
    schedules = {"constant": np.full(100, 1e-3), "decay": laws.Schedule(rates, warmup=0.02)}
    rows = {"curve": np.array([1.0, 2, 2]), "step": np.array([100.0, 60, 100])}
    law = laws.annealing(schedules, decay=0.9)
    params = dict(L0=2.5, A=0.4, alpha=0.5, C=0.6)
    drops = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    s2 = sum(drops[k] * 0.9 ** (i - k) for i in range(100) for k in range(i + 1))
    expected = 2.5 + 0.4 * (0.02 + rates.sum()) ** -0.5 - 0.6 * s2
    assert law.predict(params, **rows)[2] == pytest.approx(expected, rel=1e-12)
    assert law.predict(params, **rows)[0] == pytest.approx(2.5 + 0.4 * 0.1**-0.5, rel=1e-12)
    power = laws.multi_power(schedules)
    p = dict(L0=2.5, A=0.4, alpha=0.5, B=300.0, C=2.0, beta=0.5, gamma=0.5)
    gained = sum(drops[k] * (1 - (1 + 2 * rates[k] ** -0.5 * rates[k:].sum()) ** -0.5) for k in range(1, 100))
    expected = 2.5 + 0.4 * (0.02 + rates.sum()) ** -0.5 - 300 * gained
    assert power.predict(p, **rows)[2] == pytest.approx(expected, rel=1e-10)
    with pytest.raises(UserError, match="steps 1 to 100"):
        law.predict(params, curve=1.0, step=101.0)


def test_learning_rates_of_zero_where_the_law_has_a_value():
    """A decay to zero: the annealing law is what its sums say; the multi-power law takes a negative power."""
    rates = np.concatenate([np.full(50, 1e-3), np.linspace(1e-3, 0, 50)])
    law, params = laws.annealing({"linear": rates}, decay=0.9), dict(L0=2.5, A=0.4, alpha=0.5, C=0.6)
    drops = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    s2 = sum(drops[k] * 0.9 ** (i - k) for i in range(100) for k in range(i + 1))
    expected = 2.5 + 0.4 * rates.sum() ** -0.5 - 0.6 * s2
    assert law.predict(params, curve=1, step=100) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(UserError, match="steps 100 have a learning rate of 0"):
        laws.multi_power({"linear": rates})
    with pytest.raises(UserError, match="begin at 0"):
        laws.annealing({"warm": np.linspace(0, 1e-3, 5)})
    assert laws.annealing({"warm": laws.Schedule(np.linspace(0, 1e-3, 5), warmup=0.1)})
    with pytest.raises(UserError, match="none of them negative"):
        laws.annealing({"below": [1e-3, -1e-3]})


def test_the_annealing_law_gives_back_its_parameters():
    pytest.importorskip("scipy")
    half = np.concatenate([np.full(500, 1e-3), np.linspace(1e-3, 1e-5, 500)])
    law = laws.annealing({"constant": np.full(1000, 1e-3), "decay": half})
    curve, step = np.repeat([1.0, 2.0], 40), np.tile(np.linspace(100, 1000, 40).round(), 2)
    params = dict(L0=2.5, A=0.4, alpha=0.5, C=0.6)
    data = law.simulate(params, curve=curve, step=step)
    assert laws.fit(law, data, objective="log_square").params == pytest.approx(params, rel=1e-3)


def test_decisions_far_beyond_the_runs_are_asked_for():
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(2e8, 2e10, 6)))
    truth = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)
    fit = laws.fit("chinchilla", laws.get("chinchilla").simulate(truth, N=n, D=d, noise=0.005, seed=0))
    with pytest.raises(UserError, match="times beyond the runs; add larger ones"):
        laws.decide(fit.law, laws.budget(fit.law, 1e26), fit, n=20)
    asked = laws.decide(fit.law, laws.budget(fit.law, 1e26), fit, n=20, far=True)
    near = laws.decide(fit.law, laws.budget(fit.law, 1e21), fit, n=20, by="scale/row")
    inside = laws.decide(fit.law, laws.budget(fit.law, 1e18), fit, n=20)
    said = ["times beyond the runs" in " ".join(one.cautions) for one in (asked, near, inside)]
    assert said == [True, True, False]


def test_a_target_of_tiny_runs_is_no_edge_of_the_search():
    """The cheapest way to a loss of a tiny law has fewer than 10,000 parameters: nothing cheaper is near."""
    params, law = dict(A=3.7, B=23.6, E=1e-6, alpha=0.166, beta=0.211), laws.get("chinchilla")
    found = planning.for_loss(law, 2.0)(**params)
    assert found["N"] < 1e4 and float(law.predict(params, N=found["N"], D=found["D"])) == pytest.approx(
        2.0, rel=1e-6
    )
    for factor in (0.8, 1.25):
        n = factor * found["N"]
        d = ((2.0 - 1e-6 - params["A"] * n ** -params["alpha"]) / params["B"]) ** (-1 / params["beta"])
        assert 6 * n * d > found["training FLOPs"]


def test_decisions_from_published_constants_say_how_far_they_lie_beyond_their_runs():
    law = laws.get("chinchilla")
    inside, beyond = (laws.decide(law, laws.budget(law, c), n=20).cautions for c in (1e21, 1.3e24))
    assert inside == ()
    assert beyond == (
        "C = 1.3e+24 lies 100 times beyond the runs behind these constants of chinchilla "
        "(1.4e+18 to 1.3e+22)",
    )
    data = law_tables.chinchilla()
    (studied,) = law.studied.values()
    for name, values in {**data, "C": 6 * data["N"] * data["D"]}.items():
        if name in studied:
            assert studied[name] == pytest.approx((values.min(), values.max()), rel=0.01)
