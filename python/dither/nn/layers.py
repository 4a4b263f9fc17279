"""Quantized counterparts of torch's layers, into which `prepare_` turns layers by changing their class.

A counterpart holds no state of its own in the state dict; besides the layer's parameters it has

    dither_prepared  what it is: its sites, the class it had, the plan it belongs to (see sites.Prepared)
    dither_operands, dither_rng, dither_history, ...
                     what the recipe needs to compute (see clock.py)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from dither.nn import clock
from dither.nn.factors import quantized
from dither.nn.history import remembered
from dither.nn.products import linear
from dither.nn.ready import FPROP_W, Operands
from dither.nn.streams import OPERANDS, ROWS

if TYPE_CHECKING:
    from dither.nn.sites import Prepared, Site

Part = tuple[Operands, Tensor | None, Tensor | None]
"""Operands, addresses and history of one product: what the functions of products.py take."""


class Quantized(nn.Module):
    """What all counterparts share."""

    parts: ClassVar[tuple[tuple[str, str], ...]]
    """(name, kind) of the products of the layer; a single one has no name of its own."""
    dither_prepared: Prepared
    dither_operands: tuple[Operands, ...]
    dither_rng: Tensor | None
    dither_history: Tensor | None

    @property
    def dither_site(self) -> Site:
        """The first of the layer's sites that is quantized; the first of all where none is."""
        sites = self.dither_prepared.sites
        return next((site for site in sites if site.is_quantized), sites[0])

    def part(self, number: int = 0) -> Part:
        """What the product of that number computes with."""
        rng, state = self.dither_rng, self.dither_history
        return (
            self.dither_operands[number],
            None if rng is None else rng[number * ROWS : (number + 1) * ROWS],
            None if state is None else state[number * len(OPERANDS) : (number + 1) * len(OPERANDS)],
        )

    def quantized_weight(self, weight: Tensor) -> Tensor:
        """The weight under fprop_w, in blocks along its last axis; its gradient is passed on unchanged."""
        operands, rng, state = self.part()
        scales = remembered(weight, operands, FPROP_W, state)
        return quantized(weight, operands.six[FPROP_W], -1, rng, FPROP_W, scales=scales)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        before = self.dither_history
        super()._apply(fn, recurse)
        clock.refresh_(self, before)
        return self

    def extra_repr(self) -> str:
        return ", ".join(filter(None, (super().extra_repr(), f"recipe={self.dither_site.recipe.name}")))


class QuantLinear(Quantized, nn.Linear):
    parts = (("", "linear"),)

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias, *self.part())


class QuantTransposedLinear(Quantized):
    """GPT-2's linear, whose weight is (K, N): blocks still run along K."""

    parts = (("", "linear"),)
    weight: Tensor
    bias: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.t(), self.bias, *self.part())


class QuantEmbedding(Quantized, nn.Embedding):
    parts = (("", "embedding"),)

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
    parts = (("", "norm"),)

    def forward(self, input: Tensor) -> Tensor:
        weight = self.quantized_weight(self.weight)
        return F.layer_norm(input, self.normalized_shape, weight, self.bias, self.eps)


class QuantRMSNorm(Quantized, nn.RMSNorm):
    parts = (("", "norm"),)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.quantized_weight(self.weight), self.eps)


class QuantGroupNorm(Quantized, nn.GroupNorm):
    parts = (("", "norm"),)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.quantized_weight(self.weight), self.bias, self.eps)
