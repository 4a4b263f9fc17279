"""What a condition of training does to a ranking: label noise, class imbalance, a format, an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import integers
from dither.scores.ranks import rank, spearman
from dither.scores.reliability import as_runs


@dataclass(frozen=True)
class Effect:
    """within: mean Spearman of two runs of each condition (r1); between: of a run of one and a run of the
    other; corrected: that over the root of both r1 (Spearman 1904). 1: the conditions rank alike but for what
    any two runs differ by; above 1 by chance. NaN where runs of a condition do not agree at all."""

    within: tuple[float, float]
    between: float
    corrected: float

    def __str__(self) -> str:
        return (
            f"within {self.within[0]:.3f} and {self.within[1]:.3f}, between {self.between:.3f}, "
            f"corrected for the noise of runs {self.corrected:.3f}"
        )


def condition_effect(a: Any, b: Any, *, paired: bool = False) -> Effect:
    """Does a condition change which examples are hard? a, b: (runs, n) of one score on the same examples.

    For label noise give the examples whose labels are right in both; for imbalance those that both trained
    on. paired: run i of both shares its seed; such pairs, which would flatter the agreement, are left out.
    UserError for fewer than two runs, and different examples or, where paired, different numbers of runs.
    """
    x, y = as_runs(a), as_runs(b)
    if x.shape[1] != y.shape[1] or (paired and len(x) != len(y)):
        raise UserError(f"the conditions have scores of the shapes {x.shape} and {y.shape}")
    whole = spearman(np.concatenate([x, y]))
    across = whole[: len(x), len(x) :]
    between = float(across[~np.eye(len(x), dtype=bool)].mean() if paired else across.mean())
    own = whole[: len(x), : len(x)], whole[len(x) :, len(x) :]
    first, second = (float(r[np.triu_indices(len(r), 1)].mean()) for r in own)
    corrected = between / float(np.sqrt(first * second)) if first > 0 and second > 0 else float("nan")
    return Effect((first, second), between, corrected)


def class_share(values: Any, labels: Any) -> float:
    """The share of the variance of mean ranks that lies between classes, 0 to 1: near 1, choosing by the
    score is choosing classes (use `selection.with_class_floor`). values: (runs, n), labels: (n,)."""
    ranks = rank(as_runs(values, 1)).mean(axis=0)
    if not len(ranks):
        raise UserError("there are no examples")
    y = integers(labels, "labels", len(ranks))
    _, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    means = np.bincount(codes, ranks) / counts
    total = float(ranks.var())
    return float((counts * (means - ranks.mean()) ** 2).sum() / len(ranks) / total) if total > 0 else 0.0
