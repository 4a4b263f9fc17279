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
from dither.functions import _handler, _input, cast
from dither.transforms import hadamard

ROTATION, BLOCK, TOP = 128, 16, 6.0
_AIM = np.float32(17 / 16 * 0.93 / TOP)
_BOUND = np.float32(TOP * 255.99)
_SCALE_STREAM = 1 << 63


def ms_eden(x: Any, axis: int = -1, *, seed: int, stream: int = 0, rotated: bool = True) -> Any:
    """`x` in NVFP4 by MS-EDEN, quantized and dequantized.

    Args:
        x: array or tensor; its axis is a multiple of 128.
        axis: the axis along which blocks and rotations run; in a product of two operands, the common one.
        seed, stream: the address of the signs (those of `hadamard(x, 128, seed, axis, stream=stream)`); the
            scales are rounded with 16 bits each from the stream whose top bit is flipped, addressed by the
            number of the block.
        rotated: return y as it is, in the rotated basis, where a product of two operands rotated alike needs
            nothing undone; False takes the rotation back.

    Computed in fp32 (sums for S in fp64, in a fixed order) and returned in x's dtype and shape. A tensor of
    zeros stays zero; NaN or infinity anywhere makes all of it NaN. Raises UserError for an axis that is no
    multiple of 128.
    """
    if (handler := _handler(x)) is not None:
        return handler.ms_eden(x, axis, seed=seed, stream=stream, rotated=rotated)
    x = _input(x)
    axis = arrays.check_axis(axis, x.ndim)
    seed, stream, _ = arrays.check_address(seed, stream, 0)
    r = hadamard(np.moveaxis(x, axis, -1).astype(np.float32), ROTATION, seed, stream=stream)
    y = quantize_rotated(r, seed, stream ^ _SCALE_STREAM)
    if not rotated:
        y = hadamard(y, ROTATION, seed, stream=stream, inverse=True)
    return np.ascontiguousarray(np.moveaxis(y, -1, axis)).astype(x.dtype)


def quantize_rotated(r: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """Scales, elements and corrected scales of the rotated fp32 array, last axis a multiple of 128; the
    scales are rounded with bits of exactly this stream."""
    if not r.size:
        return r
    peak = np.abs(r).max()
    if not np.isfinite(peak):
        return np.full_like(r, np.nan)
    if peak == 0:
        return r
    decode = np.maximum(peak / _BOUND, np.finfo(np.float32).smallest_subnormal)
    blocks = r.reshape(-1, BLOCK)
    with np.errstate(over="ignore"):
        wanted = np.abs(blocks).max(axis=1) * _AIM / decode
    scale = cast(wanted, "e4m3")
    step = (scale * decode)[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        codes = np.where(step > 0, cast(blocks / step, "e2m1"), np.float32(0))
    factor = _correction(blocks, codes * step)
    corrected = cast(scale * factor, "e4m3", rounding="stochastic", bits=16, seed=seed, stream=stream)
    return (codes * (corrected * decode)[:, None]).reshape(r.shape)


def _correction(blocks: np.ndarray, quantized: np.ndarray) -> np.ndarray:
    """S of the rotation that each block lies in; 1 where nothing but zeros is left."""
    groups = (-1, ROTATION)
    wide = blocks.reshape(groups).astype(np.float64)
    signal = _sum(wide * wide)
    kept = _sum(wide * quantized.reshape(groups))
    factor = np.divide(signal, kept, out=np.ones_like(signal), where=kept > 0)
    return np.repeat(factor, ROTATION // BLOCK).astype(np.float32)


def _sum(x: np.ndarray) -> np.ndarray:
    """Sums over the last axis, a power of two, by halves: the same bits on every machine."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        x = x[:, :half] + x[:, half:]
    return x[:, 0]
