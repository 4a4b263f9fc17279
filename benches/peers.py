"""Fake quantization as others do it on a CPU: libraries that install, and plain recipes in numpy and torch.

Every peer is a function of one fp32 tensor [rows, columns] (or array) that returns the dequantized values.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import torch

MX = {"mxfp8_e4m3": (3, 8, 448.0, ml_dtypes.float8_e4m3fn), "mxfp4": (1, 2, 6.0, ml_dtypes.float4_e2m1fn)}


def torch_mx(mbits: int, emax: int, top: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """MX with the floor rule on ordinary blocks: one addition and one subtraction round to `mbits`."""
    below = (2 * emax - 2 if emax == 8 else 2) << 23  # from the block's exponent to the smallest normal's
    shift = ((23 - mbits) << 23) | 0x400000
    fraction = int(np.float32(top / 2.0**emax).view(np.int32)) & 0x7FFFFF

    def recipe(x: torch.Tensor) -> torch.Tensor:
        b = x.unflatten(-1, (-1, 32))
        bits = b.view(torch.int32)
        block = bits.bitwise_and(0x7FFFFFFF).amax(-1, keepdim=True).bitwise_and(0x7F800000)
        c = (torch.maximum(bits.bitwise_and(0x7F800000), block - below) + shift).view(torch.float32)
        limit = (block | fraction).view(torch.float32)
        return ((b + c) - c).clamp(-limit, limit).flatten(-2)

    return recipe


def torch_int4(x: torch.Tensor) -> torch.Tensor:
    """Symmetric INT4, groups of 128, fp32 scale absmax/7."""
    b = x.unflatten(-1, (-1, 128))
    s = b.abs().amax(-1, keepdim=True) / 7
    return (torch.round(b / s).clamp(-7, 7) * s).flatten(-2)


def torch_recipe(preset: str) -> Callable[[torch.Tensor], torch.Tensor]:
    if preset == "int4_g128":
        return torch_int4
    mbits, emax, top, _ = MX[preset]
    return torch_mx(mbits, emax, top)


def numpy_recipe(preset: str) -> Callable[[np.ndarray], np.ndarray]:
    """numpy, and ml_dtypes for the element cast."""
    if preset == "int4_g128":

        def int4(x: np.ndarray) -> np.ndarray:
            b = x.reshape(-1, 128)
            s = np.abs(b).max(axis=1, keepdims=True) / np.float32(7)
            return (np.rint(b / s).clip(-7, 7) * s).reshape(x.shape)

        return int4
    _, emax, top, dtype = MX[preset]

    def mx(x: np.ndarray) -> np.ndarray:
        b = x.reshape(-1, 32)
        _, exponent = np.frexp(np.abs(b).max(axis=1, keepdims=True))
        s = np.ldexp(np.float32(1), exponent - 1 - emax)
        return ((b / s).clip(-top, top).astype(dtype).astype(np.float32) * s).reshape(x.shape)

    return mx


def torchao(preset: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """torchao's MX tensors (its target is CUDA); None where it is not installed or has no such format."""
    try:
        from torchao.prototype.mx_formats.mx_tensor import MXTensor
    except ImportError:
        return None
    element = {"mxfp8_e4m3": torch.float8_e4m3fn, "mxfp4": torch.float4_e2m1fn_x2}.get(preset)
    if element is None:
        return None
    return lambda x: MXTensor.to_mx(x, element, 32).dequantize(torch.float32)


def gfloat(preset: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """gfloat's vectorized rounding behind a numpy block scale (its own block loop is in Python)."""
    try:
        import gfloat
        from gfloat import formats
    except ImportError:
        return None
    if preset not in MX:
        return None
    _, emax, _, _ = MX[preset]
    info = {"mxfp8_e4m3": formats.format_info_ocp_e4m3, "mxfp4": formats.format_info_ocp_e2m1}[preset]

    def mx(x: np.ndarray) -> np.ndarray:
        b = x.reshape(-1, 32)
        _, exponent = np.frexp(np.abs(b).max(axis=1, keepdims=True))
        s = np.ldexp(np.float32(1), exponent - 1 - emax)
        return (gfloat.round_ndarray(info, b / s, sat=True) * s).reshape(x.shape)

    return mx
