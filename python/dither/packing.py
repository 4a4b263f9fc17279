"""Arrays into packed form: `dither.quantize`, into fresh memory or over an array of the same layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from dither import arrays
from dither.arguments import NUMPY, as_input, as_quantizer, buffer, fresh, randomness, routed, word_of
from dither.blocks import Layout
from dither.checks import check_axis
from dither.errors import UserError
from dither.parts import buffers
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor


@routed
def quantize(
    x: Any,
    q: str | Quantizer,
    axis: int = -1,
    *,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
    out: Any = None,
) -> Any:
    """Store `x` in the format of `q`: codes at their true width and scales.

    Arguments as for `fake_quant`, whose values (in x's dtype) are what `.dequantize()` of the result returns,
    bit for bit. `out`: a packed array to write over, of this quantizer, x's shape and dtype and the same
    axis, in memory of its own (no slice, nothing read-only); it holds anything where the call raises.

    Returns a QuantizedTensor, for a torch tensor a `dither.nn.packed.PackedTensor`. Raises UserError where an
    element has no code (NaN under a plain cast to a format without one), and for a quantizer whose arrays
    cannot be read back from their codes.
    """
    q = as_quantizer(q)
    x = as_input(x)
    layout = storable(q, x.shape, axis)
    if out is None:
        parts = {name: fresh(shape, NUMPY[word]) for name, (shape, word) in layout.parts.items()}
        out = QuantizedTensor(q, x.shape, layout.axis, word_of(x.dtype), **parts)
    held = _writable_parts(layout, x, out)
    bits = randomness(q, x, seed, stream, offset, random, *held.values())
    tensor_scale = arrays.run_quantize(layout, buffer(x), buffers(layout, held), bits)
    if tensor_scale is not None:
        held["tensor_scale"][...] = tensor_scale
    return out


def _writable_parts(layout: Layout, x: np.ndarray, out: Any) -> dict[str, np.ndarray]:
    """The memory of `out` after the checks that it can take `x`."""
    if not isinstance(out, QuantizedTensor):
        raise TypeError(f"out= is a QuantizedTensor, as a first call returns it, not {type(out).__name__}")
    check_packed_out(layout, word_of(x.dtype), out.layout, out.dtype_word)
    held = out._held
    if not all(part.flags.writeable for part in held.values()):
        raise UserError("out= is read-only, as slices of packed arrays are: quantize without it")
    if any(np.shares_memory(part, x) for part in held.values()):
        raise UserError("out= overlaps the input, which would be lost while it is read")
    return held


def check_packed_out(layout: Layout, word: str, have: Layout, have_word: str) -> None:
    """`out=` is packed as the result would be. UserError says what differs."""
    pairs = {
        "the quantizer": (have.quantizer, layout.quantizer),
        "the shape": (have.shape, layout.shape),
        "the axis": (have.axis, layout.axis),
        "values of": (have_word, word),
    }
    for what, (held, wanted) in pairs.items():
        if held != wanted:
            raise UserError(f"out= has {what} {held}, but the result has {wanted}: quantize without out=")


def storable(q: Quantizer, shape: tuple[int, ...], axis: int) -> Layout:
    """The layout of an array under `q`; UserError where it cannot be read back from its codes."""
    if reason := arrays.unstorable(q):
        raise UserError(f"{q} cannot be stored: {reason}; use dither.fake_quant")
    return Layout(q, shape, check_axis(axis, len(shape)))
