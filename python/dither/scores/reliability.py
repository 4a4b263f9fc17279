"""How far a ranking can be trusted: what two runs agree on, and what more runs would bring.

Scores come as (runs, n), one row a run, as `ScoreTable.values` gives them. One run of a one-checkpoint score
is not a ranking (Spearman .67 to .90 between two runs); averages over epochs nearly are (.91 to .96).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats, booleans, reals
from dither.scores.ranks import rank, spearman

CURVES = 10
"""Sets of runs that a noise curve is a mean over."""


def as_runs(values: Any, least: int = 2) -> Floats:
    """(runs, examples) in fp64, without NaN, of at least so many runs."""
    x = reals(values, "scores, (runs, examples),")
    if x.ndim != 2:
        raise UserError(f"scores are (runs, examples), not of the shape {x.shape}")
    if len(x) < least:
        raise UserError(f"reliability needs at least {least} runs, not {len(x)}")
    if np.isnan(x).any():
        raise UserError("a score is NaN (never visited?); leave those examples out of all runs")
    return x


def at_least_one(**counts: int) -> None:
    """UserError for a count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"{name}={count} is at least 1")


@dataclass(frozen=True)
class Reliability:
    """r1: mean Spearman of two runs. half: mean Spearman of the mean ranks of two halves of the runs
    (measured), of `half_runs` each; predicted: what Spearman-Brown makes of r1 for that number. needed: runs
    for a consistency of `target`, (target / (1 - target)) (1 - r1) / r1, and -1 where runs do not agree at
    all, so that no number of them is enough. snr: variance of ranks between examples over that within. tied:
    share of examples whose score another one has in the same run. NaN where a run gives all the same."""

    r1: float
    half: float
    half_runs: int
    predicted: float
    target: float
    needed: int
    snr: float
    tied: float

    def __str__(self) -> str:
        needed = f"{self.needed} runs for" if self.needed > 0 else "no number of runs reaches"
        text = (
            f"r1 {self.r1:.3f}; {self.half_runs} against {self.half_runs} runs {self.half:.3f} "
            f"(Spearman-Brown {self.predicted:.3f}); SNR {self.snr:.1f}; {needed} {self.target:g}"
        )
        return text + (" (many ties: the prediction is too high)" if self.tied > 0.5 else "")


def spearman_brown(r1: float, runs: float) -> float:
    """Consistency of the mean of `runs` runs: R r1 / (1 + (R - 1) r1). Too high for discrete scores with
    ties; NaN for runs so opposed, r1 <= -1 / (R - 1), that R of them have no such correlation. UserError for
    r1 that is no correlation and for runs that are not above 0."""
    if abs(r1) > 1 + 1e-9 or not runs > 0:
        raise UserError(f"r1={r1} is a correlation, and runs={runs} a number above 0")
    rest = 1 + (runs - 1) * r1
    return runs * r1 / rest if rest > 0 else np.nan


def reliability(values: Any, *, target: float = 0.95, splits: int = 20, seed: int = 0) -> Reliability:
    """Of a score over runs, (runs, n). splits: random halves to measure. UserError for fewer than two
    runs."""
    x = as_runs(values)
    if not 0 < target < 1:
        raise UserError(f"target={target} lies between 0 and 1")
    at_least_one(splits=splits)
    ranks = rank(x)
    runs = len(x)
    r1 = float(spearman(x)[np.triu_indices(runs, 1)].mean())
    half = runs // 2
    generator = np.random.Generator(np.random.Philox(seed))
    measured = []
    for _ in range(splits if runs > 2 else 1):
        order = generator.permutation(runs)
        means = np.stack([ranks[order[:half]].mean(axis=0), ranks[order[half : 2 * half]].mean(axis=0)])
        measured.append(spearman(means)[0, 1])
    needed = int(np.ceil(target / (1 - target) * (1 - r1) / r1 - 1e-9)) if r1 > 0 else -1
    between, within = variance_components(ranks)
    tied = float(np.mean([1 - _unique_share(row) for row in x]))
    return Reliability(
        r1,
        float(np.mean(measured)),
        half,
        spearman_brown(r1, half),
        target,
        max(needed, 1) if needed >= 0 else -1,
        between / within if within > 0 else np.inf if between > 0 else np.nan,
        tied,
    )


