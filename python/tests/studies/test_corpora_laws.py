"""Laws and maps of several corpora on simulated runs, and the rule of the pilot."""

import numpy as np
import pytest

from dither import laws
from dither.studies import corpora_laws, tiny_runs
from dither.studies.corpora_laws import Corpus, corpus
from dither.studies.papers import tiny_laws

TRUTH = {"A": 3e3, "B": 2e6, "E": 1.2, "alpha": 0.55, "beta": 0.62}
"""A kaplan_e law at the sizes of the study, so that a shifted power of it is one again."""


def cells(d: tuple[float, ...], n: tuple[float, ...] = (8e3, 2.2e4, 3.5e4, 6.8e4, 1.2e5)):
    return np.repeat(n, len(d)), np.tile(d, len(n))


def made(name: str, scale: float, kappa: float, floor: float, noise: float, seed: int, truth=TRUTH) -> Corpus:
    """Runs whose loss is scale (L - E)^kappa + floor of those of TRUTH."""
    tables = []
    for n, d in (cells((6e4, 2e5, 6e5, 2e6)), (np.array([1.2e5, 3.5e5]), np.array([6e6, 4e6]))):
        base = laws.get("kaplan_e").predict(truth, N=n, D=d) - truth["E"]
        draw = np.random.default_rng(seed + len(n)).standard_normal(len(n))
        tables.append({"N": n, "D": d, "loss": (scale * base**kappa + floor) * np.exp(noise * draw)})
    return corpus(name, *tables)


def test_a_floor_that_the_runs_show_is_found_and_one_that_they_do_not_is_not_claimed():
    shown = made("x", 1.0, 1.0, 1.2, 0.002, 0)
    found = corpora_laws.floor(shown)
    assert 0 < found.low < found.estimate < found.high
    # a pure power of compute in the range of the runs: any floor fits, 0 too
    n, d = cells((6e4, 1.2e5, 2e5))
    loss = 30 * (n * d) ** -0.08 * np.exp(0.02 * np.random.default_rng(1).standard_normal(len(n)))
    flat = corpus("y", {"N": n, "D": d, "loss": loss}, shown.held)
    assert corpora_laws.floor(flat).low == 0
    assert corpora_laws.floor_row(flat)[6] == "no" and corpora_laws.floor_row(shown)[0] == "x"


def test_the_power_to_identify_a_floor_falls_with_the_noise():
    n, d = cells((6e4, 2e5, 6e5, 2e6))
    found = [
        corpora_laws.power({"N": n, "D": d}, tiny_laws.SIMULATED, noise, 6).estimate for noise in (1e-4, 0.1)
    ]
    assert found[0] == 1 and found[1] < 0.5


def test_maps_and_translations_predict_what_they_were_made_by():
    x, y = made("x", 1.0, 1.0, 1.2, 0.001, 0), made("y", 0.8, 0.9, 0.7, 0.001, 7)
    found = corpora_laws.maps([x, y])
    kappa = found["x", "y"][1]
    assert not isinstance(kappa, str) and found["x", "y"][0].kappa == pytest.approx(0.9, abs=0.1)
    assert kappa.n == 20 and kappa.low < 0.9 < kappa.high
    for errors in (
        corpora_laws.mapped(x, y),
        corpora_laws.translated(x, y),
        corpora_laws.direct(y, "kaplan_e"),
    ):
        assert errors.relative.max() < 0.02
        assert (errors.reducible > errors.relative).all() and errors.reducible.max() < 0.1
    naive = corpora_laws.naive(y)
    assert naive["last loss"].off.min() > 0  # it says that nothing more is gained
    assert len(corpora_laws.few(y)["loss"]) == corpora_laws.FEW
    sizes = corpora_laws.few(y)["N"] * corpora_laws.few(y)["D"]
    assert sizes.min() == 8e3 * 6e4 and sizes.max() == 1.2e5 * 2e6


def test_the_exponent_of_several_corpora_is_their_mean():
    corpora = [made("x", 1.0, 1.0, 1.2, 0.002, 0), made("y", 0.8, 0.9, 0.7, 0.002, 7)]
    whole, each = corpora_laws.mean_exponent(corpora, 60)
    assert whole.estimate == pytest.approx(np.mean([m.estimate for m in each.values()]))
    assert whole.low < whole.estimate < whole.high


def test_the_pages_of_the_study_from_simulated_corpora_judge_every_claim():
    corpora = [made(n, s, k, e, 0.003, i) for i, (n, s, k, e) in enumerate(
        (("code", 1.0, 1.0, 1.2), ("reference", 0.9, 0.95, 1.0), ("prose", 0.8, 0.9, 0.7))
    )]  # fmt: skip
    again = {one.name: np.array([2.0, 2.01, 1.99, 2.0, 2.02]) for one in corpora}
    tried = {
        16: {4e-3: 2.6, 1e-2: 2.5, 2.5e-2: 2.3, 6.25e-2: 2.4},
        64: {4e-3: 2.31, 1e-2: 2.3, 2.5e-2: 2.33, 6.25e-2: 2.4},
    }
    found = tiny_laws.analyse(corpora, again, tried, 63, 40, 2)
    asked = {claim.key for claim in tiny_laws.STUDY.claims}
    assert set(found.measured) == asked and len(found.figures) == 7
    widths = {table.title: (len(table.headings), {len(row) for row in table.rows}) for table in found.tables}
    assert all(rows == {columns} for columns, rows in widths.values()), widths


def test_the_rule_of_the_pilot():
    tried = {
        16: {x: (np.log(x) - np.log(0.02)) ** 2 for x in tiny_runs.RATES},
        64: {x: (np.log(x) - np.log(0.01)) ** 2 for x in tiny_runs.RATES},
    }
    rates = tiny_runs.best_rates(tried)
    assert rates[16] == pytest.approx(0.02, rel=0.01) and rates[64] == pytest.approx(0.01, rel=0.01)
    assert rates[32] == pytest.approx(0.02 / np.sqrt(2), rel=0.01)
    falling = {w: {x: -np.log(x) for x in tiny_runs.RATES} for w in (16, 64)}
    assert tiny_runs.best_rates(falling)[32] == pytest.approx(max(tiny_runs.RATES), rel=0.01)
