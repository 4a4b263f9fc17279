"""Over-training and downstream error: 2403.08540 on its own table of 104 models.

L = E + (a M^eta + b M^-eta) C^-eta with M = D/N and C = 6ND, from five small runs; the mean error of 17 tasks
from that loss, Err = eps - k exp(-gamma L), from six. Four parameters from five points leave one degree of
freedom: the study shows what hangs on it.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from dither import laws
from dither.laws import plots
from dither.report.study import intervals
from dither.studies import tables
from dither.studies.measure import Measurement, exact, over_seeds, resampled
from dither.studies.study import Claim, Context, Outcome, Study, Table, without_tables

TABLE = "overtraining/openlm_104_runs.csv"
SETS = {"c4_original": "C4", "rpj": "RedPajama", "rw_original": "RefinedWeb"}
SMALL = ("d=96_l=8_h=4", "d=512_l=8_h=4", "d=576_l=24_h=8", "d=1024_l=24_h=8")
FIVE = (*((model, 1.0) for model in SMALL), (SMALL[0], 16.0))
"""Runs of the loss law: model, and its tokens a parameter over 20."""
SIX = (*FIVE, ("open_lm_1b", 1.0))
HELD = {"1.4B at 640 tokens a parameter": ("open_lm_1b", 32.0), "6.9B at 20": ("open_lm_7b", 1.0)}
TASKS = (
    "arc_easy bigbench_cs_algorithms bigbench_dyck_languages bigbench_novel_concepts bigbench_operators "
    "bigbench_qa_wikidata boolq commonsense_qa copa coqa hellaswag hellaswag_zeroshot lambada_openai piqa "
    "pubmed_qa_labeled squad winograd"
).split()
PUBLISHED = {"c4_original": (113.7, 189.5, -0.24247, 1.50826), "rpj": (166.2, 366.7, -0.27285, 1.83665),
             "rw_original": (125.1, 246.2, -0.25439, 1.73446)}  # fmt: skip
"""a, b, s, E of L = a N^s + b 6^(s/2) D^s + E, the form of the released code; s = -2 eta."""
ERRORS = {"loss": (0.7103, 0.7320), "error": (3.6365, 0.0464)}
"""Published relative errors of HELD, in percent."""

Runs = dict[str, Any]


def runs(dataset: str) -> Runs:
    """N, D, loss (on C4), error (mean top-1 of the tasks), model and times (tokens a parameter over 20)."""
    frame = tables.where(tables.read(TABLE), dataset=dataset)
    right = np.mean([tables.numbers(frame, f"acc_{task}") for task in TASKS], axis=0)
    return {
        **{key: tables.numbers(frame, key) for key in "ND"}, "loss": tables.numbers(frame, "loss_c4_val"),
        "error": 1 - right, "model": frame["model"], "times": tables.numbers(frame, "chinchilla_multiplier"),
    }  # fmt: skip


def take(data: Runs, chosen: Any) -> Runs:
    """The runs of those (model, times), in their order."""
    at = [np.flatnonzero((data["model"] == m) & (data["times"] == t))[0] for m, t in chosen]
    return {key: values[at] for key, values in data.items()}


def loss_law(data: Runs) -> laws.Fit:
    return laws.fit("over_training", data, objective="raw_square")


def error_law(data: Runs) -> laws.Fit:
    return laws.fit("task_error", {"L": data["loss"], "loss": data["error"]}, objective="raw_square")


def off(fit: laws.Fit, held: Runs) -> Any:
    """Relative errors of the loss in percent, signed."""
    at: dict[str, Any] = {"N": held["N"], "D": held["D"]}
    return 100 * (fit.predict(far=True, **at) / held["loss"] - 1)


def error_off(fit: laws.Fit, losses: laws.Fit, held: Runs) -> Any:
    """Relative errors of the task error in percent, from predicted losses, signed."""
    at: dict[str, Any] = {"N": held["N"], "D": held["D"]}
    return 100 * (fit.predict(L=losses.predict(far=True, **at), far=True) / held["error"] - 1)


def simulated(seed: int) -> float:
    """The error in percent at 1.4B and 640 tokens a parameter from five runs with .3 % noise of the law."""
    n = np.array([1.06e7, 7.9e7, 1.54e8, 4.12e8, 1.06e7])
    d = 20 * n * np.array([1, 1, 1, 1, 16])
    law, (a, b, s, floor) = laws.get("over_training"), PUBLISHED["rpj"]
    truth = dict(a=a * 6 ** (-s / 2), b=b, eta=-s / 2, E=floor)
    fit = loss_law(law.simulate(truth, N=n, D=d, noise=0.003, seed=seed))
    far: dict[str, Any] = {"N": 1.44e9, "D": 640 * 1.44e9}
    return 100 * abs(float(fit.predict(far=True, **far) / law.predict(truth, **far)) - 1)


def measure(context: Context) -> Outcome:
    luck = over_seeds([simulated(seed) for seed in context.seeds])
    if why := tables.missing(TABLE):
        return without_tables(STUDY, why, {"chance": luck}, "simulated runs only")
    every = {key: runs(key) for key in SETS}
    fits = {key: loss_law(take(data, FIVE)) for key, data in every.items()}
    data = every["rpj"]
    held, tasks = take(data, HELD.values()), error_law(take(data, SIX))
    loss, error = off(fits["rpj"], held), error_off(tasks, fits["rpj"], held)
    without = [loss_law(take(data, kept)) for kept in combinations(FIVE, 4)]
    left = np.array([off(fit, held) for fit in without])
    over, under = (
        np.concatenate([np.abs(off(fits[key], others(data, small))) for key, data in every.items()])
        for small in (False, True)
    )
    whole = laws.fit("chinchilla", data)
    apart = whole.bootstrap(context.choose(1000, 300)).of(lambda alpha, beta, **_: abs(alpha - beta))
    p = whole.params
    found = {
        "loss-over": exact(abs(loss[0]), 5),
        "loss-large": exact(abs(loss[1]), 5),
        "error-over": exact(abs(error[0]), 6),
        "error-large": exact(abs(error[1]), 6),
        "over": over_seeds(over.tolist()),
        "under": over_seeds(under.tolist()),
        "parallel": resampled(abs(p["alpha"] - p["beta"]), apart, len(data["loss"])),
        "one-left-out": exact(float(np.abs(left[:, 0] - loss[0]).max()), 5),
        "chance": luck,
    }
    pages = [digits(fits), held_out(loss, error, left), left_out(data, without)]
    size = sum(len(one["loss"]) for one in every.values())
    return Outcome(found, f"{size} models on three corpora", pages, pictures(data, tasks, loss, left))


def others(data: Runs, under: bool) -> Runs:
    """The runs that the law did not see, at 20 tokens a parameter or more, or below."""
    seen = [(m, t) in FIVE for m, t in zip(data["model"], data["times"], strict=True)]
    kept = ~np.array(seen) & ((data["times"] < 1) == under)
    return {key: values[kept] for key, values in data.items()}


def digits(fits: dict[str, laws.Fit]) -> Table:
    rows = []
    for key, fit in fits.items():
        eta = fit.params["eta"]
        here = fit.params["a"] * 6**-eta, fit.params["b"], -2 * eta, fit.params["E"]
        rows.append((SETS[key], *(f"{x:.6g} ({y:.6g})" for x, y in zip(here, PUBLISHED[key], strict=True))))
    return Table("The law of five runs, here (published)", ("trained on", "a", "b", "s = -2 eta", "E"), rows)


def held_out(loss: Any, error: Any, left: Any) -> Table:
    rows = [
        (name, f"{abs(loss[i]):.4f} ({ERRORS['loss'][i]:.4f})", f"{abs(error[i]):.4f} "
            f"({ERRORS['error'][i]:.4f})",
         f"{left[:, i].min():+.2f} to {left[:, i].max():+.2f}")
        for i, name in enumerate(HELD)
    ]  # fmt: skip
    return Table(
        "Runs held out (RedPajama), relative error in percent, here (published)",
        ("run", "loss", "task error", "loss, one of the five runs left out"),
        rows,
    )


def left_out(data: Runs, without: list[laws.Fit]) -> Table:
    rows = []
    for kept, fit in zip(combinations(FIVE, 4), without, strict=True):
        (gone,) = set(FIVE) - set(kept)
        alone = take(data, [gone])
        rows.append((f"{alone['N'][0]:.3g} at {20 * gone[1]:g}", f"{fit.params['E']:.3f}",
            f"{fit.params['eta']:.4f}",
                     f"{off(fit, alone)[0]:+.2f}"))  # fmt: skip
    return Table(
        "Each of the five left out (RedPajama): four parameters through four points",
        ("left out: N at tokens a parameter", "E", "eta", "error at the run left out, %"),
        rows,
    )


def pictures(data: Runs, tasks: laws.Fit, loss: Any, left: Any) -> dict[str, Any]:
    every = laws.fit("over_training", data)
    spread = {
        name: Measurement(float(loss[i]), float(left[:, i].min()), float(left[:, i].max()), 5, 0)
        for i, name in enumerate(HELD)
    }
    return {
        "Reducible loss of all RedPajama models: parallel lines where over-training costs the same": (
            plots.reducible(every)
        ),
        "Task error over loss from six runs, and over compute by the law of all runs": plots.task(
            tasks, upstream=every
        ),
        "Error of the predicted loss: five runs, and the range when one is left out": intervals(
            spread, "predicted / measured - 1 (%)", 0
        ),
    }


PAPER, ABSTRACT, UNVERIFIED, OWN = "2403.08540", "abstract", "unverified", "own question"
STUDY = Study(
    name="over-training",
    title="Over-training and downstream error, from five small runs",
    question="How well do five runs predict a run of 300 times the compute, and what hangs on one of them?",
    protocol=(
        "The loss law by least squares on five runs: four models of 11M to 412M at 20 tokens a parameter, "
        "the smallest also at 320. The error law on these and 1.4B at 20: mean top-1 error of 17 tasks.",
        "Held out: 1.4B at 640 tokens a parameter, 6.9B at 20 (RedPajama), and all other runs of three "
        "corpora.",
        "Numbers that the table determines have no interval; each of the five runs is left out in turn "
        "instead.",
        "Simulated, one seed a table: five such runs from the published RedPajama law with .3 % noise.",
    ),
    claims=(
        Claim("loss-over", "The loss of an over-trained run is predicted", PAPER, ABSTRACT,
              "relative error in percent, 1.4B at 640 tokens a parameter", "below", 1.0),
        Claim("loss-large", "The loss of a large run is predicted", PAPER, ABSTRACT,
              "relative error in percent, 6.9B at 20 tokens a parameter", "below", 1.0),
        Claim("error-over", "Its error on tasks is predicted from the predicted loss", PAPER, ABSTRACT,
              "relative error in percent, 1.4B at 640 tokens a parameter", "below", 5.0),
        Claim("error-large", "So is the large run's", PAPER, ABSTRACT,
              "relative error in percent, 6.9B at 20 tokens a parameter", "below", 5.0),
        Claim("over", "The law extrapolates in size and in over-training", PAPER, ABSTRACT,
              "mean size of the error in percent over all other runs from 20 tokens a parameter", "below",
              2.0),
        Claim("under", "Also below 20 tokens a parameter", "our own", OWN,
              "mean size of the error in percent over runs below", "below", 2.0),
        Claim("parallel", "Over-training keeps the exponent of the loss: alpha = beta", PAPER, UNVERIFIED,
              "distance of alpha from beta in Chinchilla's law of all RedPajama runs", "below", 0.05),
        Claim("one-left-out", "The prediction does not hang on one of the five runs", "our own", OWN,
              "largest change in percent of the loss at 1.4B and 640 when one is left out", "below", 1.0),
        Claim("chance", "Five such runs predict so well when the law is right and noise is .3 %", "our own",
              OWN, "mean error in percent at 1.4B and 640, simulated", "below", 1.0),
    ),
    seeds=(50, 10),
    measure=measure,
)  # fmt: skip
