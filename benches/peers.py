"""Fake quantization as others do it on a CPU: libraries that install, and the arithmetic in numpy and torch.

Every peer is a function of one fp32 tensor [rows, columns] (or array) that returns the dequantized values, on
ordinary data: no NaN, no block of zeros.

The torch functions are written for torch.compile, which turns each into one or two vectorized loops. Bit
operations on elements would not be vectorized (Inductor moves every reinterpreted vector through memory: 2 to
6 times the time), so that mantissas are cut by Veltkamp's splitting, and only scales are looked at as bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch

Recipe = Callable[[torch.Tensor], torch.Tensor]
EachBlock = Any  # a number, or a tensor with one for each block

# mantissa bits, exponents of the largest and of the smallest normal number, the largest number
E4M3 = (3, 8, -6, 448.0)
E2M1 = (1, 2, 0, 6.0)
TORCHAO = "torchao (a CPU is not its target)"
MX = {"mxfp8_e4m3": (E4M3, ml_dtypes.float8_e4m3fn), "mxfp4": (E2M1, ml_dtypes.float4_e2m1fn)}


def on_grid(
    x: torch.Tensor, mbits: int, smallest: EachBlock, fixed: EachBlock, top: EachBlock
) -> torch.Tensor:
    """To `mbits` fraction bits, ties to even; below `smallest` in the steps of the constant `fixed`."""
    widened = x * float(2 ** (23 - mbits) + 1)
    normal = widened - (widened - x)  # Veltkamp
    y = torch.where(x.abs() < smallest, (x + fixed) - fixed, normal)
    return torch.copysign(torch.clamp(y, -top, top), x)


def element(x: torch.Tensor, fmt: tuple[int, int, int, float]) -> torch.Tensor:
    mbits, _, emin, top = fmt
    return on_grid(x, mbits, 2.0**emin, 1.5 * 2.0 ** (emin - mbits + 23), top)


def absmax(b: torch.Tensor) -> torch.Tensor:
    return b.abs().amax(-1, keepdim=True)


def torch_mx(fmt: tuple[int, int, int, float]) -> Recipe:
    """MX with the floor rule: the grid is fp32's own, moved to the block's exponent."""
    mbits, emax, emin, top = fmt
    fraction = int(np.float32(top / 2.0**emax).view(np.int32)) & 0x7FFFFF

    def recipe(x: torch.Tensor) -> torch.Tensor:
        b = x.unflatten(-1, (-1, 32))
        exponent = absmax(b).view(torch.int32).bitwise_and(0x7F800000)
        smallest = exponent + ((emin - emax) << 23)
        fixed = (exponent + ((emin - emax - mbits + 23) << 23)) | 0x400000
        parts = (p.view(torch.float32) for p in (smallest, fixed, exponent | fraction))
        return on_grid(b, mbits, *parts).flatten(-2)

    return recipe


def torch_int4(x: torch.Tensor) -> torch.Tensor:
    """Symmetric INT4, groups of 128, fp32 scale absmax/7; integers have no negative zero."""
    b = x.unflatten(-1, (-1, 128))
    s = absmax(b) / 7
    zero = s - s  # not 0.0, an addition that Inductor leaves out
    return (torch.round(b / s).clamp(-7, 7) * s + zero).flatten(-2)


def torch_nvfp4(x: torch.Tensor) -> torch.Tensor:
    """NVFP4 in Transformer Engine's order: E4M3 scales of 16, under one of the tensor."""
    b = x.unflatten(-1, (-1, 16))
    blocks = absmax(b)
    encode = torch.full((), 2688.0) / blocks.amax()  # 2688.0 / x would be x.reciprocal() * 2688.0
    s = element((blocks * (encode * (1.0 / 6.0))).clamp(max=448.0), E4M3)
    decode = s * (1.0 / encode)
    return (element(b * (1.0 / decode), E2M1) * decode).flatten(-2)


def torch_fp8(x: torch.Tensor) -> torch.Tensor:
    """E4M3 with one fp32 scale of the tensor."""
    s = x.abs().amax() / 448.0
    return element(x / s, E4M3) * s


TORCH: dict[str, Recipe] = {
    "mxfp8_e4m3": torch_mx(E4M3),
    "mxfp4": torch_mx(E2M1),
    "int4_g128": torch_int4,
    "nvfp4": torch_nvfp4,
    "fp8_e4m3": torch_fp8,
}


