"""Pruning by scores: 2107.07075 (data diet), 2206.14486 (beyond power laws), 2311.16298 (influence scores
at scale).

Every selection is trained on and compared with random examples of the same number, paired over seeds
(`dither.scores.retrain`). Claims about SNLI, ImageNet and production systems are not testable here; the same
protocol on our images is labelled as such.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from dither.report.study import bands
from dither.scores import auc, selection
from dither.scores.retraining import BASELINE
from dither.scores.vog import normalise
from dither.studies.data import Data, image_source, images
from dither.studies.measure import Measurement, over_seeds
from dither.studies.scored import mean_rank, runs
from dither.studies.study import Arrays, Claim, Context, Outcome, Study, Table
from dither.studies.training import accuracy, fit, flip

HERE = " (same protocol on our images)"
POLICIES = ("el2n-hard", "el2n-easy", "vog-easy", "aum-hard", "forgetting-easy", "coverage")
KEPT = 0.55
"""45 % pruned, as 2311.16298 reports."""
SCORED = 5
"""Runs that scores are averaged over."""


def choose(policy: str, keep: float, ranks: dict[str, np.ndarray]) -> np.ndarray:
    """Positions kept. ranks: mean ranks, high is hard."""
    if policy == "coverage":
        return selection.coverage(ranks["el2n_early"], keep)
    score, end = policy.split("-")
    values = ranks["el2n_early" if score == "el2n" else score]
    return selection.window(values, keep) if end == "hard" else selection.bottom(values, keep)


def imbalanced(data: Data) -> np.ndarray:
    """Positions left of a long tail: class c keeps exp(-c / 3) of its examples."""
    shares = np.exp(-np.arange(data.classes) / 3)
    place = np.zeros(len(data.y), np.int64)
    counts = np.bincount(data.y, minlength=data.classes)
    for label in range(data.classes):
        place[data.y == label] = np.arange(counts[label])
    return np.flatnonzero(place < np.ceil(shares * counts)[data.y])


def retrained(source: str, train: int, epochs: int, noise: float, rows: list[int], seed: int) -> Arrays:
    """Accuracy of a training on `rows` of the images, with as many steps as all of them would take."""
    found = images(source, train, 2000)
    labels, _ = flip(found.y, found.classes, noise, seed=1)
    steps = max(1, round(epochs * train / max(len(rows), 1)))
    model = fit(found.x[rows], labels[rows], found.classes, seed=seed, epochs=min(steps, 4 * epochs))
    return {"accuracy": np.array(accuracy(model, found.test_x, found.test_y))}


def measure(context: Context) -> Outcome:
    size, epochs = context.choose((4000, 8), (800, 4))
    settings = {"source": image_source(), "train": size, "epochs": epochs}
    about = images(settings["source"], size, 2000)
    noises = context.choose((0.0, 0.1, 0.3), (0.0, 0.3))
    fractions = context.choose((0.1, 0.25, KEPT, 0.8), (0.1, KEPT))
    n = len(about.y)
    ranks = {}
    scored = {}
    for noise in noises:
        scored[noise] = runs(context, arch="mlp", recipe="fp32", noise=noise, **settings)
        ranks[noise] = {name: mean_rank(v) for name, v in scored[noise].items() if v.ndim == 2}
        ranks[noise]["vog"] = class_vog(scored[noise]["vog"], about.y, noise, about.classes)
    result = partial(results, context, settings)
    curves: dict[float, dict[str, dict[float, Measurement]]] = {}
    for noise in noises:
        for keep in fractions:
            chance = {s: selection.random(n, keep, seed=s + BASELINE) for s in context.seeds}
            base = [result(noise, chance[s], [s])[0] for s in context.seeds]
            for policy in POLICIES:
                values = result(noise, choose(policy, keep, ranks[noise]), context.seeds)
                curves.setdefault(noise, {}).setdefault(policy, {})[keep] = over_seeds(values, base)
    most = noises[-1]
    low = fractions[0]
    ends = [result(0.0, choose(f"el2n-{end}", low, ranks[0.0]), context.seeds) for end in ("easy", "hard")]
    planted = flip(about.y, about.classes, most, seed=1)[1]
    finds = {s: [auc(v, planted) for v in scored[most][s]] for s in ("vog", "loss_mean", "el2n_early")}
    found: dict[str, Measurement | str] = {
        "el2n-hard": curves[0.0]["el2n-hard"][KEPT],
        "scarce-easy": over_seeds(*ends),
        "vog-easy": curves[0.0]["vog-easy"][KEPT],
        "drop-hard": curves[0.0]["el2n-easy"][KEPT],
        "noise-vog": curves[most]["vog-easy"][KEPT],
        "noise-hard": curves[most]["el2n-hard"][KEPT],
        "noise-found": over_seeds(finds["loss_mean"], finds["vog"]),
        "imbalance": imbalance(context, settings, about, scored[0.0]["vog"], result),
    }
    rows = [
        (f"{noise:.0%}", policy, f"{keep:.0%}", f"{m.estimate:+.4f} [{m.low:+.4f}, {m.high:+.4f}]")
        for noise, by in curves.items() for policy, points in by.items() for keep, m in points.items()
    ]  # fmt: skip
    tables = [
        Table(
            "Accuracy minus that of random examples", ("label noise", "policy", "kept", "difference"), rows
        ),
        Table(
            f"AUC for planted errors ({most:.0%}), one run",
            ("score", "AUC"),
            [(name, f"{np.mean(v):.3f}") for name, v in finds.items()],
        ),
    ]
    figures = {
        f"Accuracy minus that of as many random examples, {noise:.0%} label noise, 95 % intervals": bands(
            curves[noise], "share of examples kept", "difference of accuracy"
        )
        for noise in noises
    }
    return Outcome(found, about.name, tables, figures)


def class_vog(values: np.ndarray, y: np.ndarray, noise: float, classes: int) -> np.ndarray:
    """Mean over runs of VoG normalised within the classes that the labels say."""
    labels, _ = flip(y, classes, noise, seed=1)
    return np.mean([normalise(v, "class", labels) for v in values], axis=0)


def results(context: Context, settings: dict, noise: float, rows: np.ndarray, seeds) -> list[float]:
    """Accuracies of trainings on those rows, one a seed."""
    kept = rows.tolist()
    return [
        float(context.part(retrained, **settings, noise=noise, rows=kept, seed=s)["accuracy"]) for s in seeds
    ]


def imbalance(context, settings, about: Data, vog: np.ndarray, result) -> Measurement:
    """On a long tail: accuracy when VoG normalised over the data set chooses, minus that within classes."""
    pool = imbalanced(about)
    chosen = []
    for norm in ("dataset", "class"):
        score = np.mean([normalise(v[pool], norm, about.y[pool]) for v in vog], axis=0)
        chosen.append(result(0.0, pool[selection.bottom(score, KEPT)], context.seeds))
    return over_seeds(*chosen)


STUDY = Study(
    name="pruning",
    title="Pruning by scores against random",
    question="Which scores choose better training examples than chance, under noise and imbalance?",
    protocol=(
        "MLP 128-128 on 4,000 images, 8 epochs (quick: 800 and 4); scores are mean ranks over the "
        "seeds' runs; "
        "early is epoch 3; hard leaves out the hardest 1 %; VoG is normalised within classes.",
        "Retrained from new weights on what is kept, with the steps that all examples would take (at most 4 "
        "times the epochs); baseline: as many random examples, another choice for every seed, paired "
        "by seed.",
        "Labels of 0, 10 and 30 % of the examples replaced (quick: 0 and 30 %). Difference of "
        "accuracy on 2,000 "
        "clean test images.",
        "Imbalance: class c keeps exp(-c / 3) of its examples; tested on balanced images; the "
        "gradients are of "
        "the models that saw all images.",
    ),
    claims=(
        Claim("el2n-hard", "Keeping the hardest by early EL2N beats random" + HERE, "2107.07075, section 3",
              "full text", "accuracy minus random, 55 % kept"),
        Claim("scarce-easy", "Where data are scarce, keep the easy ones" + HERE, "2206.14486, theory",
              "unverified", "accuracy of easiest minus hardest by EL2N, 10 % kept"),
        Claim("vog-easy", "VoG-easy, class-normalised, beats random at 45 % pruned" + HERE,
              "2311.16298, SNLI table", "full text", "accuracy minus random, 55 % kept"),
        Claim("drop-hard", "Pruning hard examples hurts" + HERE, "2311.16298, discussion", "full text",
              "accuracy of the easiest by EL2N minus random, 55 % kept", "below"),
        Claim("noise-vog", "VoG-easy beats random under label noise" + HERE, "2311.16298, label noise",
              "full text", "accuracy minus random, 30 % noise, 55 % kept"),
        Claim("noise-hard", "Random labels push the best window down: the hardest lose to random" + HERE,
              "2107.07075, section 4", "full text", "accuracy minus random, 30 % noise, 55 % kept", "below"),
        Claim("noise-found", "Loss-like scores find planted errors, VoG does not" + HERE,
              "2311.16298, label noise", "full text", "AUC of mean loss minus AUC of VoG, 30 % noise"),
        Claim("imbalance", "On imbalanced data dataset-normalised VoG beats class-normalised" + HERE,
              "2311.16298, production table", "full text",
              "accuracy, dataset- minus class-normalised, easiest 55 %"),
        Claim("production", "52 % less data at +2.9 % domain error in a production system", "2311.16298",
              "full text", "-", untestable="a production system and its 10.9M utterances"),
        Claim("snli", "SNLI at 45 % pruned: 85.04 against 85.52 with all data", "2311.16298", "full text",
        "-", untestable="SNLI is in no package; BERT needs hours"),
    ),
    seeds=(SCORED, SCORED),
    measure=measure,
)  # fmt: skip
