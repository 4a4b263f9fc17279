"""Our own question: do scores computed while training in low precision rank examples as full precision does?

A run in fp32 does not rank as another run in fp32 does: that agreement is the ceiling. So runs of a format
are compared with runs of fp32 of *other* seeds, and the correlation is corrected for the noise of both
(Spearman 1904): at 1 the format changes nothing but what a seed changes.
"""

from __future__ import annotations

import numpy as np

from dither.report.study import intervals
from dither.scores import auc
from dither.studies.data import image_source, images
from dither.studies.measure import Measurement, over_seeds
from dither.studies.scored import between, corrected, measured, r1, runs
from dither.studies.study import Claim, Context, Outcome, Study, Table
from dither.studies.training import SCORES, flip

OURS = "dither"
NOISE = 0.1
RECIPES = {"MXFP8": "mxfp8", "MXFP4": "mxfp4", "INT4": "int4_w4a4"}
MARGIN = 0.02
JUDGED = ("el2n_mean", "aum", "el2n_early", "forgetting", "vog")


def lost(full: np.ndarray, low: np.ndarray) -> float:
    """How much less a low-precision run agrees with one in fp32 than two in fp32 do."""
    return r1(full) - between(full, low)


def measure(context: Context) -> Outcome:
    settings = {
        "source": image_source(), "train": context.choose(4000, 800), "epochs": context.choose(10, 4),
        "arch": "mlp", "noise": NOISE,
    }  # fmt: skip
    full = runs(context, recipe="fp32", **settings)
    low = {name: runs(context, recipe=recipe, **settings) for name, recipe in RECIPES.items()}
    about = images(settings["source"], settings["train"], 2000)
    planted = flip(about.y, about.classes, NOISE, seed=1)[1]
    found: dict[str, Measurement | str] = {}
    shown = {}
    rows = []
    for name, group in low.items():
        key = name.lower()
        for score in SCORES:
            rho = measured(corrected, full[score], group[score])
            shown[f"{name}: {score}"] = rho
            drop = measured(lost, full[score], group[score])
            rows.append(
                (name, score, f"{r1(full[score]):.3f}", f"{between(full[score], group[score]):.3f}",
                 f"{drop.estimate:+.3f} [{drop.low:+.3f}, {drop.high:+.3f}]",
                 f"{rho.estimate:.3f} [{rho.low:.3f}, {rho.high:.3f}]")
            )  # fmt: skip
            if score in JUDGED:
                found[f"{key}-{score.replace('_', '-')}"] = rho
        finds = [[auc(values, planted) for values in runs_of["el2n_mean"]] for runs_of in (group, full)]
        found[f"{key}-noise"] = over_seeds(finds[0], finds[1])
    accuracy = [
        (name, *(f"{v:.4f}" for v in (group["accuracy"].mean(), group["accuracy"].std(ddof=1))))
        for name, group in {"fp32": full, **low}.items()
    ]
    tables = [
        Table(
            "Agreement with fp32 by score and format",
            ("format", "score", "fp32 with fp32", "format with fp32", "lost", "corrected"),
            rows,
        ),
        Table("Accuracy on test images", ("format", "mean", "deviation over seeds"), accuracy),
    ]
    figures = {
        f"Attenuation-corrected rank correlation with fp32, {name}": intervals(
            {score: shown[f"{name}: {score}"] for score in SCORES}, "corrected correlation (1: as fp32)", 1.0
        )
        for name in RECIPES
    }
    return Outcome(found, about.name, tables, figures)


def claims() -> list[Claim]:
    """For every format: judged scores rank as in fp32 to within MARGIN, and label errors are found as
    well."""
    stated = []
    for name, recipe in RECIPES.items():
        for score in JUDGED:
            key = f"{name.lower()}-{score.replace('_', '-')}"
            text = f"{score} under {name} ({recipe}) ranks examples as fp32 does, to within {MARGIN}"
            quantity = f"attenuation-corrected rank correlation of {score} with fp32"
            stated.append(Claim(key, text, OURS, "own question", quantity, "above", 1 - MARGIN))
        text = f"Mean EL2N under {name} finds planted label errors as fp32 does, to within 0.01 of the AUC"
        quantity = f"AUC under {name} minus AUC in fp32, one run each, paired"
        stated.append(Claim(f"{name.lower()}-noise", text, OURS, "own question", quantity, "above", -0.01))
    return stated


STUDY = Study(
    name="low-precision-scores",
    title="Scores under low-precision training",
    question="Do scores computed under FP8, MXFP4 and INT4 training rank examples as those of fp32?",
    protocol=(
        "Images with 10 % of the labels replaced; MLP 128-128, Adam 1e-3, batches of 64; 4,000 images and 10 "
        "epochs (quick: 800 and 4). The recipes of dither.nn.prepare_ for all layers but the last.",
        "Scores from the quantized model itself, as a user's loop has them, by dither.scores.Tracker.",
        "Ceiling: Spearman of two fp32 runs. A format's runs are compared with fp32 runs of other seeds; "
        "corrected is that correlation over the root of both r1. Above 1 is possible by chance.",
        f"Stated before the run: within {MARGIN} of 1 counts as ranking alike. Intervals by jackknife "
        f"over seeds.",
    ),
    claims=claims(),
    seeds=(8, 5),
    measure=measure,
)
