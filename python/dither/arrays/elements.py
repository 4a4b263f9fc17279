"""One result for every element, and sums over them: fake quantization, casts, codes, statistics."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from dither import _core
from dither.arrays.memory import Buffer, Random, dims_of, drawn, handle_of
from dither.errors import UserError
from dither.formats import Format
from dither.quantizer import Quantizer
from dither.threads import get_num_threads


def run_fake_quant(
    q: Quantizer,
    x: Buffer,
    out: Buffer,
    axis: int,
    random: Random,
) -> None:
    """Quantize and dequantize `x` into `out` (the same memory, or memory that does not overlap it)."""
    bits = drawn(random) if q.is_stochastic else None
    _core.fake_quant(
        handle_of(q),
        dims_of(q, x.shape, axis),
        (x.ptr, x.dtype),
        (out.ptr, out.dtype),
        bits,
        get_num_threads(),
    )


def run_neighbours(q: Quantizer, x: Buffer, lo: Buffer, hi: Buffer, axis: int) -> None:
    """Write the grid points at or below and at or above each element."""
    shape = dims_of(q, x.shape, axis)
    _core.neighbours(
        handle_of(q), shape, (x.ptr, x.dtype), (lo.ptr, lo.dtype), (hi.ptr, hi.dtype), get_num_threads()
    )


def run_encode(q: Quantizer, x: Buffer, codes: Buffer, random: Random) -> None:
    """Write the code of each element of `x` rounded by the cast `q`; UserError where an element has none."""
    bits = drawn(random) if q.is_stochastic else None
    n = prod(x.shape)
    bad = _core.encode(handle_of(q), n, (x.ptr, x.dtype), (codes.ptr, codes.dtype), bits, get_num_threads())
    if bad is not None:
        raise no_code(q, bad, x.shape)


def no_code(q: Quantizer, position: int, shape: tuple[int, ...]) -> UserError:
    return UserError(
        f"the element at {place(position, shape)} is NaN (or has no code under overflow={q.overflow!r}) and "
        f"{q.format.name} has no code for it; replace such elements first, for example with numpy.nan_to_num"
    )


def place(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(position, shape)) if shape else ()


def run_decode(fmt: Format, codes: Buffer, out: Buffer) -> None:
    """Write the values of codes; UserError where fp64 does not hold one."""
    bad = _core.decode(
        fmt.name, prod(codes.shape), (codes.ptr, codes.dtype), (out.ptr, out.dtype), get_num_threads()
    )
    if bad is not None:
        raise UserError(
            f"the code at {place(bad, codes.shape)} stands for a number beyond float64, as most of "
            f"{fmt.name} does; dither.formats.get({fmt.name!r}).value(code) is exact"
        )


def code_dtype(fmt: Format) -> str:
    """The narrowest unsigned integer that holds a code."""
    return "u8" if fmt.bits <= 8 else "u16" if fmt.bits <= 16 else "u32"


def random_bits(seed: int, stream: int, index: int, bits: int) -> int:
    """The addressed random bits of one element (rust/numerics/src/random.rs)."""
    return _core.random_bits(seed, stream, index, bits)


def run_error_stats(
    q: Quantizer, x: Buffer, axis: int, random: Random, per_block: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray] | None]:
    """Sums and counts over the array and, if asked for, arrays of those over each block in C order."""
    bits = drawn(random) if q.is_stochastic else None
    shape, handle = dims_of(q, x.shape, axis), handle_of(q)
    names, blocks = _core.stats_table(handle, shape)
    table = np.empty((len(names), blocks)) if per_block else None
    address = None if table is None else table.__array_interface__["data"][0]
    total = _core.stats(handle, shape, (x.ptr, x.dtype), bits, address, get_num_threads())
    return total, None if table is None else dict(zip(names, table, strict=True))


Counted = tuple[list[int], tuple[int, int, int, int]]
"""Counts, and the numbers of zeros, of non-finite elements, of those below and above all bins."""


def run_histogram_values(x: Buffer, edges: list[float]) -> Counted:
    """Elements between ascending edges, the last edge among them."""
    return _core.histogram_values((x.ptr, x.dtype), prod(x.shape), edges, get_num_threads())


def run_histogram_exponents(x: Buffer) -> tuple[int, Counted]:
    """Elements of every floor(log2 |x|), from the exponent that is returned."""
    return _core.histogram_exponents((x.ptr, x.dtype), prod(x.shape), get_num_threads())
