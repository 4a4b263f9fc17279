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
from dither.nn.differentiable import is_transformed

_LARGEST = 32 << 20  # bytes
_MOST_VIEWS = 256


class _Memory(threading.local):
    """Two growing pieces of memory a thread, and how they were seen: making a view costs more than rounding a
    small operand."""

    def __init__(self) -> None:
        self.pieces = [fresh.empty((0,), torch.uint8) for _ in range(2)]
        self.views: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}


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
        and not is_transformed()
    )


def take(factor: int | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Uninitialised contiguous CPU memory for factor 0 or 1 of a product, valid until it is taken again;
    None: memory of its own."""
    if factor is None:
        return fresh.empty(shape, dtype)
    seen = _memory.views.get((factor, shape, dtype))
    return _view(factor, shape, dtype) if seen is None else seen


def _view(factor: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    size = shape.numel() * dtype.itemsize
    if size > _LARGEST:
        return fresh.empty(shape, dtype)
    with torch.inference_mode(False):  # an inference tensor could not be written to outside that mode
        grows = _memory.pieces[factor].numel() < size
        if grows:
            _memory.pieces[factor] = fresh.empty((size,), torch.uint8)
        if grows or len(_memory.views) >= _MOST_VIEWS:
            _memory.views.clear()
        view = _memory.pieces[factor][:size].view(dtype).view(shape)
    _memory.views[factor, shape, dtype] = view
    return view
