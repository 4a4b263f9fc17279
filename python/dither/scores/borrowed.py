"""Arrays of any library, borrowed without a copy and checked once.

Floating-point arrays may be numpy (ml_dtypes.bfloat16 among them), torch tensors on any device (those not on
the CPU are copied), Arrow arrays without nulls (`dither.scores.arrow`), or whatever numpy.asarray takes
without changing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError
from dither.scores.arrow import is_arrow, view

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


def is_torch(x: Any) -> bool:
    return hasattr(x, "data_ptr") and type(x).__module__.partition(".")[0] == "torch"


def to_numpy(x: Any, what: str = "the array") -> np.ndarray:
    """`x` as numpy: where it lies, but for torch's bf16, which becomes fp32 (numpy has no such dtype).

    UserError for what is no array, and for masked elements, which numpy would take for values."""
    if is_torch(x):
        x = x.detach().cpu()
        return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy(force=True)
    if is_arrow(x):
        return view(x, what)
    if hasattr(x, "mask") and np.ma.is_masked(x):
        raise UserError(f"{what} has masked elements: leave them out, or fill them with a value of your own")
    try:
        return np.asarray(x)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} is no array: {error}") from None


def shaped(x: Any, what: str) -> Any:
    """`x` itself where it has a shape, as numpy where it has none (Arrow arrays, lists)."""
    return x if hasattr(x, "shape") else to_numpy(x, what)


def borrow(x: Any, ndim: int, what: str) -> Borrowed:
    """`x` where it is, copied only if its last axis is not contiguous, its rows overlap, or it is no float.

    Raises UserError for another number of axes, TypeError for what is not an array of real numbers.
    """
    if is_torch(x):
        x = x.detach().cpu()
        word = WORDS.get(str(x.dtype).removeprefix("torch."))
        if word is None:
            raise TypeError(f"{what} is fp32, bf16, fp16 or fp64, not {x.dtype}")
        _check_axes(tuple(x.shape), ndim, what)
        if ndim > 2 or not _rows(tuple(x.shape), tuple(x.stride())):
            x = x.contiguous()
        return Borrowed(x.data_ptr(), word, tuple(x.shape), tuple(x.stride()), x)
    array = to_numpy(x, what)
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


def dense(x: Borrowed, what: str) -> Borrowed:
    """`x` with its rows one after the other, copied only where they are not."""
    if x.shape[0] <= 1 or x.stride == x.shape[1]:
        return x
    rows: Any = x.owner
    return borrow(rows.contiguous() if is_torch(rows) else np.ascontiguousarray(rows), 2, what)


def pieces(n: int, width: int) -> Iterator[slice]:
    """Rows that hold about 2^20 elements: what is computed of them stays small, however many there are."""
    step = max(1, (1 << 20) // max(width, 1))
    return (slice(start, start + step) for start in range(0, n, step))


def improper(p: Floats) -> NDArray[np.bool_]:
    """Where the last axis holds no probabilities: negative ones, NaN, or of another sum than 1 (which bf16
    has to .4 %)."""
    return ~((p >= 0).all(axis=-1) & (np.abs(p.sum(axis=-1) - 1) < 1e-2))


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


def reals(x: Any, what: str) -> Floats:
    """`x` of any shape as fp64. UserError for what is no real number."""
    array = to_numpy(x, what)
    if array.dtype.kind not in "fiubO" and array.dtype.name != "bfloat16":
        raise UserError(f"{what} are numbers, not {array.dtype}")
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} are numbers: {error}") from None


def booleans(x: Any, what: str) -> NDArray[np.bool_]:
    """`x` of any shape as booleans: those, or integers 0 and 1. TypeError for all others."""
    array = to_numpy(x, what)
    if array.dtype.kind not in "biu" or (
        array.size and array.dtype.kind != "b" and (array.min() < 0 or array.max() > 1)
    ):
        raise TypeError(f"{what} holds booleans (or 0 and 1), not {array.dtype}")
    return array.astype(bool)


def matrix(x: Any, what: str) -> NDArray[np.float32]:
    """`x` (n, d) as contiguous fp32, all finite; UserError names the first row that is not. d is above 0."""
    if borrow(x, 2, what).shape[1] == 0:
        raise UserError(f"{what}: rows have no elements")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(to_numpy(x), np.float32)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise UserError(f"{what}: row {int(finite.argmin())} holds NaN, infinity or a number beyond fp32")
    return array
