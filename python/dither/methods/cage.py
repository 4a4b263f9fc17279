"""CAGE (arXiv 2510.18784): quantization-aware training with a pull towards the grid, so that it settles where
no better trade between loss and rounding error exists:

    grad f(Q(w)) = lam (Q(w) - w)

The forward is that of QAT. "decoupled" moves the weights after the optimizer, w <- w - lr lam_t (w - Q(w));
"coupled" adds lam_t (w - Q(w)) to the gradient. In the paper lam_t is 0 for the first 80% of the steps and
then rises linearly to 10: `lam=Ramp(10.0, steps, silent=0.8)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError, suggest
from dither.methods.forward import rounded
from dither.methods.qat import Qat
from dither.methods.ramp import lam_at
from dither.methods.targets import Target
from dither.quantizer import Quantizer

MODES = ("decoupled", "coupled")


class Cage(Qat):
    """`lam`: a number, or a function of the step such as `Ramp`. `mode`: "decoupled" or "coupled". Other
    options as for `Qat`. A step must satisfy lr lam < 1, or the decoupled pull overshoots the grid.
    """

    name = "cage"
    trains = True

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        lam: float | Callable[[int], float] = 10.0,
        mode: str = "decoupled",
        **options: Any,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}{suggest(mode, MODES)}; known: {', '.join(MODES)}")
        lam_at(lam, 0)
        self.lam, self.mode = lam, mode
        super().__init__(model, quantizer, **options)

    @torch.no_grad()
    def adjust_grad_(self, step: int) -> None:
        if self.mode == "coupled":
            for target, pull in self._pulls(step):
                weight = target.weight
                weight.grad = pull if weight.grad is None else weight.grad.add_(pull)

    @torch.no_grad()
    def after_step_(self, step: int, lr: float) -> None:
        if self.mode == "decoupled":
            for target, pull in self._pulls(step):
                target.weight.sub_(pull, alpha=lr)

    def _pulls(self, step: int) -> list[tuple[Target, Tensor]]:
        """lam (w - Q(w)) of every target; their potential goes to the records."""
        lam = lam_at(self.lam, step)
        self.last_penalty = 0.0
        pulls = []
        for target in self.found if lam > 0.0 else ():
            distance = target.weight.detach() - rounded(self, target, target.weight.detach(), self.quantizer)
            self.last_penalty += 0.5 * lam * float(distance.square().sum())
            pulls.append((target, distance.mul_(lam)))
        return pulls
