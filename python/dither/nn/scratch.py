"""Memory for operands that live for one product: written, multiplied, forgotten.

A fresh tensor for every quantized operand walks through memory that is in no cache, and that walk costs as
much as the rounding. Two pieces of memory, one for each factor of a product, are used over and over instead:
the product finds in the cache what the kernel has just written. Operands beyond a cache's size gain nothing
and get memory of their own, so that little is held for good.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn import Parameter

from dither.nn import fresh

_LARGEST = 32 << 20  # bytes


class _Memory(threading.local):
    """Two growing pieces of memory a thread."""

    def __init__(self) -> None:
        self.pieces = [fresh.empty((0,), torch.uint8) for _ in range(2)]


_memory = _Memory()


def available(x: Tensor) -> bool:
    """Whether an operand made of `x` may be temporary: on the CPU, and nobody records what is computed.

    A graph (of a double backward, or of a tracer) would keep the operand beyond its product.
    """
    return (
        not torch.compiler.is_compiling()
        and x.is_cpu
        and type(x) in (Tensor, Parameter)
        and not torch.is_grad_enabled()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and torch._C._len_torch_dispatch_stack() == 0
    )


def take(factor: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Uninitialised contiguous CPU memory for factor 0 or 1 of a product, valid until it is taken again."""
    size = shape.numel() * dtype.itemsize
    if size > _LARGEST:
        return fresh.empty(shape, dtype)
    if _memory.pieces[factor].numel() < size:
        _memory.pieces[factor] = fresh.empty((size,), torch.uint8)
    return _memory.pieces[factor][:size].view(dtype).view(shape)
