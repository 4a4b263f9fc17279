"""What the public functions accept: numpy arrays and their memory, places for results, random bits.

Accepted are float32, float64, float16 and bfloat16 (ml_dtypes' in numpy). Strided input is copied once;
`out=` must be C-contiguous, writable and of the input's shape. Another library's arrays are left to the
module that HANDLERS names.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

import numpy as np

from dither import arrays
from dither.arrays import Buffer, Random
from dither.checks import BITS_LOST, check_address, check_given_bits, check_no_address, check_no_bits
from dither.errors import UserError, require
from dither.formats import Format
from dither.quantizer import Quantizer, parse

P = ParamSpec("P")
R = TypeVar("R")

HANDLERS = {"torch": "dither.nn.ops"}
"""Modules that implement the public functions for another library's arrays, by their top-level module."""

WORDS = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}
"""Words of the dtypes that can be quantized; ask `word_of`."""
NUMPY = {
    "fp32": "float32",
    "fp64": "float64",
    "fp16": "float16",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
}


_HUGE_PAGE = 1 << 21
"""Bytes of a huge page, below which none fits."""


def handler_of(x: Any) -> Any | None:
    """The module that implements these functions for `x`'s library; None for what numpy can read."""
    for cls in type(x).__mro__:  # a subclass of another library's array can live anywhere
        if name := HANDLERS.get(cls.__module__.partition(".")[0]):
            return importlib.import_module(name)
    return None


