"""Scores that compare models: agreement of an ensemble, learnability, pointwise V-information."""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats, floats, reals, to_numpy


def learnability(loss: Any, held_out_loss: Any) -> Floats:
    """RHO-LOSS (Mindermann et al., 2206.07137): loss minus the loss of a model trained on held-out data.

    High: learnable and not yet learned. Both (n,) in nats; NaN where one of them is.
    """
    mine = floats(loss, "loss")
    return mine - floats(held_out_loss, "held_out_loss", len(mine))


def pvi(loss: Any, null_loss: Any) -> Floats:
    """Pointwise V-information (Ethayarajh et al., 2110.08420) in bits: log2 p(y | x) - log2 p(y | nothing).

    loss, null_loss: cross-entropies in nats of a model and of one trained on empty inputs. Below 0 suggests a
    wrong label; NaN where one of them is.
    """
    mine = floats(loss, "loss")
    return (floats(null_loss, "null_loss", len(mine)) - mine) / np.log(2.0)


def disagreement(probabilities: Any, dialect: str | None = None) -> Floats:
    """Mean Jensen-Shannon divergence in nats of all pairs of models: (models, n, classes) -> (n,), 0 to ln
    2.

    dialect: "symmetric-kl", the mean of KL(p, q) + KL(q, p), infinity where one model excludes a class that
    the other does not. Raises UserError for rows that are no probabilities."""
    if dialect not in (None, "symmetric-kl"):
        raise UserError(f"disagreement knows the dialect symmetric-kl, not {dialect!r}")
    p = reals(probabilities, "probabilities")
    if p.ndim != 3 or len(p) < 2:
        raise UserError(f"probabilities are (at least 2 models, n, classes), not of the shape {p.shape}")
    wrong = ~((p >= 0).all(axis=2) & (np.abs(p.sum(axis=2) - 1) < 1e-2))  # NaN too; bf16 sums to 1 in .4 %
    if wrong.any():
        model, row = np.argwhere(wrong)[0]
        raise UserError(
            f"example {row} under model {model} has no probabilities: they are not negative and sum to 1 "
            "(pass softmax outputs)"
        )
    total = np.zeros(p.shape[1])
    own = -_xlogx(p).sum(axis=2)
    for i in range(len(p)):
        for j in range(i):
            if dialect is not None:
                total += _kl(p[i], p[j]) + _kl(p[j], p[i])
                continue
            mixed = -_xlogx((p[i] + p[j]) / 2).sum(axis=1)
            total += np.maximum(mixed - (own[i] + own[j]) / 2, 0.0)
    return total / (len(p) * (len(p) - 1) / 2)


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
    shares = np.zeros((votes.shape[1], len(np.unique(votes)))) if votes.size else np.zeros((0, 1))
    for k, label in enumerate(np.unique(votes)):
        shares[:, k] = (votes == label).mean(axis=0)
    return -_xlogx(shares).sum(axis=1) + 0.0
