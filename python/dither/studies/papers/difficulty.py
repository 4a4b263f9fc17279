"""2401.01867 (Kwok, Anand, Frankle, Dziugaite, Rolnick): how reliable scores of difficulty are, whether they
measure one thing, and whether a few examples tell architectures apart. Only the abstract and opening pages
were read, so the claims are taken without numbers and the thresholds are ours, as are the models (MLP and
CNN) and the 10 % of planted label errors.
"""

from __future__ import annotations

from math import comb

import numpy as np

from dither.report.score_pictures import agreement, manhattan
from dither.report.study import intervals
from dither.scores import architecture_bias, auc, fingerprints, rank_pca, reliability, score_correlations
from dither.studies.data import image_source, images
from dither.studies.measure import Measurement, over_seeds, proportion
from dither.studies.scored import corrected, mean_rank, measured, r1, runs
from dither.studies.study import Claim, Context, Outcome, Study, Table
from dither.studies.training import SCORES, flip

PAPER, READ = "2401.01867, abstract", "abstract"
NOISE = 0.1


def first_component(*values: np.ndarray) -> float:
    """The share of variance of the first component of run-averaged rank scores."""
    return float(rank_pca({str(i): mean_rank(v) for i, v in enumerate(values)}).shares[0])


def measure(context: Context) -> Outcome:
    settings = {
        "source": image_source(), "train": context.choose(6000, 1000), "epochs": context.choose(10, 4),
        "recipe": "fp32", "noise": NOISE,
    }  # fmt: skip
    mlp, cnn = (runs(context, arch=arch, **settings) for arch in ("mlp", "cnn"))
    about = images(settings["source"], settings["train"], 2000)
    planted = flip(about.y, about.classes, NOISE, seed=1)[1]
    reliable = {name: measured(r1, mlp[name]) for name in SCORES}
    fingers = {name: fingerprints(mlp[name], cnn[name], (1, 8, 64)) for name in ("el2n_mean", "el2n_early")}
    bias = architecture_bias(mlp["el2n_mean"], cnn["el2n_mean"])
    found: dict[str, Measurement | str] = {
        "noisy": reliable["el2n_end"],
        "averaging": measured(lambda a, b: r1(a) - r1(b), mlp["el2n_mean"], mlp["el2n_end"]),
        "one-factor": measured(first_component, *(mlp[name] for name in SCORES)),
        "architecture": measured(corrected, mlp["el2n_mean"], cnn["el2n_mean"]),
        "fingerprint": proportion(fingers["el2n_mean"].accuracy[1], 2 * len(context.seeds)),
    }
    names, matrix = score_correlations({name: mlp[name] for name in SCORES})
    every = comb(2 * len(context.seeds), len(context.seeds)) == bias.permutations
    smallest = 2 / bias.permutations if every else 1 / (bias.permutations + 1)
    figures = {
        "r1 of every score: the rank correlation of two runs of the MLP": intervals(reliable, "r1"),
        "Rank correlation of scores from independent runs of the MLP, high is hard": agreement(names, matrix),
        f"Manhattan plot: examples whose mean EL2N ranks differently in MLP and CNN, by class; "
        f"{bias.significant.mean():.1%} of them at a false discovery rate of 5 %": manhattan(
            bias.p, bias.significant, smallest, about.y
        ),
    }
    tables = [reliability_table(name, group, planted) for name, group in (("MLP", mlp), ("CNN", cnn))]
    tables.append(
        Table(
            "Fingerprints: share of held-out runs told apart, by number of examples",
            ("score", *map(str, fingers["el2n_mean"].counts)),
            [(name, *(f"{a:.0%}" for a in f.accuracy)) for name, f in fingers.items()],
        )
    )
    return Outcome(found, about.name, tables, figures)


def reliability_table(name: str, group: dict[str, np.ndarray], planted: np.ndarray) -> Table:
    """One line a score: agreement of runs, and how well it finds the planted label errors."""
    rows = []
    for score in SCORES:
        found = reliability(group[score])
        one = over_seeds([auc(values, planted) for values in group[score]])
        many = auc(mean_rank(group[score]), planted)
        rows.append(
            (score, f"{found.r1:.3f}", f"{found.half:.3f}", f"{found.predicted:.3f}", f"{found.snr:.1f}",
             str(found.needed), f"{one.estimate:.3f}", f"{many:.3f}")
        )  # fmt: skip
    accuracy = over_seeds(group["accuracy"].tolist())
    return Table(
        f"{name}: reliability (accuracy on test images {accuracy.estimate:.3f}, {accuracy.n} runs)",
        ("score", "r1", "half", "Spearman-Brown", "SNR", "runs for .95", "noise AUC, 1 run", "all runs"),
        rows,
    )


STUDY = Study(
    name="difficulty",
    title="Scores of example difficulty: reliability, one factor, architectures",
    question="Does one run rank examples, do scores measure one thing, do architectures leave fingerprints?",
    protocol=(
        "Images with 10 % of the labels replaced (the same ones in all runs); MLP 128-128 and a CNN of two "
        "convolutions, Adam 1e-3, batches of 64; 6,000 images and 10 epochs (quick: 1,000 and 4).",
        "All training examples are evaluated after every epoch; scores by dither.scores.Tracker, VoG, "
        "last-layer GraNd; early is epoch 3. Seeds change initial weights and order.",
        "Intervals by jackknife over seeds, since pairs of runs share runs; of the fingerprint by "
        "Wilson over runs.",
    ),
    claims=(
        Claim("noisy", "Scores are noisy over single runs", PAPER, READ,
              "r1 of EL2N at the end of training (MLP)", "below", 0.95),
        Claim("averaging", "Averages over training are more reliable than a single checkpoint",
              "pilot figures of the authors' code", "unverified",
              "r1 of mean EL2N minus r1 of EL2N at the end"),
        Claim("one-factor", "Scores are strongly correlated with one notion of difficulty", PAPER, READ,
              "share of the first component of 13 run-averaged rank scores", "above", 0.5),
        Claim("architecture", "Examples differ in their sensitivity to architecture", PAPER, READ,
              "attenuation-corrected rank correlation of mean EL2N, MLP against CNN", "below", 1.0),
        Claim("fingerprint", "A few sensitive examples tell architectures apart", PAPER, READ,
              "held-out runs told apart with 8 examples of mean EL2N", "above", 0.5),
        Claim("resnets", "The same of ResNet-20 and its variants on CIFAR-10", PAPER, READ, "-",
              untestable="CIFAR-10 is in no package and the models need a GPU"),
    ),
    seeds=(10, 5),
    measure=measure,
)  # fmt: skip
