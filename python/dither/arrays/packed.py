"""Packed arrays: written, read, counted, multiplied as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from dither import _core
from dither.arrays.elements import no_code
from dither.arrays.memory import Buffer, Random, dims_of, drawn, handle_of
from dither.blocks import Layout
from dither.quantizer import Quantizer
from dither.threads import get_num_threads


def unstorable(q: Quantizer) -> str | None:
    """Why arrays under `q` cannot be kept in packed form, where they cannot."""
    return _core.unstorable(handle_of(q))


def _dims(layout: Layout) -> tuple[tuple[int, int, int], int, bool]:
    last = layout.shape[-1] if layout.shape else 1
    dims = dims_of(layout.quantizer, layout.shape, layout.axis)
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
    bits = drawn(random) if q.is_stochastic else None
    codes, scales = _parts(parts)
    bad, tensor = _core.quantize(
        handle_of(q), _dims(layout), (x.ptr, x.dtype), codes, scales, bits, get_num_threads()
    )
    if bad is not None:
        raise no_code(q, bad, x.shape)
    return tensor


def run_dequantize(
    layout: Layout, parts: Mapping[str, Buffer], tensor_scale: float | None, wide: bool, out: Buffer
) -> None:
    """Write the values of packed parts, formed in fp32 or (`wide`) fp64."""
    _check_parts(layout, parts)
    codes, scales = _parts(parts)
    target = (out.ptr, out.dtype)
    _core.dequantize(
        handle_of(layout.quantizer),
        _dims(layout),
        codes,
        scales,
        tensor_scale,
        wide,
        target,
        get_num_threads(),
    )


def run_histogram_codes(layout: Layout, codes: Buffer) -> list[int]:
    """How often each code occurs in a packed array (codes of at most 16 bits)."""
    assert codes.shape == layout.codes_shape
    last = layout.shape[-1] if layout.shape else 1
    rows = prod(layout.shape[:-1])
    return _core.histogram_codes(codes.ptr, rows, last, layout.width, get_num_threads())


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
        "quantizer": handle_of(x.quantizer),
        "codes": x.codes.ptr,
        "scales": None if x.scales is None else (x.scales.ptr, x.scales.dtype == "u8"),
        "tensor_scale": x.tensor_scale,
        "rows": x.rows,
        "k": x.k,
        "block": x.block,
        "scale_stride": x.scale_stride,
    }
