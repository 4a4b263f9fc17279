"""Gadre et al.'s over-training law and error law (2403.08540), five and six points; errors held out."""

from itertools import pairwise

import numpy as np
import pytest
from law_tables import numbers, read

from dither import laws

SMALL = ("d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8")
TASKS = (
    "arc_easy bigbench_cs_algorithms bigbench_dyck_languages bigbench_novel_concepts bigbench_operators "
    "bigbench_qa_wikidata boolq commonsense_qa copa coqa hellaswag hellaswag_zeroshot lambada_openai piqa "
    "pubmed_qa_labeled squad winograd"
).split()
LOSS = "loss_c4_val"
Row = dict[str, str]


def run(dataset: str, model: str, multiplier: float) -> Row:
    """The run of `multiplier` times 20 tokens a parameter."""
    return next(
        row
        for row in read("overtraining/openlm_104_runs.csv")
        if (row["dataset"], row["model"], float(row["chinchilla_multiplier"])) == (dataset, model, multiplier)
    )


def five(dataset: str) -> list[Row]:
    return [*(run(dataset, model, 1) for model in SMALL), run(dataset, SMALL[0], 16)]


def loss_law(dataset: str) -> laws.Fit:
    rows = five(dataset)
    data = {"N": numbers(rows, "N"), "D": numbers(rows, "D"), "loss": numbers(rows, LOSS)}
    return laws.fit("over_training", data, objective="raw_square")


def predicted(fit: laws.Fit, row: Row) -> float:
    return float(fit.predict(N=float(row["N"]), D=float(row["D"]), far=True))


def error(row: Row) -> float:
    """Mean top-1 error of the 17 tasks."""
    return 1 - float(np.mean([float(row[f"acc_{task}"]) for task in TASKS]))


def off(value: float, truth: float) -> float:
    return 100 * abs(value - truth) / truth


@pytest.mark.parametrize(
    ("dataset", "a", "b", "s", "floor"),
    [
        ("c4_original", 113.7, 189.5, -0.24247, 1.50826),
        ("rpj", 166.2, 366.7, -0.27285, 1.83665),
        ("rw_original", 125.1, 246.2, -0.25439, 1.73446),
    ],
)
def test_the_law_of_five_points(dataset: str, a: float, b: float, s: float, floor: float):
    fit = loss_law(dataset)
    eta = fit.params["eta"]
    # The released code has L = a N^s + b 6^(s/2) (M N)^s + E with s = -2 eta.
    found = fit.params["a"] * 6**-eta, fit.params["b"], -2 * eta, fit.params["E"]
    assert found == pytest.approx((a, b, s, floor), rel=3e-4)
    assert fit.certificate.is_minimum
    assert any("5 rows for 4 parameters" in caution for caution in fit.cautions)


@pytest.mark.parametrize(
    ("dataset", "model", "multiplier", "percent"),
    [
        ("rpj", "open_lm_1b", 32, 0.7103),
        ("rpj", "open_lm_7b", 1, 0.7320),
        ("c4_original", "open_lm_7b", 1, 4.295),
        ("rw_original", "open_lm_7b", 1, 1.619),
        ("rw_original", "open_lm_1b", 16, 0.0052),
    ],
)
def test_held_out_losses(dataset: str, model: str, multiplier: float, percent: float):
    held = run(dataset, model, multiplier)
    assert off(predicted(loss_law(dataset), held), float(held[LOSS])) == pytest.approx(percent, abs=5e-4)


def test_held_out_errors():
    pytest.importorskip("scipy")
    rows = [*five("rpj"), run("rpj", "open_lm_1b", 1)]
    data = {"L": numbers(rows, LOSS), "loss": np.array([error(row) for row in rows])}
    fit = laws.fit("task_error", data, objective="raw_square")
    assert fit.params == pytest.approx(dict(eps=0.8570, k=2.2065, gamma=0.7146), abs=1e-4)
    losses = loss_law("rpj")
    for model, multiplier, percent in (("open_lm_1b", 32, 3.6365), ("open_lm_7b", 1, 0.0464)):
        held = run("rpj", model, multiplier)
        value = float(fit.predict(L=predicted(losses, held), far=True))
        assert off(value, error(held)) == pytest.approx(percent, abs=1e-4)


@pytest.mark.parametrize(
    ("dataset", "published"),
    [
        ("rw", (0.833768, 0.700899, 0.603528, 0.571425, 0.497029)),
        ("owt2", (0.869992, 0.699987, 0.601611, 0.568890, 0.518406)),
    ],
)
def test_porian_s_corrections(dataset: str, published: tuple[float, ...]):
    """The exponent of the optimal size falls with every correction of the protocol (2406.19146)."""
    rows = [row for row in read("resolving/isoflop_optima.csv") if row["dataset"] == dataset and row["n"]]
    found = set()
    for key in {(row["hparams"], row["warmup"], row["decay"], row["param_count"]) for row in rows}:
        names = ("hparams", "warmup", "decay", "param_count")
        part = [row for row in rows if tuple(row[name] for name in names) == key]
        data = {"C": numbers(part, "flops"), "loss": numbers(part, "n")}
        found.add(round(laws.fit("compute_power", data, objective="log_square").params["a"], 6))
    for exponent in published:
        assert any(abs(exponent - one) <= 2e-6 for one in found), (exponent, sorted(found))
    assert all(first > second for first, second in pairwise(published))
