"""Values of training examples under a nearest-neighbour vote (Jia et al., 1908.08619)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError
from dither.scores.borrowed import Floats, integers, matrix
from dither.scores.engine import run_shapley

Matrix = NDArray[np.float32]
BLOCK = 1 << 24
"""Distances held at a time."""


def knn_shapley(embeddings: Any, labels: Any, test_embeddings: Any, test_labels: Any, k: int = 10) -> Floats:
    """The Shapley value of every training example for the accuracy of a k-nearest-neighbour vote.

    embeddings: (n, d), test_embeddings: (tests, d), Euclidean distances in fp32 (scale to unit length for
    cosine). Values are means over the test examples and sum to the mean share of right labels among the k
    nearest. Memory: 2^24 distances at a time.

    Embeddings far from 0 lose their mean first, which leaves distances what they are: what is common to all
    would cost fp32 its digits. Several tight clusters cost them still: with radii a thousandth of their
    distance from the mean, neighbours inside change places (rank correlation with fp64 .87; at a hundredth
    .9996).

    Raises UserError for k < 1, empty data, shapes that do not agree, NaN.
    """
    if k < 1:
        raise UserError(f"k= is at least 1, not {k}")
    x, tests = matrix(embeddings, "embeddings"), matrix(test_embeddings, "test_embeddings")
    y = integers(labels, "labels", len(x))
    test_y = integers(test_labels, "test_labels", len(tests))
    if len(x) == 0 or len(tests) == 0:
        raise UserError("there are no examples")
    if x.shape[1] != tests.shape[1]:
        raise UserError(f"embeddings have {x.shape[1]} dimensions, test_embeddings {tests.shape[1]}")
    x, tests, squares = centred(x, tests)
    values = np.zeros(len(x))
    step = min(max(1, BLOCK // len(x)), len(tests))
    memory = np.empty((step, len(x)), np.float32)
    for start in range(0, len(tests), step):
        block = tests[start : start + step]
        # The test example's own square is the same for all and does not change the order.
        distances = np.matmul(-2 * block, x.T, out=memory[: len(block)])
        distances += squares
        run_shapley(distances, y, test_y[start : start + step], k, values)
    return values / len(tests)


def centred(x: Matrix, others: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Both, less the mean of x where that is longer than rows are from it; and the squares of x. Distances
    stay what they are, and fp32's digits are those of the differences."""
    centre = x.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->i", x, x)
    if 2 * centre @ centre > squares.mean(dtype=np.float64):  # else it costs a bit, and a copy is saved
        same, shift = others is x, centre.astype(np.float32)
        with np.errstate(over="ignore"):
            x = x - shift
            others = x if same else others - shift
        squares = np.einsum("ij,ij->i", x, x)
    check_squares(squares)
    check_squares(np.einsum("ij,ij->i", others, others))
    return x, others, squares


def check_squares(squares: Matrix) -> None:
    """UserError where a distance of two rows is beyond fp32: a product of two rows is at most the greatest
    square, and its double is added to one."""
    if not 4 * float(squares.max(initial=0)) < np.finfo(np.float32).max:
        raise UserError("distances of these embeddings overflow fp32: scale them down")
