"""The bridge to the extension: arrays of any library borrowed without a copy, checked once, the GIL released.

Floating-point arrays may be numpy (ml_dtypes.bfloat16 among them), torch tensors on any device (those not on
the CPU are copied), Arrow arrays without nulls (`dither.scores.arrow`), or whatever numpy.asarray takes
without changing it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither import _core
from dither.errors import UserError
from dither.scores.arrow import is_arrow, view
from dither.threads import get_num_threads

_INT64, _FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WORDS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


@dataclass(frozen=True, slots=True)
class Borrowed:
    """Rows of floating-point numbers; the last axis is contiguous. `strides` count elements."""

    ptr: int
    word: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    owner: object

    @property
    def array(self) -> tuple[int, str]:
        return self.ptr, self.word

    @property
    def stride(self) -> int:
        """Elements from one row to the next."""
        return self.strides[0]


def _is_torch(x: Any) -> bool:
    return hasattr(x, "data_ptr") and type(x).__module__.partition(".")[0] == "torch"


def to_numpy(x: Any, what: str = "the array") -> np.ndarray:
    """`x` as numpy where numpy has the dtype."""
    if _is_torch(x):
        x = x.detach().cpu()
        return x.numpy(force=True)
    return view(x, what) if is_arrow(x) else np.asarray(x)


def borrow(x: Any, ndim: int, what: str) -> Borrowed:
    """`x` where it is, copied only if its last axis is not contiguous, its rows overlap, or it is no float.

    Raises UserError for another number of axes, TypeError for what is not an array of real numbers.
    """
    if _is_torch(x):
        x = x.detach().cpu()
        word = WORDS.get(str(x.dtype).removeprefix("torch."))
        if word is None:
            raise TypeError(f"{what} is fp32, bf16, fp16 or fp64, not {x.dtype}")
        _check_axes(tuple(x.shape), ndim, what)
        if ndim > 2 or not _rows(tuple(x.shape), tuple(x.stride())):
            x = x.contiguous()
        return Borrowed(x.data_ptr(), word, tuple(x.shape), tuple(x.stride()), x)
    try:
        array = view(x, what) if is_arrow(x) else np.asarray(x)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} is no array of numbers: {error}") from error
    if array.dtype.name not in WORDS:
        if array.dtype.kind not in "iub":
            raise TypeError(f"{what} is fp32, bf16, fp16 or fp64, not {array.dtype}")
        array = array.astype(np.float64)
    _check_axes(array.shape, ndim, what)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    size = array.itemsize
    strides = tuple(s // size for s in array.strides)
    if (
        ndim > 2
        or not array.flags.aligned
        or any(s % size for s in array.strides)
        or not _rows(array.shape, strides)
    ):
        array = np.ascontiguousarray(array)
        strides = tuple(s // size for s in array.strides)
    return Borrowed(array.ctypes.data, WORDS[array.dtype.name], array.shape, strides, array)


def _check_axes(shape: tuple[int, ...], ndim: int, what: str) -> None:
    if len(shape) != ndim:
        raise UserError(f"{what} has {ndim} axes, not the shape {shape}")


def _rows(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether rows can be read where they are."""
    if len(shape) == 1:
        return strides[0] == 1 or shape[0] <= 1
    return (strides[1] == 1 or shape[1] <= 1) and (strides[0] >= shape[1] or shape[0] <= 1)


def _is_plain(x: np.ndarray) -> bool:
    flags = x.flags
    return flags.c_contiguous and flags.aligned


def integers(x: Any, what: str, n: int | None = None, masks: bool = True) -> Ints:
    """`x` as contiguous int64, copied only where it is not. UserError where it has another length than
    `n`. masks: whether False and True are 0 and 1 (as positions they would be the first two)."""
    if n is None and type(x) is np.ndarray and x.dtype is _INT64 and x.ndim == 1 and _is_plain(x):
        return x  # the common case, a thousand times a second: a dtype is compared by identity
    array = to_numpy(x, what)
    if array.ndim != 1:
        raise UserError(f"{what} has one axis, not the shape {array.shape}")
    if array.size and array.dtype.kind not in ("iub" if masks else "iu"):
        hint = "; numpy.flatnonzero gives the positions of a mask" if array.dtype.kind == "b" else ""
        raise TypeError(f"{what} holds integers, not {array.dtype}{hint}")
    if n is not None and len(array) != n:
        raise UserError(f"{what} has {len(array)} elements where {n} are needed")
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 1 << 63:
        raise UserError(f"{what} holds integers beyond int64")
    return np.require(array, np.int64, ["C", "A"])


def floats(x: Any, what: str, n: int | None = None) -> Floats:
    """`x` as contiguous fp64 of one axis. UserError where it has another length than `n`."""
    if type(x) is np.ndarray and x.dtype is _FLOAT64 and x.ndim == 1 and len(x) == n and _is_plain(x):
        return x
    array = to_numpy(x, what)
    if array.ndim != 1:
        raise UserError(f"{what} has one axis, not the shape {array.shape}")
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{what} holds numbers, not {array.dtype}")
    if n is not None and len(array) != n:
        raise UserError(f"{what} has {len(array)} elements where {n} are needed")
    return np.require(array, np.float64, ["C", "A"])


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
_LINE = 64
"""Bytes of a line of the cache: a record that straddles none costs one."""


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

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def visitor(self, wanted: int) -> Callable[..., tuple[int, str] | None]:
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
        return {"histories": records.view(np.uint8).copy(), "histories.rest": rest.view(np.uint8).copy()}

    def load_state(self, state: Mapping[str, Any]) -> bool:
        """Restore what `state` gave; False, and nothing is taken, where it is of another number of examples
        or of another layout."""
        names = ("histories", "histories.rest")
        if not all(name in state for name in names):
            return False
        found = [np.ascontiguousarray(state[name], np.uint8) for name in names]
        if any(f.size != part.nbytes for f, part in zip(found, self._parts, strict=True)):
            return False
        for part, values in zip(self._parts, found, strict=True):
            part[:] = values.view(part.dtype)
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
