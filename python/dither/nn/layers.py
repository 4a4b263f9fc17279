"""Quantized counterparts of torch's layers, into which `prepare_` turns layers by changing their class.

A counterpart holds no state of its own in the state dict; besides the layer's parameters it has

    dither_site      what it is: name, kind, recipe (see prepare.Site)
    dither_operands, dither_rng, dither_history
                     what the recipe needs to compute (see clock.py)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.nn.products import Operands, linear, product, quantized, remembered
from dither.nn.streams import OPERANDS, ROWS

if TYPE_CHECKING:
    from dither.nn.prepare import Site


class AttentionProducts(nn.Module):
    """Softmax attention between heads, a module so that a recipe can quantize its two products.

    q, k, v: (B, H, T, D); returns (B, H, T, D). Plain, it is F.scaled_dot_product_attention.
    """

    def forward(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, is_causal: bool = False) -> Tensor:
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=is_causal)


class Quantized(nn.Module):
    """What all counterparts share."""

    dither_site: Site
    dither_operands: Operands
    dither_rng: Tensor | None
    dither_history: Tensor | None

    def quantized_weight(self, weight: Tensor) -> Tensor:
        """The weight under fprop_w, in blocks along its last axis; its gradient is passed on unchanged."""
        row = OPERANDS.index("fprop_w")
        scales = remembered(weight, self.dither_operands, row, self.dither_history)
        return quantized(weight, self.dither_operands.six[row], -1, self.dither_rng, row, scales=scales)

    def extra_repr(self) -> str:
        return ", ".join(filter(None, (super().extra_repr(), f"recipe={self.dither_site.recipe.name}")))


class QuantLinear(Quantized, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return linear(
            input, self.weight, self.bias, self.dither_operands, self.dither_rng, self.dither_history
        )


class QuantEmbedding(Quantized, nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(
            input,
            self.quantized_weight(self.weight),
            self.padding_idx,
            None,
            2.0,
            self.scale_grad_by_freq,
            self.sparse,
        )


class QuantLayerNorm(Quantized, nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(
            input, self.normalized_shape, self.quantized_weight(self.weight), self.bias, self.eps
        )


class QuantRMSNorm(Quantized, nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.quantized_weight(self.weight), self.eps)


class QuantAttentionProducts(Quantized, AttentionProducts):
    """scores = q k^T, softmax in at least fp32, y = p v. In both products the second factor takes the
    weight's operands."""

    def forward(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, is_causal: bool = False) -> Tensor:
        rng, past = self.dither_rng, self.dither_history
        first, second = (None, None) if rng is None else (rng[:ROWS], rng[ROWS:])
        past_1, past_2 = (None, None) if past is None else (past[: len(OPERANDS)], past[len(OPERANDS) :])
        scores_BHTS = product(q_BHTD, k_BHTD, True, self.dither_operands, first, past_1) * (
            1 / math.sqrt(q_BHTD.shape[-1])
        )
        if is_causal:
            shape = scores_BHTS.shape[-2:]
            future = torch.ones(shape, dtype=torch.bool, device=scores_BHTS.device).triu(1)
            scores_BHTS = scores_BHTS.masked_fill(future, -math.inf)
        wide = torch.float64 if scores_BHTS.dtype == torch.float64 else torch.float32
        p_BHTS = torch.softmax(scores_BHTS, dim=-1, dtype=wide).to(v_BHTD.dtype)
        return product(p_BHTS, v_BHTD, False, self.dither_operands, second, past_2)


COUNTERPARTS: dict[type[nn.Module], tuple[str, type[Quantized]]] = {
    nn.Linear: ("linear", QuantLinear),
    nn.Embedding: ("embedding", QuantEmbedding),
    nn.LayerNorm: ("norm", QuantLayerNorm),
    nn.RMSNorm: ("norm", QuantRMSNorm),
    AttentionProducts: ("attention", QuantAttentionProducts),
}
"""Plain layer -> (kind, counterpart)."""

_made: dict[type[nn.Module], type[Any]] = {}


def plain_base(module: nn.Module) -> type[nn.Module] | None:
    """The layer of COUNTERPARTS whose own forward `module` runs, or None."""
    for base in COUNTERPARTS:
        if isinstance(module, base) and type(module).forward is base.forward:
            return base
    return None


def counterpart(module: nn.Module, base: type[nn.Module]) -> type[nn.Module]:
    """The class that `module` gets: the counterpart of `base`, mixed into a subclass if it is one."""
    quantized_class = COUNTERPARTS[base][1]
    own = type(module)
    if own is base:
        return quantized_class
    if own not in _made:
        _made[own] = type(f"Quant{own.__name__}", (quantized_class, own), {"__module__": own.__module__})
    return _made[own]
