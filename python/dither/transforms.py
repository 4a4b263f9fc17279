"""Rotations that spread outliers over a block before it is quantized.

Like all functions on arrays: numpy in, numpy out; torch tensors go to `dither.nn.transforms`.
"""

from __future__ import annotations

from typing import Any

from dither import arrays
from dither.arguments import as_input, buffer, output, routed
from dither.checks import check_address, check_axis
from dither.errors import UserError


@routed
def hadamard(
    x: Any,
    block: int = 32,
    seed: int | None = 0,
    axis: int = -1,
    *,
    stream: int = 0,
    along_axis: bool = False,
    inverse: bool = False,
    out: Any = None,
    out_dtype: Any = None,
) -> Any:
    """Rotate blocks along an axis: y = H diag(s) x / sqrt(block), H the Walsh-Hadamard matrix.

    H[i, j] = (-1)^popcount(i & j) (Sylvester's order); y keeps the length of x, and products of two operands
    rotated alike along their common axis keep their value.

    Args:
        x: array or tensor of any shape.
        block: elements that are mixed, a power of two that divides the axis.
        seed, stream: the address of the signs, unsigned 64-bit integers: position j of every block has the
            sign -1 where the addressed random bit `j` (one bit an element, see rust/numerics) is 1. All
            blocks share their signs, as in the NVFP4 recipe. `seed=None` is the plain transform: all plus.
        axis: the axis along which blocks run.
        along_axis: j counts along the whole axis instead, so that every block has its own signs.
        inverse: diag(s) H x / sqrt(block) instead, which takes the rotation back.
        out, out_dtype: as for `fake_quant`.

    Results are formed in fp32 (fp64 for fp64 input): signs, then butterflies (a + b, a - b) of strides 1, 2,
    4, .. block/2, then one product with 1/sqrt(block) rounded to that type (a power of two for blocks of 4,
    16, 64, ...). The bits do not depend on the device, the number of threads or the instruction set. The
    inverse restores x up to rounding; sums beyond the type's range overflow. NaN or infinity spreads over its
    block.

    Raises UserError for a block that is no power of two or does not divide the axis.
    """
    x = as_input(x)
    axis, block = check_rotation(x.shape, axis, block)
    signs = check_signs(seed, stream, along_axis)
    y = output(x, out, out_dtype)
    if x.size:
        arrays.run_hadamard(buffer(x), buffer(y), axis, block, signs, inverse)
    return y


def check_rotation(shape: tuple[int, ...], axis: int, block: Any) -> tuple[int, int]:
    """The axis counted from the front and the block, after checks."""
    axis = check_axis(axis, len(shape))
    if isinstance(block, bool) or not hasattr(block, "__index__"):
        raise TypeError(f"block= is an integer, not {block!r}")
    block = block.__index__()
    if block < 1 or block & (block - 1):
        raise UserError(f"a Hadamard block is a power of two, not {block}")
    length = shape[axis] if shape else 1
    if length % block:
        raise UserError(
            f"the axis has {length} elements, no multiple of block={block}: choose a block that divides it, "
            "or pad the array with zeros"
        )
    return axis, block


def check_signs(seed: Any, stream: Any, along_axis: Any) -> tuple[int, int, bool] | None:
    """(seed, stream, along_axis), or None for no signs."""
    if seed is None:
        if stream != 0 or along_axis:
            raise UserError("stream= and along_axis= need a seed=; without one there are no signs")
        return None
    seed, stream, _ = check_address(seed, stream, 0)
    return seed, stream, bool(along_axis)
