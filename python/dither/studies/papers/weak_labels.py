"""2311.16302: choosing from a pool with weak labels by entropy and EL2N. Only the abstract was read;
languages, pools, thresholds and tables are unknown, so the protocol below is ours, on WordNet's glosses.

A small set has good labels. A weaker model labels a pool, and its confident labels are taken for truth
(about as production systems do with utterances that showed no defect). The pool is scored by a model of the
small set; a band is added to the training set, against as many random examples of the pool.
"""

from __future__ import annotations

import numpy as np

from dither.report.study import intervals
from dither.scores import logit_scores, selection
from dither.studies.data import Data, glosses
from dither.studies.measure import Measurement, over_seeds
from dither.studies.study import Arrays, Claim, Context, Outcome, Study, Table
from dither.studies.training import accuracy, fit, logits

HERE = " (same question on glosses)"
BANDS = {"easiest": (0.0, 0.3), "middle": (0.35, 0.65), "hard": (0.6, 0.9), "hardest": (0.7, 1.0)}
"""Quantiles of the pool; each keeps 30 % of it. `hard` leaves out the hardest tenth."""
EPOCHS, RATE = 12, 1e-2


def split(size: int, seed: int) -> tuple[Data, np.ndarray, np.ndarray, np.ndarray]:
    """The data, and rows of the small set (a tenth), of the weak labeller's (a tenth) and of the pool."""
    found = glosses(size, 3000)
    order = np.random.Generator(np.random.Philox(seed)).permutation(size)
    tenth = size // 10
    return found, order[:tenth], order[tenth : 2 * tenth], order[2 * tenth :]


def train(found: Data, rows: np.ndarray, labels: np.ndarray, seed: int):
    return fit(
        found.x[rows], labels, found.classes, seed=seed, arch="linear", epochs=EPOCHS, batch=100, rate=RATE
    )


def augmented(size: int, seed: int) -> Arrays:
    """Error on test glosses after augmentation by every band of both scores, by random examples (`random`)
    and by nothing (`none`), and the share of wrong labels in the pool and each band (`wrong-...`)."""
    found, small, weak, pool = split(size, seed)
    good = found.y[small]
    labeller = train(found, weak, found.y[weak], seed + 1000)
    z = logits(labeller, found.x[pool])
    sure = logit_scores(z, found.y[pool], ["max_confidence"])["max_confidence"]
    kept = selection.top(sure, 0.7)  # what the labeller is confident of
    pool, labels = pool[kept], z[kept].argmax(axis=1).astype(np.int64)
    wrong = labels != found.y[pool]
    scorer = train(found, small, good, seed)
    scores = logit_scores(logits(scorer, found.x[pool]), labels, ["entropy", "el2n"])
    chosen = {
        f"{score}-{band}": selection.band(scores[score], *quantiles)
        for score in ("entropy", "el2n") for band, quantiles in BANDS.items()
    }  # fmt: skip
    count = len(chosen["el2n-easiest"])
    chosen["random"] = selection.random(len(pool), count, seed=seed)
    result: Arrays = {"none": np.array(1 - accuracy(scorer, found.test_x, found.test_y))}
    for name, rows in chosen.items():
        both = np.concatenate([small, pool[rows]])
        model = train(found, both, np.concatenate([good, labels[rows]]), seed)
        result[name] = np.array(1 - accuracy(model, found.test_x, found.test_y))
        result[f"wrong-{name}"] = np.array(wrong[rows].mean())
    return result


def measure(context: Context) -> Outcome:
    size = context.choose(20_000, 4000)
    parts = [context.part(augmented, size=size, seed=seed) for seed in context.seeds]
    error = {name: [float(part[name]) for part in parts] for name in parts[0]}
    against = {
        name: over_seeds(error[name], error["random"])
        for name in error if not name.startswith("wrong-") and name != "random"
    }  # fmt: skip
    found: dict[str, Measurement | str] = {
        "augment": over_seeds(error["random"], error["none"]),
        "entropy": against["entropy-hard"],
        "el2n": against["el2n-hard"],
        "el2n-easy": against["el2n-easiest"],
        "el2n-wrong": over_seeds(error["wrong-el2n-hardest"], error["wrong-random"]),
    }
    rows = [
        (name, f"{np.mean(error[name]):.4f}", f"{m.estimate:+.4f} [{m.low:+.4f}, {m.high:+.4f}]",
         f"{np.mean(error[f'wrong-{name}']):.1%}" if f"wrong-{name}" in error else "-")
        for name, m in against.items()
    ]  # fmt: skip
    rows.append(("random", f"{np.mean(error['random']):.4f}", "-", f"{np.mean(error['wrong-random']):.1%}"))
    table = Table(
        "Error after augmentation", ("added", "error", "minus random", "wrong labels among them"), rows
    )
    caption = "Error after augmentation minus that with as many random examples of the pool (left is better)"
    figure = intervals(
        {name: m for name, m in against.items() if name != "none"}, "difference of test error", 0.0
    )
    return Outcome(found, glosses(size, 3000).name, [table], {caption: figure})


PAPER = "2311.16302, abstract"

STUDY = Study(
    name="weak-labels",
    title="A pool with weak labels: entropy and EL2N bands",
    question="Does choosing weakly labelled examples by entropy or EL2N beat a random choice?",
    protocol=(
        "20,000 glosses (quick: 4,000) in 45 classes: a tenth with good labels, a tenth for the weak "
        "labeller, the "
        "rest is the pool, of which the 70 % that the labeller is most confident of are kept with "
        "its labels.",
        "Linear models on hashed 1- and 2-grams, Adam 1e-2, 12 epochs. The model of the small set "
        "scores the pool: "
        "entropy without the labels, EL2N with the weak ones.",
        "30 % of the pool are added and a new model is trained; 3,000 test glosses; the baseline "
        "adds as many "
        "random examples. The judged band is `hard`: quantiles .6 to .9. Seeds split the data anew.",
    ),
    claims=(
        Claim("augment", "Weakly labelled examples help at all" + HERE, PAPER, "abstract",
              "error with random augmentation minus error without any", "below"),
        Claim("entropy", "An entropy band beats random" + HERE, PAPER, "abstract",
              "error with the hard entropy band minus error with random", "below"),
        Claim("el2n", "An EL2N band beats random" + HERE, PAPER, "abstract",
              "error with the hard EL2N band minus error with random", "below"),
        Claim("el2n-easy", "The easiest by EL2N add less than random ones", "dither", "own question",
              "error with the easiest by EL2N minus error with random"),
        Claim("el2n-wrong", "The hardest by EL2N hold more wrong weak labels than random ones", "dither",
              "own question", "share of wrong labels, hardest by EL2N minus random"),
        Claim("production", "Semantic error -2 %, domain error -4 to -7 % in a production system", PAPER,
              "abstract", "-", untestable="a production system and its utterances"),
    ),
    seeds=(10, 5),
    measure=measure,
)  # fmt: skip
