"""Arguments that mean the same for every array library."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from dither.errors import UserError
from dither.quantizer import Quantizer
from dither.scaling import whole


def check_axis(axis: Any, ndim: int) -> int:
    """`axis` counted from the front. Raises UserError where the array has no such axis."""
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"axis= is an integer, not {axis!r}")
    axis = axis.__index__()
    if ndim == 0:
        return 0
    if not -ndim <= axis < ndim:
        raise UserError(
            f"axis {axis} does not exist in an array of {ndim} dimensions (use {-ndim} to {ndim - 1})"
        )
    return axis % ndim


def check_address(seed: Any, stream: Any, offset: Any) -> tuple[int, int, int]:
    """Seed and stream as unsigned 64-bit integers, and an offset to which a position can be added."""
    for name, value, bits in (("seed", seed, 64), ("stream", stream, 64), ("offset", offset, 63)):
        number = whole(value)
        if not isinstance(number, int) or not 0 <= number < 1 << bits:
            raise UserError(f"{name}= is an integer from 0 to 2**{bits} - 1, not {value!r}")
    return int(seed), int(stream), int(offset)


def check_no_address(seed: Any, stream: Any, offset: Any) -> None:
    """`random=` holds the bits themselves, so that an address beside it would say nothing."""
    for name, value, default in (("seed", seed, None), ("stream", stream, 0), ("offset", offset, 0)):
        if value is not default and value != default:
            raise UserError(f"{name}= and random= were both given: one of them says where the bits come from")


def check_no_bits(q: Quantizer, random: Any) -> None:
    """A quantizer that is not stochastic reads no `random=`. It reads no address either, which says nothing
    about the array: one call serves all quantizers."""
    if random is not None:
        raise UserError(
            f"random= was given, but {q} rounds {q.rounding} and reads no random bits: leave it out, or take "
            'rounding="stochastic"'
        )


def check_given_bits(q: Quantizer, shape: Sequence[int], given: Any, dtype: Any, whole: bool) -> None:
    """`given`, of any library, holds one integer below 2**q.bits an element of an array of `shape`.

    `dtype` is what the user gave, and `whole` whether that holds integers.
    """
    if tuple(given.shape) != tuple(shape) or not whole:
        raise UserError(
            f"random= holds one integer an element: shape {tuple(shape)}, not {dtype} of shape "
            f"{tuple(given.shape)}"
        )
    if 0 in given.shape or getattr(given, "is_meta", False):
        return  # no values
    if not (0 <= int(given.min()) and int(given.max()) < 1 << q.bits):
        raise UserError(
            f"random= holds integers from 0 to 2**{q.bits} - 1, as many bits as the quantizer reads"
        )


BITS_LOST = "out= overlaps random=, whose integers would be lost while they are read"

_warned: set[tuple[str, str]] = set()


def warn_inexact(q: Quantizer, dtype: str) -> None:
    """Say once that the dequantized values of `q` are rounded when stored as `dtype`."""
    if dtype in ("fp32", "fp64") or (str(q), dtype) in _warned or q.exact_in(dtype):
        return
    _warned.add((str(q), dtype))
    warnings.warn(
        f"values of {q} are not exact in {dtype}: results are rounded once more "
        "(pass out_dtype='fp32' to keep them)",
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """The stack level, seen from the function that calls this, of the first frame outside the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "dither":
        frame, level = frame.f_back, level + 1
    return level
