"""The bridge between arrays and the extension: borrowed memory in, nothing copied, the GIL released.

Everything here takes `Buffer`s: C-contiguous memory with a dtype word (fp32 bf16 fp16 fp64, u8 u16 u32 for
codes). The extension gets addresses, because numpy's buffer protocol knows neither bf16 nor torch tensors; a
Buffer keeps the owner of its memory alive for the length of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from dither import _core
from dither.blocks import Layout
from dither.errors import UserError
from dither.formats import Format
from dither.quantizer import Quantizer
from dither.threads import get_num_threads


class Buffer(NamedTuple):
    """C-contiguous, aligned memory. `owner` keeps it alive."""

    ptr: int
    dtype: str
    shape: tuple[int, ...]
    owner: object


@dataclass(frozen=True, slots=True)
class Rows:
    """A matrix of fp32, bf16 or fp16 as rows of k numbers: element (i, k) lies `i * row_stride + k * stride`
    elements from the first."""

    ptr: int
    dtype: str
    rows: int
    k: int
    row_stride: int
    stride: int
    owner: object


@dataclass(frozen=True, slots=True)
class CodedRows:
    """A packed matrix as rows of k codes, with a scale for every `block` of a row; `scale_stride` scales from
    one row to the next."""

    quantizer: Quantizer
    codes: Buffer
    scales: Buffer | None
    tensor_scale: float | None
    rows: int
    k: int
    block: int
    scale_stride: int


Random = tuple[int, int, int] | Buffer | None
"""None, (seed, stream, offset), or u32 integers below 2**bits, one an element."""


@lru_cache(maxsize=1024)
def _handle(q: Quantizer) -> _core.Quantizer:
    options = (
        q.dialect,
        q.nan,
        q.zero_scale,
        q.zero_point,
        q.four_over_six,
        q.prescale,
        q.guard,
    )
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
        options,
    )


def _extents(q: Quantizer, shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """(outer, axis, inner) as the extension wants it; for tiles, which lie over the last two axes,
    (outer, rows, columns), where an array of one axis is one row.

    Raises UserError where `axis` is neither of those two.
    """
    return _tiles(shape, axis) if isinstance(q.block, tuple) else _shape(shape, axis)


def _tiles(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    if len(shape) > 2 and axis % len(shape) < len(shape) - 2:
        raise UserError(f"tiles lie over the last two axes; axis={axis} is neither of them")
    rows, columns = (1, 1, *shape)[-2:]
    return _size(shape[:-2]), rows, columns


@lru_cache(maxsize=1024)
def _shape(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """(outer, axis, inner): sizes before, at and after the axis."""
    if not -len(shape) <= axis < max(len(shape), 1):
        raise IndexError(f"axis {axis} is out of range for the shape {shape}")
    axis = axis % len(shape) if shape else 0
    outer = inner = 1
    for n in shape[:axis]:
        outer *= n
    for n in shape[axis + 1 :]:
        inner *= n
    return outer, shape[axis] if shape else 1, inner


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def _random(random: Random) -> Any:
    return random.ptr if isinstance(random, Buffer) else random


def run_fake_quant(
    q: Quantizer,
    x: Buffer,
    out: Buffer,
    axis: int,
    random: Random,
) -> None:
    """Quantize and dequantize `x` into `out` (the same memory, or memory that does not overlap it)."""
    bits = _random(random) if q.is_stochastic else None
    _core.fake_quant(
        _handle(q),
        _extents(q, x.shape, axis),
        (x.ptr, x.dtype),
        (out.ptr, out.dtype),
        bits,
        get_num_threads(),
    )


def run_neighbours(q: Quantizer, x: Buffer, lo: Buffer, hi: Buffer, axis: int) -> None:
    """Write the grid points at or below and at or above each element."""
    shape = _extents(q, x.shape, axis)
    _core.neighbours(
        _handle(q), shape, (x.ptr, x.dtype), (lo.ptr, lo.dtype), (hi.ptr, hi.dtype), get_num_threads()
    )


def lotion_takes(q: Quantizer) -> bool:
    """Whether `run_lotion` has a kernel for the quantizer."""
    return _core.lotion_takes(_handle(q))


def run_lotion(
    q: Quantizer, w: Buffer, g: Buffer, out: Buffer, factor: float, *, add: bool, through_scale: bool
) -> float:
    """Write `factor` times the gradient of LOTION's penalty to `out`, or add it; returns the penalty.

    Weights `w`, curvature `g` and `out` are fp32 of one shape, `out` memory of its own; blocks run along the
    last axis.
    """
    rows, columns = _size(w.shape[:-1]), (w.shape or (1,))[-1]
    assert {w.dtype, g.dtype, out.dtype} == {"fp32"} and w.shape == g.shape == out.shape
    addresses, how = (w.ptr, g.ptr, out.ptr), (factor, add, through_scale)
    return _core.lotion(_handle(q), (rows, columns), addresses, how, get_num_threads())


def run_encode(q: Quantizer, x: Buffer, codes: Buffer, random: Random) -> None:
    """Write the code of each element of `x` rounded by the cast `q`; UserError where an element has none."""
    bits = _random(random) if q.is_stochastic else None
    n = _size(x.shape)
    bad = _core.encode(_handle(q), n, (x.ptr, x.dtype), (codes.ptr, codes.dtype), bits, get_num_threads())
    if bad is not None:
        raise _no_code(q, bad, x.shape)


def _no_code(q: Quantizer, position: int, shape: tuple[int, ...]) -> UserError:
    return UserError(
        f"the element at {_place(position, shape)} is NaN (or has no code under overflow={q.overflow!r}) and "
        f"{q.format.name} has no code for it; replace such elements first, for example with numpy.nan_to_num"
    )


def _place(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(position, shape)) if shape else ()


def run_decode(fmt: Format, codes: Buffer, out: Buffer) -> None:
    """Write the values of codes; UserError where fp64 does not hold one."""
    bad = _core.decode(
        fmt.name, _size(codes.shape), (codes.ptr, codes.dtype), (out.ptr, out.dtype), get_num_threads()
    )
    if bad is not None:
        raise UserError(
            f"the code at {_place(bad, codes.shape)} stands for a number beyond float64, as most of "
            f"{fmt.name} does; dither.formats.get({fmt.name!r}).value(code) is exact"
        )


def run_error_stats(
    q: Quantizer, x: Buffer, axis: int, random: Random, per_block: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray] | None]:
    """Sums and counts over the array and, if asked for, arrays of those over each block in C order."""
    bits = _random(random) if q.is_stochastic else None
    shape, handle = _extents(q, x.shape, axis), _handle(q)
    names, blocks = _core.stats_table(handle, shape)
    table = np.empty((len(names), blocks)) if per_block else None
    address = None if table is None else table.__array_interface__["data"][0]
    total = _core.stats(handle, shape, (x.ptr, x.dtype), bits, address, get_num_threads())
    return total, None if table is None else dict(zip(names, table, strict=True))


Counted = tuple[list[int], tuple[int, int, int, int]]
"""Counts, and the numbers of zeros, of non-finite elements, of those below and above all bins."""


def run_histogram_values(x: Buffer, edges: list[float]) -> Counted:
    """Elements between ascending edges, the last edge among them."""
    return _core.histogram_values((x.ptr, x.dtype), _size(x.shape), edges, get_num_threads())


def run_histogram_exponents(x: Buffer) -> tuple[int, Counted]:
    """Elements of every floor(log2 |x|), from the exponent that is returned."""
    return _core.histogram_exponents((x.ptr, x.dtype), _size(x.shape), get_num_threads())


def run_histogram_codes(layout: Layout, codes: Buffer) -> list[int]:
    """How often each code occurs in a packed array (codes of at most 16 bits)."""
    assert codes.shape == layout.codes_shape
    last = layout.shape[-1] if layout.shape else 1
    rows = _size(layout.shape[:-1])
    return _core.histogram_codes(codes.ptr, rows, last, layout.width, get_num_threads())


def run_hadamard(
    x: Buffer, out: Buffer, axis: int, block: int, signs: tuple[int, int, bool] | None, inverse: bool
) -> None:
    """Write the rotated blocks of `x` to `out` (the same memory, or memory that does not overlap it)."""
    _core.hadamard(
        _shape(x.shape, axis),
        block,
        signs,
        inverse,
        (x.ptr, x.dtype),
        (out.ptr, out.dtype),
        get_num_threads(),
    )


def run_ms_eden(x: Buffer, out: Buffer, axis: int, seed: int, stream: int) -> None:
    """Quantize rotated fp32 elements by MS-EDEN into `out` (the same memory, or memory apart from it)."""
    assert x.dtype == out.dtype == "fp32"
    _core.ms_eden(_shape(x.shape, axis), (seed, stream), x.ptr, out.ptr, get_num_threads())


def run_quest(x: Buffer, out: Buffer, mask: Buffer, axis: int) -> None:
    """Quantize fp32 blocks of 32 by their deviation into `out`; `mask` (u8) is 1 where nothing clips."""
    assert (x.dtype, out.dtype, mask.dtype) == ("fp32", "fp32", "u8") and x.shape == out.shape == mask.shape
    _core.quest(_shape(x.shape, axis), x.ptr, out.ptr, mask.ptr, get_num_threads())


def prefer_huge_pages(address: int, nbytes: int) -> None:
    """Ask the system for huge pages under memory just allocated and not yet touched, if it is large.

    A hint without effect on contents. numpy does the same for its own arrays.
    """
    _core.prefer_huge_pages(address, nbytes)


def unstorable(q: Quantizer) -> str | None:
    """Why arrays under `q` cannot be kept in packed form, where they cannot."""
    return _core.unstorable(_handle(q))


def _dims(layout: Layout) -> tuple[tuple[int, int, int], int, bool]:
    last = layout.shape[-1] if layout.shape else 1
    dims = _extents(layout.quantizer, layout.shape, layout.axis)
    return dims, last, layout.axis == max(len(layout.shape) - 1, 0)


def _parts(parts: Mapping[str, Buffer]) -> tuple[tuple[int, int | None], tuple[int, str] | None]:
    """Codes with zero points, and scales, as the extension takes them."""
    scales, zeros = parts.get("scales"), parts.get("zero_points")
    codes = parts["codes"].ptr, None if zeros is None else zeros.ptr
    return codes, None if scales is None else (scales.ptr, scales.dtype)


def _check_parts(layout: Layout, parts: Mapping[str, Buffer]) -> None:
    """The memory has the sizes that the extension relies on."""
    have = {name: (part.shape, part.dtype) for name, part in parts.items()}
    if have != {name: part for name, part in layout.parts.items() if name != "tensor_scale"}:
        raise ValueError(f"the parts of {layout} are {layout.parts}, not {have}")


def run_quantize(layout: Layout, x: Buffer, parts: Mapping[str, Buffer], random: Random) -> float | None:
    """Fill codes, scales and zero points; returns the tensor scale if there is one.

    UserError where an element has no code.
    """
    q = layout.quantizer
    _check_parts(layout, parts)
    bits = _random(random) if q.is_stochastic else None
    codes, scales = _parts(parts)
    bad, tensor = _core.quantize(
        _handle(q), _dims(layout), (x.ptr, x.dtype), codes, scales, bits, get_num_threads()
    )
    if bad is not None:
        raise _no_code(q, bad, x.shape)
    return tensor


def run_dequantize(
    layout: Layout, parts: Mapping[str, Buffer], tensor_scale: float | None, wide: bool, out: Buffer
) -> None:
    """Write the values of packed parts, formed in fp32 or (`wide`) fp64."""
    _check_parts(layout, parts)
    codes, scales = _parts(parts)
    target = (out.ptr, out.dtype)
    _core.dequantize(
        _handle(layout.quantizer), _dims(layout), codes, scales, tensor_scale, wide, target, get_num_threads()
    )


def optimizer_block(block: int) -> bool:
    """Whether packed optimizer state can have blocks of this many elements."""
    return _core.optimizer_block(block)


def run_adamw(parameters: list[dict[str, Any]]) -> int | None:
    """One step of AdamW (rust/quant/src/optim.rs) of parameters as `dither.optim.kernel.describe` has them.

    Returns the first of them with a moment that has no code.
    """
    return _core.adamw(parameters, get_num_threads())


def optimizer_codes(q: Quantizer, codes: Buffer, scales: Buffer, address: tuple[int, int, int]) -> Any:
    """Packed state as `run_adamw` takes it."""
    return _handle(q), q.block, codes.ptr, scales.ptr, address


def random_bits(seed: int, stream: int, index: int, bits: int) -> int:
    """The addressed random bits of one element (rust/numerics/src/random.rs)."""
    return _core.random_bits(seed, stream, index, bits)


def run_matmul(
    a: Rows | CodedRows, b: Rows | CodedRows, accumulate: str | tuple[int, int, int | None], out: Buffer
) -> None:
    """Write the products of all rows of `a` with all rows of `b`, (a.rows, b.rows), to fresh memory."""
    assert a.k == b.k and out.shape == (a.rows, b.rows)
    _core.matmul(_operand(a), _operand(b), accumulate, (out.ptr, out.dtype), get_num_threads())


def _operand(x: Rows | CodedRows) -> Any:
    if isinstance(x, Rows):
        return x.ptr, x.dtype, x.rows, x.k, x.row_stride, x.stride
    return {
        "quantizer": _handle(x.quantizer),
        "codes": x.codes.ptr,
        "scales": None if x.scales is None else (x.scales.ptr, x.scales.dtype == "u8"),
        "tensor_scale": x.tensor_scale,
        "rows": x.rows,
        "k": x.k,
        "block": x.block,
        "scale_stride": x.scale_stride,
    }


def code_dtype(fmt: Format) -> str:
    """The narrowest unsigned integer that holds a code."""
    return "u8" if fmt.bits <= 8 else "u16" if fmt.bits <= 16 else "u32"