def routed(function: Callable[P, R]) -> Callable[P, R]:
    """A public function that leaves another library's arrays, its first argument, to the function of its name
    in that library's module, with all arguments as they were given."""
    first = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        handler = handler_of(args[0] if args else kwargs.get(first))
        if handler is not None:
            return getattr(handler, function.__name__)(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def as_quantizer(q: str | Quantizer) -> Quantizer:
    """A quantizer as it is, or the one that a text stands for."""
    return q if isinstance(q, Quantizer) else parse(q) if isinstance(q, str) else Quantizer(q)


def as_cast(fmt: str | Format, rounding: str, bits: int | None, overflow: str | None) -> Quantizer:
    """The quantizer of `cast` and `encode`: a format without a scale."""
    try:
        return _remembered_cast(fmt, rounding, bits, overflow)
    except TypeError:  # something that cannot be remembered, which is refused by its name
        return Quantizer(format=fmt, rounding=rounding, bits=bits, overflow=overflow)


@lru_cache(maxsize=1024, typed=True)  # True is no number of bits, though it equals 1
def _remembered_cast(fmt: Any, rounding: str, bits: int | None, overflow: str | None) -> Quantizer:
    return Quantizer(format=fmt, rounding=rounding, bits=bits, overflow=overflow)


@lru_cache(maxsize=64)
def word_of(dtype: np.dtype) -> str:
    """The word of a dtype that can be quantized, in any byte order; "" for others. (numpy makes the name of a
    dtype anew every time, which costs more than a kernel on a small array.)"""
    return WORDS.get(dtype.name, "")


def as_input(x: Any) -> np.ndarray:
    if hasattr(x, "mask") and isinstance(x, np.ma.MaskedArray):  # np.ma is not loaded before it is needed
        raise TypeError("a masked array has no place for its mask here; pass x.filled(value) or x.data")
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise UserError(f"the input is no array: {error}") from None
    if not word_of(x.dtype):
        way = "; convert with x.astype('float32')" if x.dtype.kind in "biuf" else ""
        raise TypeError(f"float32, float64, float16 and bfloat16 arrays can be quantized, not {x.dtype}{way}")
    return x if is_plain(x) else np.array(x, x.dtype.newbyteorder("="), order="C")


def is_plain(x: np.ndarray) -> bool:
    """Whether the extension can use the memory of `x` as it is."""
    return x.flags.c_contiguous and x.flags.aligned and x.dtype.isnative


def buffer(x: np.ndarray, word: str | None = None) -> Buffer:
    """The memory of a plain array; `word` where its dtype has none of its own (codes)."""
    return Buffer(x.ctypes.data, word or word_of(x.dtype), x.shape, x)


def dtype_of(word_or_dtype: Any) -> np.dtype:
    """A dtype word, or anything numpy takes for one, as one of the four dtypes."""
    if word_or_dtype == "bf16":
        return np.dtype(require("ml_dtypes", "safetensors").bfloat16)
    name = NUMPY.get(word_or_dtype, word_or_dtype) if isinstance(word_or_dtype, str) else word_or_dtype
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = None
    if dtype is None or not word_of(dtype) or not dtype.isnative:
        raise TypeError(f"out_dtype is one of fp32, fp64, fp16 and bf16, not {word_or_dtype}")
    return dtype


def fresh(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array to write, from memory that is asked to come in huge pages."""
    y = np.empty(shape, dtype)
    if y.nbytes >= _HUGE_PAGE:  # numpy's way to an address takes longer than a kernel on a small array
        arrays.prefer_huge_pages(y.__array_interface__["data"][0], y.nbytes)
    return y


def output(x: np.ndarray, out: Any, out_dtype: Any) -> np.ndarray:
    """The array to write: `out` after its checks, or a new one."""
    if out is None:
        return fresh(x.shape, x.dtype if out_dtype is None else dtype_of(out_dtype))
    check_output(x.shape, out, out_dtype)
    if out is not x and np.shares_memory(out, x) and not _same_memory(out, x):
        raise UserError("out= overlaps the input in part: pass the input itself or separate memory")
    return out


def _same_memory(out: np.ndarray, x: np.ndarray) -> bool:
    return out.ctypes.data == x.ctypes.data and out.dtype == x.dtype


def check_output(shape: tuple[int, ...], out: Any, out_dtype: Any) -> None:
    """`out` can take a result of that shape, in the dtype that was asked for."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out= is a numpy array like the input, not {type(out).__name__}")
    if out_dtype is not None and out.dtype != dtype_of(out_dtype):
        raise UserError(f"out= holds {out.dtype} but out_dtype asks for {dtype_of(out_dtype)}")
    if not word_of(out.dtype):
        raise TypeError(f"out= holds {out.dtype}; use float32, float64, float16 or bfloat16")
    _check_memory(shape, out)


def fixed_output(x: np.ndarray, out: Any, dtype: str) -> np.ndarray:
    """The array of this dtype to write: `out` after its checks, or a new one."""
    if out is None:
        return fresh(x.shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        have = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out= is a numpy array of {dtype}, not {have}")
    _check_memory(x.shape, out)
    if np.shares_memory(out, x):
        raise UserError("out= overlaps the input: pass separate memory")
    return out


def _check_memory(shape: tuple[int, ...], out: np.ndarray) -> None:
    if out.shape != shape:
        raise UserError(f"out= has shape {out.shape}, the result {shape}")
    if not out.flags.writeable:
        raise UserError("out= is read-only: pass a writable array, for example a copy of it")
    if not is_plain(out):
        raise UserError(
            "out= must be C-contiguous, aligned and in native byte order: leave it out and copy the result"
        )


def randomness(
    q: Quantizer, x: np.ndarray, seed: Any, stream: Any, offset: Any, random: Any, *outputs: np.ndarray
) -> Random:
    """Where the random bits of a stochastic quantizer come from, apart from the outputs; None for the
    others."""
    if not q.is_stochastic:
        check_no_bits(q, random)
        return None
    if random is None:
        if seed is None:
            raise UserError("stochastic rounding needs seed= (its bits are addressed, not drawn) or random=")
        return check_address(seed, stream, offset)
    check_no_address(seed, stream, offset)
    given = np.asarray(random)
    check_given_bits(q, x.shape, given, given.dtype, given.dtype.kind in "iu")
    if any(np.shares_memory(given, out) for out in outputs):
        raise UserError(BITS_LOST)
    return buffer(np.require(given, np.uint32, ["C", "A"]), "u32")
