"""How the extension is told where memory lies, how elements are quantized and where random bits come from."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

from dither import _core
from dither.errors import UserError
from dither.quantizer import Quantizer


class Buffer(NamedTuple):
    """C-contiguous, aligned memory. `owner` keeps it alive."""

    ptr: int
    dtype: str
    shape: tuple[int, ...]
    owner: object


Random = tuple[int, int, int] | Buffer | None
"""None, (seed, stream, offset), or u32 integers below 2**bits, one an element."""


def drawn(random: Random) -> Any:
    """The source of random bits as the extension takes it: an address of bits, or of memory."""
    return random.ptr if isinstance(random, Buffer) else random


def prefer_huge_pages(address: int, nbytes: int) -> None:
    """Ask the system for huge pages under memory just allocated and not yet touched, if it is large.

    A hint without effect on contents. numpy does the same for its own arrays.
    """
    _core.prefer_huge_pages(address, nbytes)


@lru_cache(maxsize=1024)
def handle_of(q: Quantizer) -> _core.Quantizer:
    """The quantizer as the extension holds it."""
    policies = (q.dialect, q.nan, q.zero_scale, q.zero_point, q.four_over_six, q.prescale, q.guard)
    return _core.Quantizer(
        q.format.name,
        q.block,
        q.scale_format,
        q.scale_rule,
        q.tensor_scale,
        q.rounding,
        q.bits,
        q.overflow,
        q.scale,
        policies,
    )


def dims_of(q: Quantizer, shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """(outer, axis, inner) as the extension wants it; for tiles, which lie over the last two axes,
    (outer, rows, columns), where an array of one axis is one row.

    Raises UserError where `axis` is neither of those two.
    """
    if isinstance(q.block, tuple):
        if len(shape) > 2 and axis % len(shape) < len(shape) - 2:
            raise UserError(f"tiles lie over the last two axes; axis={axis} is neither of them")
        rows, columns = (1, 1, *shape)[-2:]
        return prod(shape[:-2]), rows, columns
    return split_at(shape, axis)


@lru_cache(maxsize=1024)
def split_at(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """(outer, axis, inner): sizes before, at and after the axis."""
    if not -len(shape) <= axis < max(len(shape), 1):
        raise IndexError(f"axis {axis} is out of range for the shape {shape}")
    axis = axis % len(shape) if shape else 0
    return prod(shape[:axis]), shape[axis] if shape else 1, prod(shape[axis + 1 :])
