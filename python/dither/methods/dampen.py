"""Oscillation dampening (arXiv 2203.11086): a weight whose gradient changes sign at a threshold of the grid
flips to and fro for ever. A term in the loss pulls every weight to the point that it is rounded to:

    1/2 lam |w - Q(w)|^2,      Q(w) held fixed

The forward is that of QAT. The paper lets lam rise along a cosine: `lam=CosineRamp(...)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dither.methods.forward import rounded
from dither.methods.qat import Qat
from dither.methods.ramp import lam_at
from dither.quantizer import Quantizer


class Dampen(Qat):
    """`lam`: a number, or a function of the step such as `CosineRamp`. Other options as for `Qat`."""

    name = "dampen"
    trains = True

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        lam: float | Callable[[int], float] = 1e-2,
        **options: Any,
    ) -> None:
        lam_at(lam, 0)
        self.lam = lam
        super().__init__(model, quantizer, **options)

    def penalty(self, step: int) -> Tensor:
        lam, total = lam_at(self.lam, step), super().penalty(step)
        for target in self.found if lam > 0.0 else ():
            point = rounded(self, target, target.weight.detach(), self.quantizer)
            total = total + 0.5 * lam * (target.weight - point).square().sum()
        self.last_penalty = float(total.detach())
        return total
