"""Matrix products as low-precision hardware forms them: quantized operands, a stated accumulator, a fixed
order.

numpy in, numpy out; torch tensors go to `dither.nn.linalg`. docs/emulation.md has the rules and sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dither import arrays
from dither.arguments import (
    as_input,
    as_quantizer,
    buffer,
    check_output,
    dtype_of,
    fresh,
    handler_of,
    word_of,
)
from dither.arrays import CodedRows, Rows
from dither.errors import UserError, suggest
from dither.functions import fake_quant
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor
from dither.transposed import Transposed

ACCUMULATORS = ("fp32", "fp64", "bf16", "fp16")
_WIDEST = 12
"""Bits of the widest codes that are unpacked on the way; the table of values doubles with every bit."""


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A fixed-point adder over groups of products, as tensor cores have it.

    The products of a group and the accumulator are aligned to the largest exponent E among them (of a
    product: the sum of its operands' exponents), cut off toward zero below 2^(E - fraction_bits), and added
    exactly; the sum is cut off to as many fraction bits of its own. After every `promote_every` products, and
    at the end, the accumulator is added to an fp32 total (to nearest) and starts again at zero.

    Args:
        fraction_bits: 1 to 30. Measured on hardware: 13 for the FP8 instructions of NVIDIA's Ada and Hopper
            (about 14 significant bits), 25 for Hopper's 16-bit ones (MMA-Sim, arXiv 2511.10909).
        group: products added at once, 1 to 1024; 32 for Hopper's FP8 instructions, 16 for its 16-bit ones.
        promote_every: a multiple of `group`, or None for one accumulator to the end. DeepSeek-V3 promotes
            every 128 products (arXiv 2412.19437, section 3.3.2).
    """

    fraction_bits: int
    group: int = 32
    promote_every: int | None = 128

    def __post_init__(self) -> None:
        for name, value, most in (("fraction_bits", self.fraction_bits, 30), ("group", self.group, 1024)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise UserError(f"{name}= is an integer from 1 to {most}, not {value!r}")
        every = self.promote_every
        if every is not None and (
            isinstance(every, bool)
            or not isinstance(every, int)
            or not self.group <= every < 1 << 62
            or every % self.group
        ):
            raise UserError(f"promote_every= is a multiple of group={self.group} or None, not {every!r}")


def matmul(
    a: Any,
    b: Any,
    qa: str | Quantizer | None = None,
    qb: str | Quantizer | None = None,
    accumulate: str | Accumulator = "fp32",
    *,
    out: Any = None,
    out_dtype: Any = None,
) -> Any:
    """a @ b from quantized operands, accumulated as stated.

    Args:
        a: (..., M, K), an array, a tensor or a QuantizedTensor.
        b: (..., K, N), likewise; for weights w (N, K) packed along K, `w.T`. Vectors and leading dimensions
            behave as in numpy.matmul.
        qa, qb: quantizers of plain operands; blocks run along K. Operands that round stochastically are
            quantized beforehand, by `fake_quant` or `quantize` with a seed.
        accumulate: of the products of an element, taken in order of k,
            `"fp32"`: acc = fma(a, b, acc), one rounding to fp32 a product;
            `"fp64"`: the same in fp64;
            `"bf16"`, `"fp16"`: acc = a b + acc, rounded once a product to that type;
            an `Accumulator`: a narrow adder over groups of products.
        out: where to write: a C-contiguous array of the result's shape, apart from the operands.
        out_dtype: fp32 (default), fp64 (default for accumulate="fp64"), bf16 or fp16, or that of `out`; the
            accumulator is rounded to it once.

    Operands enter as the fp32 numbers that `fake_quant` or `dequantize` gives, scales included, so every
    product is exact before it is added. An element of the result depends on nothing but its row of `a` and
    its column of `b`: not on the other rows (M = 1 gives the same bits as M = 1000), on the number of threads
    or the instruction set, or on whether operands are packed. NaN and infinity follow IEEE. Packed operands
    are not unpacked as a whole where their rows run along K.

    Raises UserError for shapes that do not fit, TypeError for fp64 operands without a quantizer.
    """
    if (handler := handler_of(a) or handler_of(b)) is not None:
        return handler.matmul(a, b, qa, qb, accumulate, out=out, out_dtype=out_dtype)
    how = check_accumulate(accumulate)
    read = [*memory_of(a), *memory_of(b)]
    a, b = _operand(a, qa, -1), _operand(b, qb, -2)

    def product(a: Any, b: Any, c: np.ndarray) -> None:
        if c.size:
            arrays.run_matmul(_rows(a), _rows(b.T), how, buffer(c))

    def target(shape: tuple[int, ...]) -> np.ndarray:
        if out is None:
            return fresh(shape, dtype_of(out_dtype or ("fp64" if accumulate == "fp64" else "fp32")))
        check_output(shape, out, out_dtype)
        if any(np.shares_memory(out, part) for part in read):
            raise UserError("out= overlaps an operand, which would be lost while it is read")
        return out

    return multiply(a, b, product, target)


def multiply(a: Any, b: Any, product: Callable[[Any, Any, Any], None], target: Callable[..., Any]) -> Any:
    """The product of operands of any number of dimensions, written to `target(shape)` a matrix at a time;
    numpy's rules for shapes."""
    if not (len(a.shape) and len(b.shape)):
        raise UserError("matmul multiplies vectors and matrices, not scalars")
    a_vector, b_vector = len(a.shape) == 1, len(b.shape) == 1
    if (a_vector and isinstance(a, QuantizedTensor)) or (b_vector and isinstance(b, QuantizedTensor)):
        raise UserError("a packed operand of matmul has at least two dimensions: quantize it as one row")
    a = a[None, :] if a_vector else a
    b = b[:, None] if b_vector else b
    if a.shape[-1] != b.shape[-2]:
        raise UserError(
            f"matmul of shapes {tuple(a.shape)} and {tuple(b.shape)}: {a.shape[-1]} columns of a do not meet "
            f"{b.shape[-2]} rows of b"
        )
    batch = _batch(a, b)
    rows, columns = () if a_vector else (a.shape[-2],), () if b_vector else (b.shape[-1],)
    c = target((*batch, *rows, *columns))
    matrices = c.reshape((*batch, a.shape[-2], b.shape[-1]))
    for i, j, k in zip(np.ndindex(batch), _places(a, batch), _places(b, batch), strict=True):
        product(_matrix(a, j), _matrix(b, k), matrices[i])
    return c


def _batch(a: Any, b: Any) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(tuple(a.shape[:-2]), tuple(b.shape[:-2]))
    except ValueError:
        raise UserError(
            f"matmul of shapes {tuple(a.shape)} and {tuple(b.shape)}: the leading dimensions do not broadcast"
        ) from None


def _places(x: Any, batch: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Where each matrix of the batch lies in `x`, whose dimensions of length 1 serve all."""
    lead = tuple(x.shape[:-2])
    for i in np.ndindex(batch):
        yield tuple(0 if n == 1 else k for n, k in zip(lead, i[len(batch) - len(lead) :], strict=True))


def _matrix(x: Any, place: tuple[int, ...]) -> Any:
    if isinstance(x, Transposed):
        return _matrix(x.mT, place).T
    return x[place] if place else x


def memory_of(x: Any) -> list[np.ndarray]:
    """The arrays that an operand is read from."""
    packed = x.base if isinstance(x, Transposed) else x
    if isinstance(packed, QuantizedTensor):
        return list(packed.parts().values())
    return [x] if isinstance(x, np.ndarray) else []


def check_accumulate(accumulate: Any) -> str | tuple[int, int, int | None]:
    """The accumulator as the extension takes it."""
    if isinstance(accumulate, Accumulator):
        return accumulate.fraction_bits, accumulate.group, accumulate.promote_every
    if not isinstance(accumulate, str):
        raise TypeError(f"accumulate= is a name or a dither.Accumulator, not {accumulate!r}")
    if accumulate not in ACCUMULATORS:
        raise UserError(
            f"unknown accumulator {accumulate!r}{suggest(accumulate, ACCUMULATORS)}. Known: "
            f"{', '.join(ACCUMULATORS)} and dither.Accumulator(...)"
        )
    return accumulate


def check_quantizer(q: str | Quantizer | None, packed: bool) -> Quantizer | None:
    """The quantizer of an operand, where it can be applied here."""
    if q is None:
        return None
    if packed:
        raise UserError(
            "a packed operand is quantized already: leave its quantizer out, or dequantize it first"
        )
    q = as_quantizer(q)
    if q.rounding.startswith("stochastic"):
        raise UserError(
            f"{q} rounds stochastically: quantize the operand beforehand, dither.fake_quant(x, q, seed=...)"
        )
    return q


def _operand(x: Any, q: str | Quantizer | None, k_axis: int) -> Any:
    """A packed operand as it is, or a plain array of at most fp32, quantized."""
    packed = isinstance(x, QuantizedTensor | Transposed)
    q = check_quantizer(q, packed)
    if packed:
        return x
    x = np.asarray(x)
    if q is not None and x.ndim:
        axis = -1 if x.ndim == 1 else k_axis
        word = word_of(as_input(x).dtype)
        out_dtype = "fp32" if word == "fp64" or not q.exact_in(word) else None
        return fake_quant(x, q, axis, out_dtype=out_dtype)
    if word_of(x.dtype) == "fp64":
        raise TypeError(
            "operands of matmul are fp32, bf16 or fp16 numbers: convert float64 with x.astype('float32'), or "
            "give a quantizer"
        )
    strides = x.strides[-2:]
    usable = all(s >= 0 and s % x.itemsize == 0 for s in strides) and x.flags.aligned and x.dtype.isnative
    return x if usable and word_of(x.dtype) else as_input(x)


def _rows(x: Any) -> Rows | CodedRows:
    """A matrix as rows along the last axis."""
    if isinstance(x, QuantizedTensor):
        coded = coded_rows(x)
        return _rows(x.dequantize("fp32")) if coded is None else coded
    if isinstance(x, Transposed):
        return _rows(x.dequantize("fp32"))
    word = word_of(x.dtype)
    strides = (x.strides[0] // x.itemsize, x.strides[1] // x.itemsize)
    return Rows(x.__array_interface__["data"][0], word, x.shape[0], x.shape[1], *strides, x)


def coded_rows(t: QuantizedTensor) -> CodedRows | None:
    """A packed matrix as rows of codes along the last axis, each a value times a scale; None where it is not
    laid out so."""
    q, (rows, k) = t.quantizer, t.shape
    if q.zero_point or q.prescale != 1 or t.layout.width > _WIDEST:
        return None
    if q.block not in (None, "tensor") and t.axis != 1:
        return None
    if q.block in (None, "tensor"):
        block, stride = max(k, 1), 0
    elif q.block == "row":
        block, stride = max(k, 1), 1
    elif isinstance(q.block, int):
        block, stride = q.block, -(-k // q.block)
    else:
        return None
    scales = None if t.scales is None else buffer(t.scales, t.layout.scales_word)
    tensor_scale = None if t.tensor_scale is None else float(t.tensor_scale)
    return CodedRows(q, buffer(t.codes, "u8"), scales, tensor_scale, rows, k, block, stride)
