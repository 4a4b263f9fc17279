"""Confident learning (Northcutt et al., 1911.00068): which labels are wrong, the baseline to beat.

The joint of given and true labels is counted where a class is predicted with more than its own average
confidence, and calibrated to the given labels' counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.engine import Floats, to_numpy
from dither.scores.pointwise import check_labels


def _checked(labels: Any, probabilities: Any) -> tuple[np.ndarray, Floats]:
    p = to_numpy(probabilities).astype(np.float64)
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


def confident_joint(labels: Any, probabilities: Any) -> Floats:
    """Estimated numbers of examples by given (rows) and true label (columns); rows sum to the given
    counts."""
    y, p = _checked(labels, probabilities)
    classes = p.shape[1]
    confident = p >= thresholds(y, p)[None, :] - 1e-6
    any_confident = confident.any(axis=1)
    true = np.where(confident, p, -1).argmax(axis=1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (y[any_confident], true[any_confident]), 1)
    counts = np.bincount(y, minlength=classes)
    joint[np.arange(classes), np.arange(classes)] = np.where(joint.sum(axis=1) == 0, 1, joint.diagonal())
    joint *= (counts / joint.sum(axis=1))[:, None]
    return joint


def label_issues(labels: Any, probabilities: Any) -> np.ndarray:
    """Examples whose label is probably wrong (n booleans): off the diagonal of the confident joint, that is,
    confidently of another class than the given one (the variant "confident joint" of the paper)."""
    y, p = _checked(labels, probabilities)
    confident = p >= thresholds(y, p)[None, :] - 1e-6
    true = np.where(confident, p, -1).argmax(axis=1)
    return confident.any(axis=1) & (true != y)
