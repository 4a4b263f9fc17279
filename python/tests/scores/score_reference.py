"""Every score of logits as its formula reads, in fp64, one row at a time, with mpmath-free exactness where
it counts."""

from __future__ import annotations

import math

import numpy as np


def row_scores(row: np.ndarray, y: int) -> dict[str, float]:
    """One row in fp64. Sums over the classes but the greatest keep the digits of small results."""
    z: list[float] = row.tolist()
    m = max(z)
    top = z.index(m)
    rest = [math.exp(v - m) for k, v in enumerate(z) if k != top]
    a = math.fsum(rest)
    total = 1.0 + a
    e = [math.exp(v - m) for v in z]
    others = math.fsum(e[k] for k in range(len(z)) if k != y)
    squares = math.fsum(e[k] ** 2 for k in range(len(z)) if k != y)
    weighted = math.fsum(e[k] * (m - z[k]) for k in range(len(z)) if e[k] > 0)
    ordered = sorted(z, reverse=True)
    second = ordered[1] if len(z) > 1 else -math.inf
    rival = max((v for k, v in enumerate(z) if k != y), default=-math.inf)
    return {
        "loss": math.log1p(a) + (m - z[y]),
        "confidence": e[y] / total,
        "max_confidence": 1 / total,
        "entropy": math.log1p(a) + weighted / total,
        "margin": z[y] - rival,
        "probability_margin": (e[y] - math.exp(rival - m)) / total,
        "top_margin": (1 - math.exp(second - m)) / total,
        "el2n": math.sqrt(squares + others**2) / total,
        "correct": float(top == y),
    }


def reference(z: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    rows = [row_scores(row, int(label)) for row, label in zip(z.astype(np.float64), y, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
