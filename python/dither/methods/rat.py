"""Randomized-rounding-aware training: the forward sees stochastically rounded weights, the backward is
straight-through.

For a quadratic loss E[grad L(RR(w))] = grad L(w): the expected step is that of plain training, plus noise.
Sampling with a straight-through backward drops the derivative of the rounding's distribution, which is what
LOTION's penalty adds.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dither.methods.casting import randomized
from dither.methods.qat import Qat
from dither.quantizer import Quantizer


class Rat(Qat):
    """Unbiased random rounding of the target weights, drawn anew for every step and microbatch from addressed
    bits.

    A quantizer that is not stochastic is made so, with 16 random bits per weight; options as for `Qat`.
    UserError where it clips.
    """

    name = "rat"
    needs_unbiased = True

    def __init__(self, model: nn.Module, quantizer: Quantizer | str, **options: Any) -> None:
        super().__init__(model, randomized(quantizer), **options)
