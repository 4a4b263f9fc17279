"""Confident learning (Northcutt et al., 1911.00068): which labels are wrong, the baseline to beat.

The joint of given and true labels is counted where a class is predicted with more than its own average
confidence, and calibrated to the given labels' counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats, reals
from dither.scores.pointwise import check_labels


def _checked(labels: Any, probabilities: Any) -> tuple[np.ndarray, Floats]:
    p = reals(probabilities, "probabilities")
    if p.ndim != 2 or p.shape[1] < 2:
        raise UserError(f"probabilities are (n, at least 2 classes), not of the shape {p.shape}")
    if not np.isfinite(p).all() or (p < 0).any() or (np.abs(p.sum(axis=1) - 1) > 1e-3).any():
        raise UserError(
            "rows of probabilities are not negative and sum to 1 (pass out-of-sample softmax outputs)"
        )
    return check_labels(labels, len(p), p.shape[1]), p


def thresholds(labels: Any, probabilities: Any) -> Floats:
    """Mean confidence of the examples of each class in it; a class without examples has none (infinity)."""
    y, p = _checked(labels, probabilities)
    own = p[np.arange(len(y)), y]
    counts = np.bincount(y, minlength=p.shape[1])
    sums = np.bincount(y, own, p.shape[1])
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def _guesses(y: np.ndarray, p: Floats, dialect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """The class each example confidently is of, and whether there is one."""
    if dialect not in (None, "cleanlab"):
        raise UserError(f"confident learning knows the dialect cleanlab, not {dialect!r}")
    confident = p >= thresholds(y, p)[None, :] - 1e-6
    guess = np.where(confident, p, -1).argmax(axis=1)
    if dialect == "cleanlab":  # of several confident classes not the likeliest, but the likeliest of all
        guess = np.where(confident.sum(axis=1) > 1, p.argmax(axis=1), guess)
    return guess, np.asarray(confident.any(axis=1))


def confident_joint(labels: Any, probabilities: Any, dialect: str | None = None) -> Floats:
    """Estimated numbers of examples by given (rows) and true label (columns); rows sum to the given counts.

    dialect: "cleanlab" counts at least one right example of every class, rounds to whole numbers, and lets
    classes compete by probability alone where several are confident (`compute_confident_joint`)."""
    y, p = _checked(labels, probabilities)
    classes = p.shape[1]
    true, known = _guesses(y, p, dialect)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (y[known], true[known]), 1)
    counts = np.bincount(y, minlength=classes)
    least = np.ones(classes) if dialect == "cleanlab" else joint.sum(axis=1) == 0
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), least))
    joint *= (counts / joint.sum(axis=1))[:, None]
    return _whole(joint) if dialect == "cleanlab" else joint


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
    true, known = _guesses(y, p, dialect)
    issues = known & (true != y)
    return issues & (p.argmax(axis=1) != y) if dialect == "cleanlab" else issues