def _unique_share(row: Floats) -> float:
    _, counts = np.unique(row, return_counts=True)
    return float((counts == 1).sum() / len(row))


def variance_components(values: Any) -> tuple[float, float]:
    """Variance between examples, and within an example over runs (one-way random effects, unbiased)."""
    x = as_runs(values)
    within = float(x.var(axis=0, ddof=1).mean())
    return max(float(x.mean(axis=0).var(ddof=1)) - within / len(x), 0.0), within


def score_correlations(values: Mapping[str, Any]) -> tuple[tuple[str, ...], Floats]:
    """Spearman of every two scores from *independent* runs: score a on one half of the runs against b on the
    other, both ways averaged (runs in common would share their noise). The diagonal is each one's own split
    half.

    values: name -> (runs, n). Returns names and the matrix. UserError for different shapes and for none.
    """
    names = tuple(values)
    if not names:
        raise UserError("there is no score to correlate")
    arrays = [as_runs(values[name]) for name in names]
    if len({a.shape for a in arrays}) > 1:
        raise UserError(
            f"scores have different shapes: { {n: a.shape for n, a in zip(names, arrays, strict=True)} }"
        )
    half = len(arrays[0]) // 2
    first = np.stack([rank(a[:half]).reshape(half, -1).mean(axis=0) for a in arrays])
    second = np.stack([rank(a[half : 2 * half]).reshape(half, -1).mean(axis=0) for a in arrays])
    both = spearman(np.concatenate([first, second]))[: len(names), len(names) :]
    return names, (both + both.T) / 2


@dataclass(frozen=True)
class Components:
    """Principal components of rank-transformed scores: shares of variance, and loadings (components,
    scores)."""

    names: tuple[str, ...]
    shares: Floats
    loadings: Floats


def rank_pca(values: Mapping[str, Any]) -> Components:
    """PCA of the ranks of several scores of (n,): is there one factor of difficulty? Signs: the largest
    loading is positive. UserError for a constant score, different numbers of examples, and no score."""
    if not isinstance(values, Mapping):
        raise UserError(f"scores are given by name, not as {type(values).__name__}")
    names = tuple(values)
    arrays = [reals(values[name], f"the scores {name!r}") for name in names]
    if len({a.shape for a in arrays}) != 1 or arrays[0].ndim != 1:
        shapes = {name: a.shape for name, a in zip(names, arrays, strict=True)}
        raise UserError(f"scores are vectors of one length, at least one, not {shapes}")
    x = rank(np.stack(arrays))
    x -= x.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(x, axis=1)
    if (norms == 0).any():
        raise UserError(f"{names[int(np.argmin(norms))]} is the same for all examples")
    eigenvalues, vectors = np.linalg.eigh((x / norms[:, None]) @ (x / norms[:, None]).T)
    loadings = vectors.T[::-1]
    signs = np.sign(loadings[np.arange(len(names)), np.abs(loadings).argmax(axis=1)])
    return Components(names, eigenvalues[::-1] / len(names), loadings * signs[:, None])


def auc(scores: Any, positive: Any) -> float:
    """Area under the ROC curve: how often a positive example scores above another one (ties count half)."""
    s, mask = reals(scores, "scores"), booleans(positive, "the mask of positive examples")
    if s.shape != mask.shape or s.ndim != 1:
        raise UserError(f"scores and the mask have one axis and one length, not {s.shape} and {mask.shape}")
    n, m = int(mask.sum()), int((~mask).sum())
    if n == 0 or m == 0:
        raise UserError("an AUC needs positive and negative examples")
    return float((rank(s)[mask].sum() - n * (n + 1) / 2) / (n * m))


def noise_curve(values: Any, planted: Any, direction: Callable[[Floats], Floats] = lambda s: s) -> Floats:
    """AUC for finding planted label noise with the mean rank of 1, 2, ... runs. values: (runs, n), high is
    hard after `direction`. Each is a mean over at most ten sets of so many neighbouring runs, in a circle."""
    ranks = np.atleast_2d(rank(direction(as_runs(values, 1))))
    runs = len(ranks)
    first = np.unique(np.linspace(0, runs, min(runs, CURVES), endpoint=False).astype(int))
    sums, curve = np.zeros((len(first), ranks.shape[1])), []
    for more in range(runs):
        sums += ranks[(first + more) % runs]
        curve.append(np.mean([auc(row, planted) for row in sums]))
    return np.array(curve)
