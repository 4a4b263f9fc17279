"""Confident learning (Northcutt et al., 1911.00068): which labels are wrong, the baseline to beat.

The joint of given and true labels is counted where a class is predicted with more than its own average
confidence, and calibrated to the given labels' counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError
from dither.scores.borrowed import Floats, Ints, improper, pieces, reals, to_numpy
from dither.scores.pointwise import check_labels

Bools = NDArray[np.bool_]
LEAST = 2e-6
"""cleanlab's threshold is no lower."""


def _checked(labels: Any, probabilities: Any) -> tuple[Ints, np.ndarray]:
    p = to_numpy(probabilities)
    if p.ndim != 2 or p.shape[1] < 2:
        raise UserError(f"probabilities are (n, at least 2 classes), not of the shape {p.shape}")
    for part in pieces(*p.shape):
        wrong = improper(reals(p[part], "probabilities"))
        if wrong.any():
            raise UserError(
                f"row {part.start + int(wrong.argmax())} holds no probabilities: they are not negative and "
                "sum to 1 (pass out-of-sample softmax outputs)"
            )
    return check_labels(labels, len(p), p.shape[1]), p


def thresholds(labels: Any, probabilities: Any) -> Floats:
    """Mean confidence of the examples of each class in it; a class without examples has none (infinity)."""
    return _thresholds(*_checked(labels, probabilities))


def _thresholds(y: Ints, p: np.ndarray) -> Floats:
    own = p[np.arange(len(y)), y].astype(np.float64)
    counts = np.bincount(y, minlength=p.shape[1])
    sums = np.bincount(y, own, p.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def _guesses(y: Ints, p: np.ndarray, dialect: str | None) -> tuple[Ints, Bools, Bools]:
    """The class each example confidently is of, whether there is one, and whether its label is the
    likeliest."""
    if dialect not in (None, "cleanlab"):
        raise UserError(f"confident learning knows the dialect cleanlab, not {dialect!r}")
    least = _thresholds(y, p)
    if dialect == "cleanlab":
        least = np.maximum(least, LEAST)
    guesses, known, likeliest = np.empty(len(y), np.int64), np.empty(len(y), bool), np.empty(len(y), bool)
    for part in pieces(*p.shape):
        rows = p[part].astype(np.float64)
        confident, best = rows >= least - 1e-6, rows.argmax(axis=1)
        guess = np.where(confident, rows, -1).argmax(axis=1)
        if dialect == "cleanlab":  # of several confident classes not the likeliest, but the likeliest of all
            guess = np.where(confident.sum(axis=1) > 1, best, guess)
        guesses[part], known[part], likeliest[part] = guess, confident.any(axis=1), best == y[part]
    return guesses, known, likeliest


def confident_joint(labels: Any, probabilities: Any, dialect: str | None = None) -> Floats:
    """Estimated numbers of examples by given (rows) and true label (columns); rows sum to the given counts.

    dialect: "cleanlab" counts at least one right example of every class, rounds to whole numbers, and lets
    classes compete by probability alone where several are confident (`compute_confident_joint`)."""
    y, p = _checked(labels, probabilities)
    classes = p.shape[1]
    true, known, _ = _guesses(y, p, dialect)
    joint = np.zeros((classes, classes), order="F")
    np.add.at(joint, (y[known], true[known]), 1)
    counts = np.bincount(y, minlength=classes)
    least = np.ones(classes) if dialect == "cleanlab" else joint.sum(axis=1) == 0
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), least))
    # Layout and order are cleanlab's: the last bits of sums decide where half a count goes.
    joint = (joint.T / joint.sum(axis=1) * counts).T
    return _whole(joint / joint.sum() * counts.sum()) if dialect == "cleanlab" else joint


def _whole(joint: Floats) -> Floats:
    """Rounded, and where a row does not sum to what it did, the entries that moved most step back."""
    whole = joint.round()
    for row, exact in zip(whole, joint, strict=True):
        left = int(exact.sum().round() - row.sum())
        order = np.argsort(exact - row)
        row[order[::-1][:left] if left > 0 else order[:-left]] += np.sign(left)
    return whole


def label_issues(labels: Any, probabilities: Any, dialect: str | None = None) -> np.ndarray:
    """Examples whose label is probably wrong (n booleans): off the diagonal of the confident joint, that is,
    confidently of another class than the given one (the variant "confident joint" of the paper). dialect:
    "cleanlab", its filter "confident_learning", which keeps labels that are the likeliest class."""
    y, p = _checked(labels, probabilities)
    true, known, likeliest = _guesses(y, p, dialect)
    issues = known & (true != y)
    return issues & ~likeliest if dialect == "cleanlab" else issues
