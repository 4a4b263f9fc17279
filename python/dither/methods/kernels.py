"""Custom ops of the methods: how torch calls and traces the Rust kernels on CPU tensors.

The torch expressions that say the same stand beside their use (`dither.methods.noise`); they serve other
devices, fp64, and quantizers that a kernel does not take.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from dither import arrays
from dither.nn.fresh import empty
from dither.nn.kernels import buffer, is_aligned, parse, source, spec_of
from dither.quantizer import Quantizer

_LIBRARY = torch.library.Library("dither", "FRAGMENT")
for _schema in (
    "lotion(Tensor w, Tensor g, str q, bool scale_grad) -> (Tensor, Tensor)",
    "lotion_add_(Tensor(a!) out, Tensor w, Tensor g, str q, bool scale_grad, float factor) -> Tensor",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

_takes = lru_cache(maxsize=256)(arrays.lotion_takes)


def takes(quantizer: Quantizer, *tensors: Tensor) -> bool:
    """Whether the LOTION ops serve these tensors under this quantizer."""
    return all(t.is_cpu and t.dtype == torch.float32 for t in tensors) and _takes(quantizer)


def lotion(w: Tensor, g: Tensor, quantizer: Quantizer, scale_grad: bool) -> tuple[Tensor, Tensor]:
    """(R, dR/dw) of `dither.methods.noise`."""
    return torch.ops.dither.lotion.default(w, g, spec_of(quantizer), scale_grad)


def lotion_add_(
    out: Tensor, w: Tensor, g: Tensor, quantizer: Quantizer, scale_grad: bool, factor: float
) -> Tensor:
    """Add factor dR/dw to the contiguous `out`, in the pass that computes it; returns R."""
    return torch.ops.dither.lotion_add_.default(out, w, g, spec_of(quantizer), scale_grad, factor)


def adds_to(out: Tensor) -> bool:
    """Whether `lotion_add_` can write to `out`."""
    return out.is_contiguous() and is_aligned(out)


def _run(out: Tensor, w: Tensor, g: Tensor, q: str, scale_grad: bool, factor: float, add: bool) -> Tensor:
    value = 0.0
    if w.numel():
        value = arrays.run_lotion(
            parse(q), source(w), source(g), buffer(out), factor, add=add, through_scale=scale_grad
        )
    return torch.tensor(value, dtype=torch.float32)


@torch.library.impl(_LIBRARY, "lotion", "CPU")
def _lotion(w: Tensor, g: Tensor, q: str, scale_grad: bool) -> tuple[Tensor, Tensor]:
    out = empty(w.shape, torch.float32)
    return _run(out, w, g, q, scale_grad, 1.0, add=False), out


@torch.library.register_fake("dither::lotion", lib=_LIBRARY)
def _(w, g, q, scale_grad):
    return w.new_empty(()), w.new_empty(w.shape)


@torch.library.impl(_LIBRARY, "lotion_add_", "CPU")
def _lotion_add(out: Tensor, w: Tensor, g: Tensor, q: str, scale_grad: bool, factor: float) -> Tensor:
    return _run(out, w, g, q, scale_grad, factor, add=True)


@torch.library.register_fake("dither::lotion_add_", lib=_LIBRARY)
def _(out, w, g, q, scale_grad, factor):
    return w.new_empty(())