def compiled(preset: str, x: np.ndarray) -> Callable[[], torch.Tensor]:
    """torch.compile of the arithmetic into a preallocated output."""
    t, recipe = torch.from_numpy(x), TORCH[preset]
    out = torch.ones_like(t)
    fused = torch.compile(lambda a, o: o.copy_(recipe(a)), dynamic=False)
    return lambda: fused(t, out)


def numpy_recipe(preset: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """numpy, and ml_dtypes for the element cast; None where nobody wrote it."""
    if preset == "int4_g128":

        def int4(x: np.ndarray) -> np.ndarray:
            b = x.reshape(-1, 128)
            s = np.abs(b).max(axis=1, keepdims=True) / np.float32(7)
            return (np.rint(b / s).clip(-7, 7) * s).reshape(x.shape)

        return int4
    if preset not in MX:
        return None
    (_, emax, _, top), dtype = MX[preset]

    def mx(x: np.ndarray) -> np.ndarray:
        b = x.reshape(-1, 32)
        s = floor_scale(b, emax)
        return ((b / s).clip(-top, top).astype(dtype).astype(np.float32) * s).reshape(x.shape)

    return mx


def floor_scale(b: np.ndarray, emax: int) -> np.ndarray:
    _, exponent = np.frexp(np.abs(b).max(axis=1, keepdims=True))
    return np.ldexp(np.float32(1), exponent - 1 - emax)


def torchao_packer(preset: str) -> Callable[[torch.Tensor], Any] | None:
    """torchao's MX tensors (its target is CUDA); None where it is not installed or has no such format."""
    try:
        from torchao.prototype.mx_formats.mx_tensor import MXTensor
    except ImportError:
        return None
    element = {"mxfp8_e4m3": torch.float8_e4m3fn, "mxfp4": torch.float4_e2m1fn_x2}.get(preset)
    if element is None:
        return None
    return lambda x: MXTensor.to_mx(x, element, 32)


def gfloat(preset: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """gfloat's vectorized rounding behind a numpy block scale (its own block loop is in Python)."""
    try:
        import gfloat
        from gfloat import formats
    except ImportError:
        return None
    if preset not in MX:
        return None
    (_, emax, _, _), _ = MX[preset]
    info = {"mxfp8_e4m3": formats.format_info_ocp_e4m3, "mxfp4": formats.format_info_ocp_e2m1}[preset]

    def mx(x: np.ndarray) -> np.ndarray:
        b = x.reshape(-1, 32)
        s = floor_scale(b, emax)
        return (gfloat.round_ndarray(info, b / s, sat=True) * s).reshape(x.shape)

    return mx


def eager(preset: str, x: np.ndarray) -> dict[str, Callable[[], object]]:
    """The peers without a compiler that exist for this preset, as calls without arguments."""
    t, torch_way = torch.from_numpy(x), TORCH[preset]
    ways: dict[str, Callable[[], object]] = {"torch eager": lambda: torch_way(t)}
    if (numpy_way := numpy_recipe(preset)) is not None:
        ways["numpy + ml_dtypes"] = lambda: numpy_way(x)
    if (packer := torchao_packer(preset)) is not None:
        ways[TORCHAO] = lambda: packer(t).dequantize(torch.float32)
    if (gf := gfloat(preset)) is not None:
        ways["gfloat"] = lambda: gf(x)
    return ways


def numpy_bf16(x: np.ndarray) -> Callable[[], np.ndarray]:
    """Add 16 random bits and cut off: the recipe users write for stochastic rounding."""
    generator = np.random.Generator(np.random.Philox(1))

    def call() -> np.ndarray:
        bits = generator.integers(0, 1 << 16, x.shape, np.uint16)
        return ((x.view(np.uint32) + bits) & np.uint32(0xFFFF0000)).view(np.float32)

    return call


def torch_bf16(x: torch.Tensor) -> torch.Tensor:
    bits = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32)
    return ((x.view(torch.int32) + bits) & -65536).view(torch.float32)


def compiled_bf16(x: np.ndarray) -> Callable[[], torch.Tensor]:
    t, out = torch.from_numpy(x), torch.ones(x.shape)
    fused = torch.compile(lambda a, o: o.copy_(torch_bf16(a)))
    return lambda: fused(t, out)


STOCHASTIC_BF16: dict[str, Callable[[np.ndarray], Callable[[], object]]] = {
    "numpy, its Philox": numpy_bf16,
    "torch eager": lambda x: lambda: torch_bf16(torch.from_numpy(x)),
    "torch.compile into out=": compiled_bf16,
}
"""Stochastic rounding to bf16 by 16 bits, of another stream than ours."""
