"""MS-EDEN: unbiased NVFP4 with the error of rounding to nearest (Quartet II, arXiv 2601.22813).

Stochastic rounding of the elements is unbiased and noisy. MS-EDEN rounds elements to nearest and moves the
randomness to where it costs little: a random rotation before, and the rounding of the block scales.

    r   = H diag(signs) x / sqrt(128)                    in blocks of 128 along the axis
    s_b = e4m3(absmax_b (17/16 0.93 / 6) / d)            blocks of 16; d = absmax(r) / (6 * 255.99), in fp32
    q   = e2m1(r / (s_b d))                              both to nearest even
    S   = <r, r> / <r, q s_b d>                          one factor for each 128 elements, near 1
    y   = q stochastic_e4m3(S s_b) d                     so that <r, E y> = <r, r>

Over the rotation, y is an unbiased estimate of r (EDEN: arXiv 2108.08842); the rounding of the scales is
unbiased in itself. The bound of 255.99 leaves room in E4M3 for S.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither import arrays
from dither.arguments import as_input, buffer, routed
from dither.checks import check_address, check_axis
from dither.transforms import hadamard

ROTATION, BLOCK = 128, 16
_SCALE_STREAM = 1 << 63


@routed
def ms_eden(x: Any, axis: int = -1, *, seed: int, stream: int = 0, rotated: bool = True) -> Any:
    """`x` in NVFP4 by MS-EDEN, quantized and dequantized.

    Args:
        x: array or tensor; its axis is a multiple of 128.
        axis: the axis along which blocks and rotations run; in a product of two operands, the common one.
        seed, stream: the address of the signs (those of `hadamard(x, 128, seed, axis, stream=stream)`); the
            scales are rounded with 16 bits each from the stream whose top bit is flipped, addressed by the
            number of the block in C order.
        rotated: return y as it is, in the rotated basis, where a product of two operands rotated alike needs
            nothing undone; False takes the rotation back.

    Computed in fp32 (sums for S in fp64, in a fixed order) and returned in x's dtype and shape. A tensor of
    zeros stays zero; NaN or infinity anywhere makes all of it NaN. Raises UserError for an axis that is no
    multiple of 128.
    """
    x = as_input(x)
    axis = check_axis(axis, x.ndim)
    seed, stream, _ = check_address(seed, stream, 0)
    y = hadamard(x.astype(np.float32), ROTATION, seed, axis, stream=stream)
    if y.size:
        arrays.run_ms_eden(buffer(y), buffer(y), axis, seed, stream ^ _SCALE_STREAM, 0)
    if not rotated:
        y = hadamard(y, ROTATION, seed, axis, stream=stream, inverse=True)
    return y.astype(x.dtype, copy=False)
