"""What every score means: formula, direction, unit, cost and source, in one table.

`direction` says what a high value tells of an example: "hard", "easy", or "neither" where a high value is no
statement about difficulty (variability is high for examples in between).
"""

from __future__ import annotations

from dataclasses import dataclass

from dither.errors import UserError, suggest


@dataclass(frozen=True)
class Score:
    """One score of an example. z: logits, p = softmax(z), y: label, t = 1..T: visits."""

    name: str
    formula: str
    direction: str
    unit: str
    needs: str
    source: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.formula} ({self.unit}; high is {self.direction})"


_DYNAMICS = "logits and labels at every visit"

POINTWISE = (
    Score("loss", "logsumexp(z) - z_y", "hard", "nats", "logits, labels", "cross-entropy"),
    Score("confidence", "p_y", "easy", "probability", "logits, labels", "cleanlab's self-confidence"),
    Score("max_confidence", "max_k p_k", "easy", "probability", "logits", "label-free"),
    Score(
        "entropy",
        "-sum_k p_k ln p_k",
        "hard",
        "nats",
        "logits",
        "label-free",
        "0 ln 0 = 0; divide by ln 2 for bits",
    ),
    Score(
        "margin",
        "z_y - max_{k != y} z_k",
        "easy",
        "logits",
        "logits, labels",
        "Pleiss et al., 2001.10528",
        "scales with the temperature: compare across models by rank only",
    ),
    Score(
        "probability_margin",
        "p_y - max_{k != y} p_k",
        "easy",
        "probability",
        "logits, labels",
        "cleanlab's normalized margin is (m + 1) / 2",
    ),
    Score("top_margin", "p_(1) - p_(2)", "easy", "probability", "logits", "active learning; label-free"),
    Score(
        "el2n",
        "||p - e_y||_2",
        "hard",
        "probability",
        "logits, labels",
        "Paul et al., 2107.07075",
        "published as the mean over ten runs at one early epoch",
    ),
    Score(
        "correct", "argmax_k z_k = y", "easy", "0 or 1", "logits, labels", "the first of equal logits counts"
    ),
)

DYNAMICS = (
    Score(
        "forgetting",
        "#{t : correct at t - 1, wrong at t}",
        "hard",
        "events",
        _DYNAMICS,
        "Toneva et al., 1812.05159",
        "an example never learned counts as `never` says",
    ),
    Score(
        "first_learned", "min {t : correct}", "hard", "visits", _DYNAMICS, "2401.01867", "never learned: T"
    ),
    Score(
        "iteration_learned",
        "min {t : correct from t on}",
        "hard",
        "visits",
        _DYNAMICS,
        "Baldock et al., 2106.09647; 2401.01867",
        "counted from 0: 0 is always correct, T is wrong at the end",
    ),
    Score("aum", "mean_t (z_y - max_{k != y} z_k)", "easy", "logits", _DYNAMICS, "Pleiss et al., 2001.10528"),
    Score(
        "confidence_mean", "mean_t p_y", "easy", "probability", _DYNAMICS, "Swayamdipta et al., 2009.10795"
    ),
    Score(
        "variability",
        "population std_t p_y",
        "neither",
        "probability",
        _DYNAMICS,
        "Swayamdipta et al., 2009.10795",
        "high is ambiguous; hard-to-learn examples have low confidence and low variability",
    ),
    Score("correctness", "share of visits that were correct", "easy", "share", _DYNAMICS, "2009.10795"),
    Score("aleatoric", "mean_t p_y (1 - p_y)", "neither", "probability", _DYNAMICS, "Data-IQ, 2210.13043"),
    Score("loss_mean", "mean_t loss", "hard", "nats", _DYNAMICS, "C-score proxies, 2002.03206"),
    Score("el2n_mean", "mean_t ||p - e_y||_2", "hard", "probability", _DYNAMICS, "2401.01867"),
    Score("entropy_mean", "mean_t entropy", "hard", "nats", _DYNAMICS, "2401.01867"),
)

OTHERS = (
    Score(
        "grand",
        "||gradient of the loss||_2",
        "hard",
        "gradient norm",
        "per-example gradients",
        "Paul et al., 2107.07075",
        "at initialisation it does not rank examples (2303.14753)",
    ),
    Score(
        "vog", "mean over inputs of std_k of d z_y / d x", "hard", "gradient", "K checkpoints", "2008.11600"
    ),
    Score(
        "learnability",
        "loss - loss of a held-out model",
        "neither",
        "nats",
        "a second model",
        "RHO, 2206.07137",
    ),
    Score(
        "pvi",
        "log2 p_y - log2 p_y without the input",
        "easy",
        "bits",
        "a model of empty inputs",
        "2110.08420",
    ),
    Score(
        "prototype",
        "distance to the class mean or nearest centroid",
        "hard",
        "distance",
        "embeddings",
        "2206.14486",
    ),
    Score(
        "memorization",
        "P[correct | i in S] - P[correct | i not in S]",
        "hard",
        "probability",
        "many models",
        "2008.03703",
    ),
    Score(
        "knn_shapley",
        "Shapley value under a k-nearest-neighbour vote",
        "easy",
        "share",
        "embeddings",
        "1908.08619",
    ),
    Score(
        "disagreement",
        "mean Jensen-Shannon divergence of two models",
        "hard",
        "nats",
        "several models",
        "ensembles",
    ),
    Score(
        "vote_entropy",
        "entropy of the classes that an ensemble votes for",
        "hard",
        "nats",
        "several models",
        "ensembles",
    ),
    Score(
        "duplicate",
        "greatest cosine with an example before it in its cluster",
        "neither",
        "cosine",
        "embeddings",
        "SemDeDup, 2303.09540",
        "drop those above 1 - eps",
    ),
    Score(
        "prediction_depth",
        "first layer from which on the k nearest neighbours vote for the prediction",
        "hard",
        "layers",
        "embeddings of every layer",
        "2106.09647",
        "k = 30; a product of all pairs for every layer",
    ),
    Score(
        "less",
        "sum_k eta_k cos(gradient of a task, Adam's step for the example)",
        "neither",
        "learning rate",
        "projected gradients of checkpoints, tests of a task",
        "2402.04333",
        "high: keep",
    ),
    Score(
        "perplexity",
        "exp(mean over tokens of the loss)",
        "hard",
        "perplexity",
        "logits, labels of sequences",
        "2309.04564",
        "depends on length and tokenizer",
    ),
    Score(
        "tracin",
        "sum_k eta_k ||g_k||^2",
        "hard",
        "loss",
        "per-example gradients",
        "Pruthi et al., 2002.08484",
    ),
)

SCORES = {score.name: score for score in (*POINTWISE, *DYNAMICS, *OTHERS)}


def get(name: str) -> Score:
    """The score of that name. UserError where there is none."""
    if name not in SCORES:
        raise UserError(f"no score {name!r}{suggest(name, SCORES)}; there are {', '.join(SCORES)}")
    return SCORES[name]
