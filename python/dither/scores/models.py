"""Scores that compare models: agreement of an ensemble, learnability, pointwise V-information."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats, floats, improper, pieces, reals, to_numpy


def learnability(loss: Any, held_out_loss: Any) -> Floats:
    """RHO-LOSS (Mindermann et al., 2206.07137): loss minus the loss of a model trained on held-out data.

    High: learnable and not yet learned. Both (n,) in nats; NaN where one of them is. UserError where both are
    infinite.
    """
    return _less(loss, "loss", held_out_loss, "held_out_loss")


def pvi(loss: Any, null_loss: Any) -> Floats:
    """Pointwise V-information (Ethayarajh et al., 2110.08420) in bits: log2 p(y | x) - log2 p(y | nothing).

    loss, null_loss: cross-entropies in nats of a model and of one trained on empty inputs. Below 0 suggests a
    wrong label; NaN where one of them is. UserError where both are infinite.
    """
    return _less(null_loss, "null_loss", loss, "loss") / np.log(2.0)


def _less(a: Any, name: str, b: Any, other: str) -> Floats:
    """Losses less other losses."""
    x = floats(a, name)
    y = floats(b, other, len(x))
    both = np.isinf(x) & (x == y)
    if both.any():
        raise UserError(
            f"{name} and {other} of example {int(both.argmax())} are both {x[both][0]}, which have no "
            "difference: leave it out, or bound the losses"
        )
    return x - y


def disagreement(probabilities: Any, dialect: str | None = None) -> Floats:
    """Mean Jensen-Shannon divergence in nats of all pairs of models: (models, n, classes) -> (n,), 0 to ln
    2.

    dialect: "symmetric-kl", the mean of KL(p, q) + KL(q, p), infinity where one model excludes a class that
    the other does not. Raises UserError for rows that are no probabilities."""
    if dialect not in (None, "symmetric-kl"):
        raise UserError(f"disagreement knows the dialect symmetric-kl, not {dialect!r}")
    given = to_numpy(probabilities)
    if given.ndim != 3 or len(given) < 2:
        raise UserError(f"probabilities are (at least 2 models, n, classes), not of the shape {given.shape}")
    models, n, classes = given.shape
    result = np.empty(n)
    for part in pieces(n, models * classes):
        p = reals(given[:, part], "probabilities")
        wrong = improper(p)
        if wrong.any():
            model, row = np.argwhere(wrong)[0]
            raise UserError(
                f"example {part.start + row} under model {model} has no probabilities: they are not negative "
                "and sum to 1 (pass softmax outputs)"
            )
        result[part] = _jensen_shannon(p) if dialect is None else _symmetric_kl(p)
    return result


def _jensen_shannon(p: Floats) -> Floats:
    """Mean over all pairs of models, as is the next."""
    own = _xlogx(p).sum(axis=2)
    mixed = [(own[i] + own[j]) / 2 - _xlogx((p[i] + p[j]) / 2).sum(axis=1) for i, j in _pairs(len(p))]
    return np.maximum(mixed, 0.0).mean(axis=0)


def _symmetric_kl(p: Floats) -> Floats:
    return np.mean([_kl(p[i], p[j]) + _kl(p[j], p[i]) for i, j in _pairs(len(p))], axis=0)


def _pairs(models: int) -> Iterable[tuple[int, int]]:
    return itertools.combinations(range(models), 2)


def _xlogx(p: np.ndarray) -> np.ndarray:
    return np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0.0)


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p, q) of every row: where p is 0 nothing is added, where q alone is, infinity."""
    safe_p, safe_q = np.where(p > 0, p, 1), np.where(q > 0, q, 1)
    terms = np.where(p > 0, p * (np.log(safe_p) - np.log(safe_q)), 0.0)
    return np.where((p > 0) & (q == 0), np.inf, terms).sum(axis=1)


def dichotomous(correct: Any) -> Floats:
    """Dichotomous data difficulty (Meding et al., 2110.05922): 1 where every model is right, -1 where none
    is, 0 where they differ. correct: (models, n) of booleans."""
    right = to_numpy(correct)
    if right.ndim != 2 or len(right) == 0 or right.dtype.kind != "b":
        raise UserError(
            f"correct holds booleans of (models, n), not {right.dtype} of the shape {right.shape}"
        )
    return np.asarray(right.all(axis=0), np.float64) - (~right).all(axis=0)


def vote_entropy(predictions: Any) -> Floats:
    """Entropy in nats of the classes that an ensemble votes for: (models, n) of integers -> (n,)."""
    votes = to_numpy(predictions)
    if votes.ndim != 2 or len(votes) == 0 or votes.dtype.kind not in "iu":
        raise UserError(
            f"predictions are integers of (models, n), not {votes.dtype} of the shape {votes.shape}"
        )
    # Votes for one class lie side by side: a run of r of M votes adds -r/M ln(r/M).
    ordered = np.sort(votes, axis=0)
    result, run = np.zeros(votes.shape[1]), np.ones(votes.shape[1])
    for before, now in itertools.pairwise(ordered):
        result -= np.where(now == before, 0.0, _xlogx(run / len(votes)))
        run = np.where(now == before, run + 1, 1.0)
    return result - _xlogx(run / len(votes)) + 0.0
