"""Which elements of an array share a scale, and what arrays the packed form of it consists of.

The codes of an array lie in rows of its last axis: element i of a row takes the bits i * width to
(i + 1) * width - 1, least significant bit first (FP4: the first element in the low half of a byte), and a row
is filled up to a byte with zero bits. Scales are one a block, in the order of the array, each axis replaced
by the number of blocks along it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from types import MappingProxyType

from dither.errors import UserError
from dither.quantizer import Quantizer
from dither.scaling import whole


def extents(q: Quantizer, shape: tuple[int, ...], axis: int) -> tuple[int, ...] | None:
    """Elements of a block along each axis; None where there is one scale for everything, or none at all."""
    if q.block in (None, "tensor") or not shape:
        return None
    if isinstance(q.block, tuple):
        tile = (*(1 for _ in shape[:-2]), *q.block[-len(shape) :])
        return tuple(max(1, min(n, b)) for n, b in zip(shape, tile, strict=True))
    if q.block == "column":
        return tuple(1 if i == axis else max(1, n) for i, n in enumerate(shape))
    along = shape[axis] if q.block == "row" else int(q.block or 1)
    return tuple(max(1, along) if i == axis else 1 for i in range(len(shape)))


def grid(shape: tuple[int, ...], blocks: tuple[int, ...] | None) -> tuple[int, ...]:
    """Number of blocks along each axis; () where there is one scale for everything."""
    return () if blocks is None else tuple(-(-n // b) for n, b in zip(shape, blocks, strict=True))


@dataclass(frozen=True, slots=True)
class Layout:
    """The parts of a packed array of `shape`, blocks along `axis` (counted from the front)."""

    quantizer: Quantizer
    shape: tuple[int, ...]
    axis: int

    @property
    def width(self) -> int:
        """Bits of a code."""
        return self.quantizer.format.bits

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Of the uint8 array of codes: rows of the last axis in whole bytes."""
        last = self.shape[-1] if self.shape else 1
        return (*self.shape[:-1], -(-last * self.width // 8))

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """Elements of a block along each axis (see `extents`)."""
        return extents(self.quantizer, self.shape, self.axis)

    @property
    def scales_shape(self) -> tuple[int, ...] | None:
        """Of the array of scales; None for a plain cast."""
        return None if self.quantizer.block is None else grid(self.shape, self.blocks)

    @property
    def scales_word(self) -> str | None:
        """ "fp32", "u8" for the codes of an 8-bit scale format, None for a plain cast."""
        if self.quantizer.block is None:
            return None
        return "fp32" if self.quantizer.scale_format == "fp32" else "u8"

    @property
    def parts(self) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Shape and type word of every array that is held, by the name of the part."""
        return _parts(self)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts together."""
        return sum(prod(shape) * (4 if word == "fp32" else 1) for shape, word in self.parts.values())


@lru_cache(maxsize=1024)
def _parts(layout: Layout) -> Mapping[str, tuple[tuple[int, ...], str]]:
    held = {"codes": (layout.codes_shape, "u8")}
    if layout.scales_shape is not None:
        held["scales"] = (layout.scales_shape, layout.scales_word or "")
    if layout.quantizer.tensor_scale:
        held["tensor_scale"] = ((), "fp32")
    if layout.quantizer.zero_point:
        held["zero_points"] = (layout.scales_shape or (), "u8")
    return MappingProxyType(held)


@dataclass(frozen=True, slots=True)
class Cut:
    """What an index takes out of a packed array."""

    layout: Layout
    """Of the result."""
    codes: tuple[int | slice, ...]
    """Index into the codes, all but the last axis."""
    bits: slice
    """Of each row of codes."""
    scales: tuple[int | slice, ...]
    """Index into the scales."""


def cut(layout: Layout, index: object) -> Cut:
    """The parts that `index` (integers, slices and `...`, as in numpy) takes out of a packed array.

    Along an axis with blocks a slice takes whole ones, in order. UserError where it does not, with the
    nearest bounds that do; IndexError for an index out of range.
    """
    shape, last = layout.shape, len(layout.shape) - 1
    blocks = layout.blocks or (1,) * len(shape)
    kept, codes, scales, bits = [], [], [], slice(0, 0)
    axis = 0
    for i, item in enumerate(_spread(index, len(shape))):
        n, block = shape[i], blocks[i]
        whole = layout.blocks is not None and (block > 1 or i == layout.axis)
        if isinstance(item, slice):
            start, stop, step = item.indices(n)
            if step != 1 and (whole or i == last):
                raise UserError(f"axis {i} is packed in order: it takes a slice of step 1, not {item.step}")
            length = len(range(start, stop, step))
            stop = start + length if step == 1 else stop
            if whole and length:
                _check_bounds(i, start, stop, n, block)
            axis = len(kept) if i == layout.axis else axis
            kept.append(length)
            scales.append(slice(start // block, -(-stop // block)) if step == 1 else item)
        elif whole or i == last:
            why = "is cut into blocks" if whole else "is packed into rows of bits"
            raise UserError(f"axis {i} {why}: take a slice of it instead of one element, or dequantize first")
        else:
            item = _in_range(item, i, n)
            scales.append(item)
        if i == last:
            bits = slice(start * layout.width, stop * layout.width)
        else:
            codes.append(item)
    result = Layout(layout.quantizer, tuple(kept), axis)
    return Cut(result, tuple(codes), bits, tuple(scales) if layout.blocks is not None else ())


def _spread(index: object, ndim: int) -> list[int | slice]:
    """An index as one integer or slice an axis."""
    items = [whole(i) for i in (index if isinstance(index, tuple) else (index,))]
    for item in items:
        if isinstance(item, bool) or not (item is Ellipsis or isinstance(item, slice | int)):
            raise TypeError(f"a packed array is indexed by integers, slices and ..., not by {item!r}")
    gaps = sum(i is Ellipsis for i in items)
    missing = ndim - (len(items) - gaps)
    if gaps > 1 or missing < 0:
        raise IndexError(f"{index!r} does not index an array of {ndim} dimensions")
    at = next((k for k, i in enumerate(items) if i is Ellipsis), len(items))
    items[at : at + gaps] = [slice(None)] * missing
    return items  # type: ignore[return-value]


def _in_range(k: int, axis: int, n: int) -> int:
    if not -n <= k < n:
        raise IndexError(f"index {k} is out of range for axis {axis} of {n}")
    return k % n


def _check_bounds(axis: int, start: int, stop: int, n: int, block: int) -> None:
    if start % block == 0 and (stop % block == 0 or stop == n):
        return
    low, high = start // block * block, min(-(-stop // block) * block, n)
    raise UserError(
        f"[{start}:{stop}] cuts through blocks of axis {axis} ({block} elements each): the nearest whole "
        f"blocks are [{low}:{high}]"
    )
