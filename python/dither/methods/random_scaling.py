"""Random scaling (arXiv 2405.09742): momentum with steps of random length finds stationary points of losses
that are not smooth, as a loss of rounded weights.

    x <- x + s d,     s ~ Exp(1) anew in every step,     d: the step of the optimizer

With SGD and momentum this is the paper's random-scaled SGDM. It concerns all parameters; the forward is that
of QAT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dither.errors import UserError
from dither.methods.qat import Qat
from dither.nn.philox import random_bits
from dither.nn.streams import signed

_KEY = 0x45585045_4C454E47  # apart from the streams of the weights


class RandomScaling(Qat):
    """`seed`: of the lengths too, which are addressed by the step. Costs one copy of the parameters between
    the backward and the end of the step.
    """

    name = "random_scaling"
    _before: Sequence[tuple[Tensor, Tensor]] = ()

    @torch.no_grad()
    def adjust_grad_(self, step: int) -> None:
        self._before = [(p.detach(), p.detach().clone()) for p in self.model.parameters() if p.requires_grad]

    @torch.no_grad()
    def after_step_(self, step: int, lr: float) -> None:
        length = self.length(step)
        if not self._before:
            raise UserError(f"{self.label}: call adjust_grad_({step}) before the optimizer's step")
        for parameter, before in self._before:
            parameter.copy_(before + (parameter - before) * length)
        self._before = ()

    def length(self, step: int) -> float:
        """The factor of that step: -log(u), u uniform in (0, 1)."""
        rng = torch.tensor([signed((self.seed ^ _KEY) % (1 << 64)), step])
        return -math.log((float(random_bits(1, 32, rng)[0]) + 0.5) / 2**32)
