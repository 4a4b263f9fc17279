"""Two groups of runs, such as two architectures: which examples tell them apart, singly and together.

The permutation test and the fingerprints are those of 2401.01867.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats
from dither.scores.ranks import rank
from dither.scores.reliability import as_runs, at_least_one

SPLITS, COLUMNS = 256, 4096
"""Splits of the runs, and examples, that are looked at together: 8 MB."""


@dataclass(frozen=True)
class Bias:
    """difference: mean rank of group a minus group b for every example; p: two-sided permutation p-values;
    significant: those that stand at the false discovery rate asked for (Benjamini-Hochberg)."""

    difference: Floats
    p: Floats
    significant: np.ndarray
    rate: float
    permutations: int


def architecture_bias(
    a: Any, b: Any, *, rate: float = 0.05, permutations: int = 10_000, seed: int = 0
) -> Bias:
    """Which examples are harder for one architecture than for the other: a permutation test for every example
    of its mean rank within runs. a, b: (runs, n) of two architectures.

    All splits of the runs are counted where they are at most `permutations`; p is then at least 1 over their
    number, and 2 over it for groups of one size, where swapping the groups is as extreme. That limits small
    samples: 4 against 4 runs cannot fall below 2 / 70 = .0286. Counts are exact, ties among them.
    """
    x, y = rank(as_runs(a)), rank(as_runs(b))
    if x.shape[1] != y.shape[1]:
        raise UserError(f"the groups score {x.shape[1]} and {y.shape[1]} examples")
    if not 0 < rate < 1:
        raise UserError(f"rate={rate} lies between 0 and 1")
    at_least_one(permutations=permutations)
    groups, exact = _groups(len(x) + len(y), len(x), permutations, seed)
    as_extreme = np.concatenate(
        [
            _as_extreme(x[:, s : s + COLUMNS], y[:, s : s + COLUMNS], groups)
            for s in range(0, x.shape[1], COLUMNS)
        ]
        or [np.zeros(0)]
    )
    p = as_extreme / len(groups) if exact else (as_extreme + 1) / (len(groups) + 1)
    observed = x.mean(axis=0) - y.mean(axis=0)
    return Bias(observed, p, benjamini_hochberg(p, rate), rate, len(groups))


def _as_extreme(x: Floats, y: Floats, groups: Floats) -> Floats:
    """How many of the splits set the means as far apart as x and y are, for every example.

    Ranks are multiples of one half, so everything is a whole number in fp64: R (sum of 2 r over a group) less
    its size times the sum over all R runs is the difference of means but for a factor, and ties are exact.
    """
    doubled, size = 2 * np.concatenate([x, y]), len(x)
    total = size * doubled.sum(axis=0)
    observed = np.abs(len(doubled) * doubled[:size].sum(axis=0) - total)
    found = np.zeros(doubled.shape[1])
    for start in range(0, len(groups), SPLITS):
        apart = len(doubled) * (groups[start : start + SPLITS] @ doubled) - total
        found += (np.abs(apart) >= observed).sum(axis=0)
    return found


def _groups(total: int, size: int, permutations: int, seed: int) -> tuple[Floats, bool]:
    """Rows of 0 and 1: every way to choose `size` of `total`, or that many random ones."""
    from itertools import combinations
    from math import comb

    if comb(total, size) <= permutations:
        rows = np.zeros((comb(total, size), total))
        for i, chosen in enumerate(combinations(range(total), size)):
            rows[i, list(chosen)] = 1
        return rows, True
    generator = np.random.Generator(np.random.Philox(seed))
    rows = np.zeros((permutations, total))
    rows[:, :size] = 1
    return generator.permuted(rows, axis=1), False


def benjamini_hochberg(p: Any, rate: float) -> np.ndarray:
    """Which hypotheses are rejected at a false discovery rate."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    below = values[order] <= rate * np.arange(1, len(values) + 1) / max(len(values), 1)
    kept = np.zeros(len(values), bool)
    if below.any():
        kept[order[: int(np.flatnonzero(below)[-1]) + 1]] = True
    return kept


@dataclass(frozen=True)
class Fingerprint:
    """accuracy[i]: share of held-out runs told apart with counts[i] examples, mean over splits and over the
    two groups, so that `chance` is one half whatever their sizes."""

    counts: tuple[int, ...]
    accuracy: tuple[float, ...]
    splits: int
    chance: float = 0.5


def fingerprints(
    a: Any, b: Any, counts: Sequence[int] = (1, 2, 4, 8, 16, 32, 64), *, splits: int = 10, seed: int = 0
) -> Fingerprint:
    """Can a handful of examples tell which architecture a run used? (2401.01867)

    On half of the runs of each group the k examples with the largest |Welch t| are chosen, and a classifier
    of diagonal covariance is fitted, which takes both groups for equally likely; the other half is
    classified, where a run between both counts half.
    UserError for groups of fewer than four runs.
    """
    x, y = rank(as_runs(a, 4)), rank(as_runs(b, 4))
    at_least_one(splits=splits)
    if x.shape[1] != y.shape[1] or not counts or not 1 <= min(counts) <= max(counts) <= x.shape[1]:
        raise UserError(
            f"the groups score {x.shape[1]} and {y.shape[1]} examples; "
            f"counts= are from 1 to as many, not {tuple(counts)}"
        )
    generator = np.random.Generator(np.random.Philox(seed))
    right = np.zeros(len(counts))
    for _ in range(splits):
        train_x, test_x = _split(x, generator)
        train_y, test_y = _split(y, generator)
        means = train_x.mean(axis=0), train_y.mean(axis=0)
        spread = train_x.var(axis=0, ddof=1) / len(train_x) + train_y.var(axis=0, ddof=1) / len(train_y)
        pooled = (train_x.var(axis=0, ddof=1) + train_y.var(axis=0, ddof=1)) / 2
        floor = max(float(pooled.mean()), 1e-12) * 1e-3
        order = np.argsort(-np.abs(means[0] - means[1]) / np.sqrt(spread + floor), kind="stable")
        for i, k in enumerate(counts):
            chosen = order[:k]
            gap = (means[0] - means[1])[chosen] / (pooled[chosen] + floor)
            middle = (means[0] + means[1])[chosen] / 2
            sides = (test_x[:, chosen] - middle) @ gap, (middle - test_y[:, chosen]) @ gap
            right[i] += sum((np.sign(side) + 1).mean() / 4 for side in sides)
    return Fingerprint(tuple(counts), tuple((right / splits).tolist()), splits)


def _split(x: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
    order = generator.permutation(len(x))
    return x[order[: len(x) // 2]], x[order[len(x) // 2 :]]
