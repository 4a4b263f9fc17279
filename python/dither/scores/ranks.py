"""Ranks with ties and rank correlations of many score vectors at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats, borrow, shaped, to_numpy
from dither.scores.engine import run_kendall, run_ranks

CHUNK = 4096
"""Columns multiplied in fp32 before sums go on in fp64."""

MOST = 1 << 31
"""Positions are held in 32 bits, ranks in halves."""


def rank(x: Any) -> Floats:
    """Ranks along the last axis, from 1; equal elements share the mean of their places (scipy's "average").

    x: (n,) or (rows, n) of any floating-point type. Raises UserError for NaN: a score that is missing has no
    rank.
    """
    array = _matrix(x)
    ranks, bad = run_ranks(array)
    _refuse(array, bad, np.ndim(x))
    return ranks if np.ndim(x) == 2 else ranks[0]


def _matrix(x: Any) -> np.ndarray:
    """Rows of contiguous fp32 or fp64."""
    x = shaped(x, "the scores")
    ndim = np.ndim(x)
    if ndim not in (1, 2):
        raise UserError(f"ranks are taken of one vector or of rows, not of the shape {np.shape(x)}")
    borrowed = borrow(x, ndim, "the scores")
    array = borrowed.owner if isinstance(borrowed.owner, np.ndarray) else to_numpy(x)
    if array.shape[-1] >= MOST:
        raise UserError(f"ranks are taken of fewer than {MOST} elements, not {array.shape[-1]}")
    array = np.ascontiguousarray(array, np.float32 if borrowed.word != "fp64" else np.float64)
    return array.reshape(-1 if array.size else len(array) if ndim == 2 else 1, array.shape[-1])


def _refuse(array: np.ndarray, row: int | None, ndim: int = 2) -> None:
    """Name the NaN of a row that the kernel refused."""
    if row is not None:
        where = f"row {row}, " if ndim == 2 else ""
        raise UserError(
            f"{where}element {int(np.flatnonzero(np.isnan(array[row]))[0])} is NaN and has no rank; "
            "select the examples that were scored first"
        )


def spearman(x: Any) -> Floats:
    """Spearman's rank correlation of every pair of rows: (rows, n) -> (rows, rows), ties by mean ranks.

    A constant row correlates with nothing: NaN. Raises UserError for NaN and for fewer than two elements.
    """
    array = _matrix(x)
    rows, n = array.shape
    if n < 2:
        raise UserError(f"a rank correlation needs at least two elements, not {n}")
    # Up to 2^22 elements a centred rank, a multiple of one half, is exact in fp32.
    exact = n < 1 << 22
    centred, bad = run_ranks(array, centred=exact)
    _refuse(array, bad)
    if not exact:
        centred -= (n + 1) / 2
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
    taus, bad = run_kendall(array)
    _refuse(array, bad)
    result[upper] = taus
    result.T[upper] = result[upper]
    constant = (array == array[:, :1]).all(axis=1)
    result[constant, constant] = np.nan
    return result
