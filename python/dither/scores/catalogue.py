"""What every score means: formula, direction, unit, cost, source and dialects, in one table."""

from __future__ import annotations

from typing import Any

from dither.errors import UserError, suggest
from dither.scores.other_scores import OTHERS
from dither.scores.score import Score


def _pointwise(name: str, formula: str, direction: str, unit: str, source: str, **more: Any) -> Score:
    needs = more.pop("needs", "logits, labels")
    cost = "one forward pass, or none where the logits of training are at hand"
    made_by = ("logit_scores", "sequence_scores")
    return Score(name, formula, direction, unit, needs, cost, source, made_by=made_by, **more)


def _dynamics(name: str, formula: str, direction: str, unit: str, source: str, **more: Any) -> Score:
    cost = "none on the minibatches of training; a forward pass for every full evaluation"
    needs = "logits and labels at every visit"
    return Score(name, formula, direction, unit, needs, cost, source, made_by=("Tracker",), **more)


POINTWISE = (
    _pointwise("loss", "logsumexp(z) - z_y", "hard", "nats", "cross-entropy"),
    _pointwise("confidence", "p_y", "easy", "probability", "cleanlab's self-confidence"),
    _pointwise("max_confidence", "max_k p_k", "easy", "probability", "label-free", needs="logits"),
    _pointwise(
        "entropy", "-sum_k p_k ln p_k", "hard", "nats", "label-free", needs="logits", note="0 ln 0 = 0",
        dialects={"bits": "log2 for ln"},
    ),
    _pointwise(
        "margin", "z_y - max_{k != y} z_k", "easy", "logits", "Pleiss et al., 2001.10528",
        note="scales with the temperature: compare across models by rank only",
    ),
    _pointwise(
        "probability_margin", "p_y - max_{k != y} p_k", "easy", "probability", "2401.01867's code",
        dialects={"cleanlab": "(m + 1) / 2, its normalized margin", "data-diet": "-m, high is hard"},
        turned=("data-diet",),
    ),
    _pointwise(
        "top_margin", "p_(1) - p_(2)", "easy", "probability", "active learning; label-free", needs="logits"
    ),
    _pointwise(
        "el2n", "||p - e_y||_2", "hard", "probability", "Paul et al., 2107.07075",
        note="published as the mean over ten runs at one early epoch",
        dialects={"datagnosis": "squared: no root is taken"},
    ),
    _pointwise(
        "correct", "argmax_k z_k = y", "easy", "0 or 1", "accuracy", note="the first of equal logits counts"
    ),
)  # fmt: skip

DYNAMICS = (
    _dynamics(
        "forgetting", "#{t : correct at t - 1, wrong at t}", "hard", "events", "Toneva et al., 1812.05159",
        note="never learned: the most visits of any example of the run, which none that was learned reaches",
        dialects={
            "data-diet": "never learned: infinity",
            "cartography": "never learned: 1000",
            "deepcore": "never learned: 0",
            "kwok": "never learned: 0 (code of 2401.01867)",
            "datagnosis": "divided by T, never learned: 0 (it divides by its updates, one a full evaluation)",
        },
    ),
    _dynamics("first_learned", "min {t : correct}", "hard", "visits", "2401.01867", note="never learned: T"),
    _dynamics(
        "iteration_learned", "min {t : correct from t on}", "hard", "visits",
        "2401.01867's code; Baldock et al., 2106.09647",
        note="counted from 0: 0 is always correct, T is wrong at the end; Baldock et al. take the final "
        "prediction for the label: `settled`",
    ),
    _dynamics(
        "settled", "min {t : argmax_k z_k is the final one from t on}", "hard", "visits",
        "Baldock et al., 2106.09647", note="no labels enter; 8 bytes an example more",
    ),
    _dynamics("aum", "mean_t (z_y - max_{k != y} z_k)", "easy", "logits", "Pleiss et al., 2001.10528"),
    _dynamics("confidence_mean", "mean_t p_y", "easy", "probability", "Swayamdipta et al., 2009.10795"),
    _dynamics(
        "variability", "population std_t p_y", "neither", "probability", "Swayamdipta et al., 2009.10795",
        note="high is ambiguous; hard-to-learn examples have low confidence and low variability",
        dialects={"cartography-std-ci": "sqrt(var + var^2 / (T - 1)), the repository's option"},
    ),
    _dynamics(
        "correctness", "share of visits that were correct", "easy", "share", "Swayamdipta et al., 2009.10795",
        dialects={"cartography": "their number"},
    ),
    _dynamics(
        "closeness", "mean_t p_y (1 - mean_t p_y)", "neither", "probability", "code of 2009.10795"
    ),
    _dynamics("aleatoric", "mean_t p_y (1 - p_y)", "neither", "probability", "Data-IQ, 2210.13043"),
    _dynamics("loss_mean", "mean_t loss", "hard", "nats", "C-score proxies, 2002.03206"),
    _dynamics("el2n_mean", "mean_t ||p - e_y||_2", "hard", "probability", "2401.01867"),
    _dynamics("entropy_mean", "mean_t entropy", "hard", "nats", "2401.01867"),
)  # fmt: skip

SCORES = {score.name: score for score in (*POINTWISE, *DYNAMICS, *OTHERS)}


def get(name: str) -> Score:
    """The score of that name. UserError where there is none."""
    if name not in SCORES:
        raise UserError(f"no score {name!r}{suggest(name, SCORES)}; there are {', '.join(SCORES)}")
    return SCORES[name]
