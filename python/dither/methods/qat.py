"""Quantization-aware training: the forward sees round-to-nearest weights, the backward does not
(straight-through, arXiv 1308.3432).
"""

from __future__ import annotations

from torch import Tensor

from dither.methods.forward import Forward, rounded
from dither.methods.targets import Target


class Qat(Forward):
    """Fake-quantized target weights (and, with `activations`, inputs) in forward and backward products; the
    gradient passes to the full-precision weight.

    The quantizers are used as they are given. `seed` matters to stochastic ones only.
    """

    name = "qat"

    def weight(self, target: Target, w: Tensor) -> Tensor:
        return rounded(self, target, w, self.quantizer)
