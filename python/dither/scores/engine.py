"""The bridge to the extension: arrays (`dither.scores.borrowed`) go as addresses, the GIL is released."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither import _core
from dither.scores.borrowed import WORDS, Borrowed, Floats, Ints
from dither.threads import get_num_threads


def _span(array: np.ndarray) -> tuple[int, int]:
    return array.ctypes.data, array.size


def run_logits(logits: Borrowed, labels: Ints | None, out: Sequence[Floats | None]) -> None:
    """Write the scores of every row (rust/scores/src/row.rs names them); labels are below the classes."""
    rows, classes = logits.shape
    assert classes > 0 and all(o is None or (len(o) == rows and o.flags.c_contiguous) for o in out)
    if rows == 0:
        return
    addresses = [0 if o is None else o.ctypes.data for o in out]
    shape = rows, classes, logits.stride if rows > 1 else classes
    label_address = None if labels is None else labels.ctypes.data
    _core.score_logits(logits.array, shape, label_address, addresses, get_num_threads())


_RECORD = np.dtype(
    [
        *((name, np.uint32) for name in ("visits", "correct", "forgets", "last_wrong")),
        *((name, np.float32) for name in ("confidence", "deviation", "margin", "margin_error")),
    ]
)
_REST = np.dtype(
    [("first_correct", np.uint32), *((name, np.float32) for name in ("loss", "el2n", "entropy"))]
)
_STATE = "records", "records.rest"
"""Parts of a state. Their names say what the bytes are: another layout gets other names."""
_LINE = 64
"""Bytes of a line of the cache: a record that straddles none costs one."""


def alike(found: Any, values: np.ndarray) -> bool:
    """Whether an array may stand for another one: of its shape, and of its kind of numbers."""
    found = np.asarray(found)
    return found.shape == values.shape and found.dtype.kind == values.dtype.kind


class Histories:
    """Histories of n examples in two parts (rust/scores/src/dynamics.rs), and their addresses: asking numpy
    for them would cost more than a batch of visits."""

    def __init__(self, n: int) -> None:
        room = np.zeros(n * _RECORD.itemsize + _LINE, np.uint8)
        start = -room.ctypes.data % _LINE
        self._parts = room[start : start + n * _RECORD.itemsize].view(_RECORD), np.zeros(n, _REST)
        self._addresses = self._parts[0].ctypes.data, self._parts[1].ctypes.data, n

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, column: str) -> np.ndarray:
        """A view. The highest bit of `visits`: the last was correct."""
        return self._parts[column in (_REST.names or ())][column]

    def mean(self, column: str) -> Floats:
        """In fp64. The records hold a margin with its rounding error, and a confidence above 1/2 less 1."""
        mean = self[column].astype(np.float64)
        if column == "margin":
            return mean + self["margin_error"]
        return mean + np.signbit(mean) if column == "confidence" else mean

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def recorder(self, wanted: int) -> Callable[..., tuple[int, str] | None]:
        """The function that takes a batch in: index, confidence, correct, margin, loss, EL2N, entropy, all as
        long as the index; those whose bit in `wanted` is 0 are not looked at.

        It returns None, or the place in the batch that was refused and why ("outside", "twice", "finite", or
        "form" where one is not a contiguous array of int64, of fp64); nothing was taken then.
        The histories must live as long as it is called.
        """
        return functools.partial(_core.score_visit, self._addresses, wanted)

    def state(self) -> dict[str, np.ndarray]:
        """Copies, as bytes."""
        records, rest = self._parts
        return {_STATE[0]: records.view(np.uint8).copy(), _STATE[1]: rest.view(np.uint8).copy()}

    def load_state(self, state: Mapping[str, Any]) -> bool:
        """Restore what `state` gave; False, and nothing is taken, where it is of another number of examples
        or of another layout."""
        bytes_ = dict(zip(_STATE, (part.view(np.uint8) for part in self._parts), strict=True))
        if not all(alike(state.get(name), values) for name, values in bytes_.items()):
            return False
        for name, values in bytes_.items():
            values[:] = state[name]
        return True


def run_ranks(x: np.ndarray, centred: bool = False) -> tuple[np.ndarray, int | None]:
    """Ranks of every row of fp32 or fp64, in fp64; or less their mean, in fp32. And the first row that has
    NaN."""
    assert x.ndim == 2 and x.flags.c_contiguous
    out = np.empty(x.shape, np.float32 if centred else np.float64)
    array = x.ctypes.data, WORDS[x.dtype.name]
    bad = _core.score_ranks(array, x.shape[0], x.shape[1], out.ctypes.data, centred, get_num_threads())
    return out, bad


def run_kendall(x: Floats) -> tuple[list[float], int | None]:
    """tau-b of rows i < j; or the first row that has NaN."""
    assert x.ndim == 2 and x.flags.c_contiguous and x.dtype == np.float64
    return _core.score_kendall(x.ctypes.data, x.shape[0], x.shape[1], get_num_threads())


def run_duplicates(similar: np.ndarray, before: int, out: np.ndarray) -> None:
    """Raise out[i] to the greatest of similar[i, : before + i]: fp32, without NaN."""
    assert similar.dtype == out.dtype == np.float32 and similar.flags.c_contiguous
    assert out.shape == similar.shape[:1] and before >= 0
    _core.score_duplicates(_span(similar), similar.shape[1], before, _span(out), get_num_threads())


def run_shapley(distances: np.ndarray, labels: Ints, tests: Ints, k: int, out: Floats) -> None:
    """Add the values of a block of test examples."""
    assert distances.dtype == np.float32 and distances.flags.c_contiguous
    assert distances.shape == (len(tests), len(labels)) and len(out) == len(labels) > 0
    _core.score_shapley(
        distances.ctypes.data, _span(labels), _span(tests), k, out.ctypes.data, get_num_threads()
    )


def run_project(x: Borrowed, first: int, matrix: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Projections of the rows; `matrix` is k, entries a coordinate, seed, stream."""
    rows, columns = x.shape
    out = np.zeros((rows, matrix[0]), np.float32)
    if rows and columns:
        shape = rows, columns, x.stride if rows > 1 else columns
        _core.score_project(x.array, shape, first, matrix, out.ctypes.data, get_num_threads())
    return out


