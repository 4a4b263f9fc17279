"""Sparse random projections of gradients: many dimensions to a few thousand, inner products kept.

The sparse Johnson-Lindenstrauss transform of Kane and Nelson (1012.1577), block construction: every
coordinate adds +-1/sqrt(s) to one place in each of s blocks of the target. Signs and places are addressed by
(seed, stream, coordinate), so shards of rows or of coordinates, on any machine, use the same matrix. At s =
4 the distortion of Gaussian rows is that of a dense matrix, 1/sqrt(k) in a cosine, at a thousandth of the
multiplications.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither.checks import check_address
from dither.errors import UserError
from dither.scores.borrowed import borrow
from dither.scores.engine import run_project


def project(
    x: Any, k: int, *, entries: int = 4, seed: int = 0, stream: int = 0, first: int = 0
) -> NDArray[np.float32]:
    """Project rows: (n, d) of any floating-point type -> (n, k) fp32.

    entries: nonzero entries a coordinate, a divisor of k; 1 is the count-sketch. first: the coordinate of
    column 0: projections of the parts of a long vector (layer by layer) add up to that of the whole.

    Raises UserError for a k or a number of entries that makes no sense.
    """
    if k < 1 or entries < 1 or k % entries:
        raise UserError(f"entries={entries} does not divide k={k}")
    if k > 1 << 30:
        raise UserError(f"k={k} is no small number of dimensions; at most 2^30")
    seed, stream, first = check_address(seed, stream, first)
    return run_project(borrow(x, 2, "the rows"), first, (k, entries, seed, stream))
