"""Ranks with ties and rank correlations of many score vectors at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.engine import Floats, borrow, run_kendall, run_ranks

CHUNK = 4096
"""Columns multiplied in fp32 before sums go on in fp64."""


def rank(x: Any) -> Floats:
    """Ranks along the last axis, from 1; equal elements share the mean of their places (scipy's "average").

    x: (n,) or (rows, n) of any floating-point type. Raises UserError for NaN: a score that is missing has no
    rank.
    """
    array = _matrix(x)
    ranks = run_ranks(array)
    return ranks if np.ndim(x) == 2 else ranks[0]


def _matrix(x: Any) -> np.ndarray:
    """Rows of contiguous fp32 or fp64 without NaN."""
    ndim = np.ndim(x)
    if ndim not in (1, 2):
        raise UserError(f"ranks are taken of one vector or of rows, not of the shape {np.shape(x)}")
    borrowed = borrow(x, ndim, "the scores")
    array = borrowed.owner if isinstance(borrowed.owner, np.ndarray) else np.asarray(x)
    array = np.ascontiguousarray(array, np.float32 if borrowed.word != "fp64" else np.float64)
    array = array.reshape(-1, array.shape[-1])
    with np.errstate(all="ignore"):
        # A sum that is NaN is quick to find; infinities of both signs make one too.
        suspects = np.flatnonzero(np.isnan(array.sum(axis=1)))
    bad = [row for row in suspects if np.isnan(array[row]).any()]
    if bad:
        row = int(bad[0])
        where = f"row {row}, " if ndim == 2 else ""
        raise UserError(
            f"{where}element {int(np.flatnonzero(np.isnan(array[row]))[0])} is NaN and has no rank; "
            "select the examples that were scored first"
        )
    return array


def spearman(x: Any) -> Floats:
    """Spearman's rank correlation of every pair of rows: (rows, n) -> (rows, rows), ties by mean ranks.

    A constant row correlates with nothing: NaN. Raises UserError for NaN and for fewer than two elements.
    """
    array = _matrix(x)
    rows, n = array.shape
    if n < 2:
        raise UserError(f"a rank correlation needs at least two elements, not {n}")
    # Up to 2^22 elements a centred rank, a multiple of one half, is exact in fp32.
    centred = run_ranks(array, centred=True) if n < 1 << 22 else run_ranks(array) - (n + 1) / 2
    products = np.zeros((rows, rows))
    for start in range(0, n, CHUNK):
        part = centred[:, start : start + CHUNK]
        products += part @ part.T
    norms = np.sqrt(np.diag(products))
    norms[norms == 0] = np.nan
    result = np.clip(products / (norms[:, None] * norms[None, :]), -1.0, 1.0)
    result = (result + result.T) / 2
    varied = np.isfinite(norms)
    result[varied, varied] = 1.0
    return result


def kendall(x: Any) -> Floats:
    """Kendall's tau-b of every pair of rows: (rows, n) -> (rows, rows). A constant row gives NaN.

    Exact counts of concordant, discordant and tied pairs. Raises UserError for NaN and for fewer than two
    elements.
    """
    array = np.ascontiguousarray(_matrix(x), np.float64)
    rows, n = array.shape
    if n < 2:
        raise UserError(f"a rank correlation needs at least two elements, not {n}")
    result = np.eye(rows)
    upper = np.triu_indices(rows, 1)
    result[upper] = run_kendall(array)
    result.T[upper] = result[upper]
    constant = (array == array[:, :1]).all(axis=1)
    result[constant, constant] = np.nan
    return result
