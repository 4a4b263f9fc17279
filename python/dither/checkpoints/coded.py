"""A tensor as codes and scales, for the layouts of others.

Most quantizers have a QuantizedTensor, whose parts are these. Two do not, and other programs store them all
the
same: asymmetric integers (a zero point a block) and tiles (128 x 128). Their codes are formed here in numpy
by the rules of `rust/numerics/src/affine.rs` and of an absmax scale, and tested to give the fake-quantized
values bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dither import tensor as packed
from dither.checkpoints.layouts import bits
from dither.errors import UserError
from dither.functions import encode
from dither.quantizer import Quantizer

ASYMMETRIC = ("uint8", "uint4", "uint3", "uint2")


@dataclass(frozen=True)
class Coded:
    """`codes` as in a QuantizedTensor; one scale (and one zero point, uint8) a block: the shape of the array
    with each axis replaced by the number of blocks along it, () for one block."""

    quantizer: Quantizer
    codes: np.ndarray
    scales: np.ndarray | None = None
    tensor_scale: np.ndarray | None = None
    zero_points: np.ndarray | None = None


def is_coded_here(q: Quantizer) -> bool:
    """Asymmetric integers and tiles with plain fp32 scales."""
    return q.zero_point or (
        isinstance(q.block, tuple) and q.format.name == "e4m3" and q.scale_format == "fp32"
    )


def code(x: np.ndarray, q: Quantizer, seed: int | None, stream: int) -> Coded:
    """Quantize `x` (float32 or float64, finite) along its last axis."""
    if not is_coded_here(q):
        t = packed.quantize(x, q, seed=seed, stream=stream)
        scale = None if t.tensor_scale is None else np.asarray(t.tensor_scale, np.float32)
        return Coded(q, t.codes, t.scales, scale)
    check(q)
    return _asymmetric(x, q) if q.zero_point else _tiles(x, q)


def check(q: Quantizer) -> None:
    """Raise UserError for what has no codes."""
    if not is_coded_here(q):
        packed.storable(q, (1,), 0)
        return
    plain = (q.rounding, q.dialect, q.scale_rule) == ("nearest_even", "ocp", "absmax")
    along = q.block in ("row", "tensor") or isinstance(q.block, int)
    if not plain or (q.zero_point and not (along and q.format.name in ASYMMETRIC)):
        raise UserError(
            f"{q} has no codes for a checkpoint: asymmetric integers (in blocks, rows or a tensor) and tiles "
            f"are "
            "stored with rounding nearest_even, scale_rule absmax and the dialect ocp"
        )


def _asymmetric(x: np.ndarray, q: Quantizer) -> Coded:
    columns = x.shape[-1]
    x = x.reshape(-1, columns)
    wide = columns if q.block in ("row", "tensor") else int(str(q.block))
    starts = np.arange(0, columns, wide)
    low = np.minimum(np.minimum.reduceat(x, starts, 1), 0)
    high = np.maximum(np.maximum.reduceat(x, starts, 1), 0)
    if q.block == "tensor":
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    span = (high.astype(np.float64) - low).astype(x.dtype)
    top = x.dtype.type(q.format.max)
    scales = np.minimum(span / top, np.finfo(np.float32).max).astype(np.float32)
    safe = np.where(scales > 0, scales, 1).astype(x.dtype)  # a scale of zero: codes and zero point are zero
    zeros = np.where(scales > 0, np.clip(np.rint(-(low / safe)), 0, top), 0).astype(np.uint8)

    def spread(blocks: np.ndarray) -> np.ndarray:
        return blocks if q.block == "tensor" else blocks.repeat(wide, 1)[:, :columns]

    codes = x / spread(safe)
    np.rint(codes, out=codes)
    codes += spread(zeros)
    np.clip(codes, 0, top, out=codes)
    codes *= spread(scales > 0)
    shape = () if q.block == "tensor" else scales.shape
    return Coded(
        q, bits.pack(codes.astype(np.uint8), q.format.bits), scales.reshape(shape), None, zeros.reshape(shape)
    )


def _tiles(x: np.ndarray, q: Quantizer) -> Coded:
    assert isinstance(q.block, tuple)
    (rows, columns), (high, wide) = x.shape, q.block
    tops = np.maximum.reduceat(np.abs(x), np.arange(0, columns, wide), 1)
    tops = np.maximum.reduceat(tops, np.arange(0, rows, high), 0)
    scales = (tops / x.dtype.type(q.format.max)).astype(np.float32)
    safe = np.where(scales > 0, scales, 1).astype(x.dtype)
    steps = x / safe.repeat(high, 0)[:rows].repeat(wide, 1)[:, :columns]
    codes = encode(steps, q.format)
    codes[(scales == 0).repeat(high, 0)[:rows].repeat(wide, 1)[:, :columns]] &= 0x80
    return Coded(q, codes, scales)
