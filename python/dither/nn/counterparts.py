"""Which class a module gets when it is prepared."""

from __future__ import annotations

from typing import Any

from torch import nn

from dither.nn import convolutions as conv
from dither.nn.attention import (
    AttentionProducts,
    QuantAttentionOf,
    QuantAttentionProducts,
    QuantMultiheadAttention,
)
from dither.nn.experts import GroupedLinear, MatrixProduct, QuantGroupedLinear, QuantMatrixProduct
from dither.nn.layers import (
    QuantEmbedding,
    QuantGroupNorm,
    Quantized,
    QuantLayerNorm,
    QuantLinear,
    QuantRMSNorm,
    QuantTransposedLinear,
)
from dither.nn.optin import QuantNormOf, QuantOutputOf, QuantResidualOf

COUNTERPARTS: dict[type[nn.Module], type[Quantized]] = {
    nn.Linear: QuantLinear,
    nn.Conv1d: conv.QuantConv1d,
    nn.Conv2d: conv.QuantConv2d,
    nn.Conv3d: conv.QuantConv3d,
    nn.ConvTranspose1d: conv.QuantConvTranspose1d,
    nn.ConvTranspose2d: conv.QuantConvTranspose2d,
    nn.ConvTranspose3d: conv.QuantConvTranspose3d,
    GroupedLinear: QuantGroupedLinear,
    nn.Embedding: QuantEmbedding,
    nn.LayerNorm: QuantLayerNorm,
    nn.RMSNorm: QuantRMSNorm,
    nn.GroupNorm: QuantGroupNorm,
    AttentionProducts: QuantAttentionProducts,
    nn.MultiheadAttention: QuantMultiheadAttention,
    MatrixProduct: QuantMatrixProduct,
}
"""Layer -> counterpart, for layers that run this very forward (subclasses too)."""

OPT_IN: dict[str, type[Quantized]] = {
    "norm": QuantNormOf,
    "attention": QuantAttentionOf,
    "output": QuantOutputOf,
    "residual": QuantResidualOf,
}
"""Kind -> class mixed into a module of any class."""

_made: dict[tuple[type[Quantized], type[nn.Module]], type[Any]] = {}


def known(module: nn.Module) -> type[Quantized] | None:
    """The counterpart of a plain module of a known layer, else None."""
    for base, quantized in COUNTERPARTS.items():
        if isinstance(module, base) and type(module).forward is base.forward:
            return quantized
    return QuantTransposedLinear if is_transposed_linear(module) else None


def is_transposed_linear(module: nn.Module) -> bool:
    """GPT-2's `Conv1D`, of transformers or written after it: y = x W + b with W of (inputs, outputs)."""
    weight = module._parameters.get("weight")
    return (
        any(base.__name__ == "Conv1D" for base in type(module).__mro__)
        and weight is not None
        and weight.dim() == 2
        and getattr(module, "nf", None) == weight.shape[1]
    )


def mixed(quantized: type[Quantized], own: type[nn.Module]) -> type[nn.Module]:
    """The class that a module of class `own` gets: the counterpart, mixed into `own` unless it is the layer
    itself."""
    if COUNTERPARTS.get(own) is quantized:
        return quantized
    if (quantized, own) not in _made:
        _made[quantized, own] = type(f"Quant{own.__name__}", (quantized, own), {"__module__": own.__module__})
    return _made[quantized, own]