def run_vog_update(x: Borrowed, mean: np.ndarray, squares: np.ndarray, count: int) -> None:
    """Welford's update with the `count`-th checkpoint; state is fp32."""
    assert mean.dtype == squares.dtype == np.float32 and mean.shape == squares.shape == x.shape
    _core.score_vog_update(
        x.array, mean.ctypes.data, squares.ctypes.data, mean.size, count, get_num_threads()
    )


def run_vog_reduce(squares: np.ndarray, count: int, root: bool, ddof: int) -> Floats:
    """Mean over the elements of each example, one a row."""
    out = np.empty(len(squares))
    _core.score_vog_reduce(_span(squares), squares.shape[1], count, (root, ddof), _span(out))
    return out


def run_vog_examples(x: Borrowed, root: bool, ddof: int) -> Floats:
    """The same from examples x checkpoints x elements."""
    out = np.empty(x.shape[0])
    if len(out):
        _core.score_vog_examples(
            x.array, (x.shape[0], x.shape[1], x.shape[2]), (root, ddof), out.ctypes.data, get_num_threads()
        )
    return out


def run_ngram_count(text: NDArray[np.uint8], offsets: Ints, buckets: int) -> NDArray[np.uint64]:
    """How often each bucket is hit."""
    counts = np.zeros(buckets, np.uint64)
    _core.score_ngram_count(_span(text), _span(offsets), _span(counts), get_num_threads())
    return counts


def run_ngram_weigh(text: NDArray[np.uint8], offsets: Ints, weights: Floats) -> tuple[Floats, Ints]:
    """Sum of weights and number of tokens of every document."""
    out, tokens = np.zeros(len(offsets) - 1), np.zeros(len(offsets) - 1, np.int64)
    _core.score_ngram_weigh(
        _span(text), _span(offsets), _span(weights), out.ctypes.data, tokens.ctypes.data, get_num_threads()
    )
    return out, tokens


def run_subsets(members: np.ndarray, correct: np.ndarray, models: int, own: bool) -> Floats:
    """Differences of accuracy with and without each example; both are (n, words) of uint64, a bit a model."""
    assert members.dtype == correct.dtype == np.uint64 and models > 0
    assert members.shape[1] == correct.shape[1] == -(-models // 64)
    out = np.empty(len(members)) if own else np.empty((len(members), len(correct)))
    _core.score_subsets(_span(members), _span(correct), models, own, _span(out), get_num_threads())
    return out
