"""The public functions on arrays: numpy in, numpy out; torch tensors go to `dither.nn.ops`, same signatures.

Results are formed in fp32 (fp64 for fp64 input) and rounded once to `out_dtype`, by default the input's
dtype. `dither.arguments` says what is accepted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither import arrays
from dither.arguments import (
    NUMPY,
    as_cast,
    as_input,
    as_quantizer,
    buffer,
    fixed_output,
    fresh,
    output,
    randomness,
    routed,
    word_of,
)
from dither.checks import check_axis, warn_inexact
from dither.formats import Format
from dither.quantizer import Quantizer, format_of


@routed
def fake_quant(
    x: Any,
    q: str | Quantizer,
    axis: int = -1,
    *,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
    out: Any = None,
    out_dtype: Any = None,
) -> Any:
    """Quantize and dequantize: what `x` becomes when it is stored in the format of `q`.

    Args:
        x: array or tensor of any shape.
        q: quantizer or preset name.
        axis: the axis along which blocks run.
        seed, stream, offset: the address of the random bits of stochastic rounding: element i in C order
            reads index `offset + i` of `stream` under `seed`, on every device and for any number of threads.
            Seed and stream are unsigned 64-bit integers; the offset is below 2**63. Other roundings need no
            address and may be given one.
        random: the random integers themselves, of x's shape and below 2**q.bits, instead of an address; an
            error for other roundings.
        out: where to write (may be `x` itself).
        out_dtype: dtype of the result (default: that of `out`, else of `x`).

    Returns an array of x's shape. NaN or infinity in a block makes the whole block NaN; without a block scale
    they follow the overflow mode. Raises UserError (a ValueError) for what cannot be done and TypeError for
    wrong dtypes.
    """
    q = as_quantizer(q)
    x = as_input(x)
    axis = check_axis(axis, x.ndim)
    y = output(x, out, out_dtype)
    warn_inexact(q, word_of(y.dtype))
    bits = randomness(q, x, seed, stream, offset, random, y)
    if x.size:
        arrays.run_fake_quant(q, buffer(x), buffer(y), axis, bits)
    return y


@routed
def cast(
    x: Any,
    fmt: str | Format,
    *,
    rounding: str = "nearest_even",
    bits: int | None = None,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
    overflow: str | None = None,
    out: Any = None,
    out_dtype: Any = None,
) -> Any:
    """Round every element to the format, without any scale; the values come back in x's dtype.

    `overflow`: "saturate" (default to 8 bits), "ieee" (default for bf16, fp16, tf32) or "propagate". NaN
    stays NaN even in a format that has no code for it. A rounded number beyond the result's dtype is infinite
    there, as in any conversion. The other arguments are those of `fake_quant`.
    """
    q = as_cast(fmt, rounding, bits, overflow)
    return fake_quant(
        x, q, seed=seed, stream=stream, offset=offset, random=random, out=out, out_dtype=out_dtype
    )


@routed
def encode(
    x: Any,
    fmt: str | Format,
    *,
    rounding: str = "nearest_even",
    bits: int | None = None,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
    overflow: str | None = None,
    out: Any = None,
) -> Any:
    """The codes of `cast(x, fmt)`: unsigned integers of 8, 16 or 32 bits, one an element, in the low bits.

    Integers are two's complement in the format's width. NaN becomes the positive quiet NaN; in a format
    without NaN it raises UserError. `out`: where to write, of x's shape and the dtype of the codes.
    """
    q = as_cast(fmt, rounding, bits, overflow)
    x = as_input(x)
    word = arrays.code_dtype(q.format)
    codes = fixed_output(x, out, NUMPY[word])
    bits_from = randomness(q, x, seed, stream, offset, random, codes)
    if x.size:
        arrays.run_encode(q, buffer(x), buffer(codes, word), bits_from)
    return codes


@routed
def decode(codes: Any, fmt: str | Format, *, out: Any = None) -> Any:
    """The values of codes: float32, or float64 where that takes it to hold every value (P3109's widest).

    Bits above the format's width are ignored; unused codes of a codebook are NaN. `out`: where to write, of
    the shape of the codes and that dtype. Raises UserError for a number beyond float64, which only formats
    that `exceeds_fp64` have (`Format.value` is exact there).
    """
    fmt = format_of(fmt)
    word = arrays.code_dtype(fmt)
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise TypeError(f"codes are integers, not {codes.dtype}")
    codes = np.require(codes, NUMPY[word], ["C", "A"])
    y = fixed_output(codes, out, "float32" if fmt.exact_in("fp32") else "float64")
    if codes.size:
        arrays.run_decode(fmt, buffer(codes, word), buffer(y))
    return y


@routed
def neighbours(x: Any, q: str | Quantizer, axis: int = -1) -> tuple[Any, Any]:
    """The values that `q` could return next to each element under the scales it gives `x`.

    Returns (lo, hi) of x's shape: lo the largest at most x, hi the smallest at least x; equal where x lies on
    the grid, and both the nearest end where x lies outside it. Both are NaN where the block holds NaN or
    infinity. For 16-bit dtypes the values are returned as float32 where they are not exact in x's dtype.
    """
    q = as_quantizer(q)
    x = as_input(x)
    axis = check_axis(axis, x.ndim)
    word = word_of(x.dtype)
    dtype = x.dtype if word in ("fp32", "fp64") or q.exact_in(word) else np.dtype("float32")
    lo, hi = fresh(x.shape, dtype), fresh(x.shape, dtype)
    if x.size:
        arrays.run_neighbours(q, buffer(x), buffer(lo), buffer(hi), axis)
    return lo, hi
