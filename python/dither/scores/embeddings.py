"""Scores from embeddings: prototypes (Sorscher et al., 2206.14486) and semantic duplicates (2303.09540)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import UserError, require
from dither.scores.borrowed import Floats, integers, matrix, pieces
from dither.scores.engine import run_duplicates
from dither.scores.neighbours import check_squares

BLOCK = 2048


def prototypes(embeddings: Any, labels: Any) -> Floats:
    """Distance of every example to the mean embedding of its class; far is hard. (n, d), (n,) -> (n,)"""
    x = matrix(embeddings, "embeddings").astype(np.float64)
    y = integers(labels, "labels", len(x))
    result = np.empty(len(x))
    for label in np.unique(y):
        mine = x[y == label]
        result[y == label] = np.linalg.norm(mine - mine.mean(axis=0), axis=1)
    return result


def prototypes_kmeans(embeddings: Any, k: int, *, metric: str = "l2", seed: int = 0) -> Floats:
    """Distance to the nearest of k centroids found without labels; any k within 10x of the classes will do.

    metric: "l2", or "cosine" (embeddings are scaled to unit length first, distances are 1 - cosine). k-means
    is scikit-learn's. Raises UserError for more centroids than examples.
    """
    if metric not in ("l2", "cosine"):
        raise UserError(f"metric= is 'l2' or 'cosine', not {metric!r}")
    x = matrix(embeddings, "embeddings")
    if not 1 <= k <= len(x):
        raise UserError(f"k={k} centroids for {len(x)} examples")
    x = _unit(x) if metric == "cosine" else x
    check_squares(np.einsum("ij,ij->i", x, x))
    found = require("sklearn.cluster", "scores").KMeans(k, n_init=1, random_state=seed).fit(x)
    if metric == "cosine":
        # Of unit centres another one may be the nearest than of those that k-means assigned by.
        centres = _unit(found.cluster_centers_.astype(np.float64))
        return np.concatenate([1.0 - (x[part] @ centres.T).max(axis=1) for part in pieces(*x.shape)])
    return np.linalg.norm((x - found.cluster_centers_[found.labels_]).astype(np.float64), axis=1)


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, zeros left; by the greatest element first, whose square may not be fp32."""
    greatest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    x = x / np.where(greatest > 0, greatest, 1)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def duplicates(embeddings: Any, clusters: Any) -> Floats:
    """SemDeDup's score: within each cluster, hard examples (far from its centroid) first, the greatest
    cosine of an example with those before it; -1 for the first. Drop those above 1 - eps.

    embeddings: (n, d), clusters: (n,) from k-means. The similarity matrix is formed by blocks of 16 MiB.
    """
    x = _unit(matrix(embeddings, "embeddings"))
    cluster = integers(clusters, "clusters", len(x))
    result = np.empty(len(x))
    for c in np.unique(cluster):
        members = np.flatnonzero(cluster == c)
        centre = _unit(x[members].mean(axis=0, keepdims=True))[0]
        members = members[np.argsort(x[members] @ centre, kind="stable")]
        mine = x[members]
        for start in range(0, len(members), BLOCK):
            block = mine[start : start + BLOCK]
            greatest = np.full(len(block), -1, np.float32)
            for first in range(0, start + len(block), BLOCK):
                others = mine[first : min(first + BLOCK, start + len(block))]
                run_duplicates(block @ others.T, start - first, greatest)
            result[members[start : start + len(block)]] = greatest
    return result
