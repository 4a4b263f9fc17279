"""Quantization-aware training: the forward sees round-to-nearest weights, the backward does not
(straight-through).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from dither import nn as dnn
from dither.methods.base import Method
from dither.quantizer import Quantizer


class Qat(Method):
    """Fake-quantized target weights in forward and backward products; the gradient passes to the
    full-precision weight.

    The quantizer is used as it is given. `seed` matters to a stochastic one only.
    """

    name = "qat"

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        seed: int = 0,
        sites: Sequence[str] = ("linear",),
        exempt: Sequence[str] = (),
    ) -> None:
        self.seed = seed
        super().__init__(model, quantizer, sites=sites, exempt=exempt)

    def attach(self) -> None:
        recipe = dnn.Recipe.weights(self.quantizer).replace(sites=self.sites)
        dnn.prepare_(self.model, recipe, exempt=self.exempt, seed=self.seed)

    def detach(self) -> None:
        dnn.restore_(self.model)

    def set_step(self, step: int, microbatch: int = 0) -> None:
        dnn.set_clock_(self.model, step, microbatch)
