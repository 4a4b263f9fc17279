"""Q-Ramping (TetraJet, arXiv 2502.20853): weights that flip between points of the grid move more rarely, and
then further.

For `probe` steps the way of every weight and of its point are summed, R = sum|dQ(w)| / sum|dw|. A weight far
from all thresholds has a small R, one that oscillates a large one. Until the next probe it moves every

    N = min(5 floor(R / 16) + 1, most)

steps, by all that the optimizer moved it in between: with SGD that is the paper's step along the accumulated
gradient at N times the rate. (Other optimizers go on averaging the gradient of every step.) The forward is
that of QAT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.base import of_state
from dither.methods.forward import rounded
from dither.methods.qat import Qat
from dither.methods.targets import Target
from dither.quantizer import Quantizer

_R, _N = 16.0, 5.0  # the paper's constants


class Qramping(Qat):
    """`probe`: steps of a measurement (the paper's 30), made at the start of every `every` steps. `most`: the
    longest period. Costs four copies of the target weights.
    """

    name = "qramping"
    trains = True

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        probe: int = 30,
        every: int = 300,
        most: int = 16,
        **options: Any,
    ) -> None:
        if not 1 <= probe < every or most < 1:
            raise UserError(f"Q-Ramping needs 1 <= probe < every and most >= 1, got {probe}, {every}, {most}")
        self.probe, self.every, self.most = probe, every, most
        super().__init__(model, quantizer, **options)
        self._before: dict[str, Tensor] = {}
        self.ways = {
            target.name: {
                part: torch.zeros_like(target.weight, requires_grad=False)
                for part in ("points", "weights", "waiting")
            }
            | {"period": torch.ones_like(target.weight, requires_grad=False)}
            for target in self.found
        }

    @torch.no_grad()
    def adjust_grad_(self, step: int) -> None:
        self._before = {target.name: target.weight.detach().clone() for target in self.found}

    @torch.no_grad()
    def after_step_(self, step: int, lr: float) -> None:
        if not self._before:
            raise UserError(f"{self.label}: call adjust_grad_({step}) before the optimizer's step")
        for target in self.found:
            before = self._before.pop(target.name)
            if step % self.every < self.probe:
                self._measure(target, before, step % self.every)
            else:
                self._move(target, before, step)

    def _measure(self, target: Target, before: Tensor, phase: int) -> None:
        way, weight = self.ways[target.name], target.weight.detach()
        if phase == 0:
            way["points"].zero_()
            way["weights"].zero_()
        old, new = (rounded(self, target, w, self.quantizer) for w in (before, weight))
        way["points"].add_((new - old).abs())
        way["weights"].add_((weight - before).abs())
        weight.add_(way["waiting"])
        way["waiting"].zero_()
        if phase == self.probe - 1:
            ratio = way["points"] / way["weights"].clamp_min(torch.finfo(weight.dtype).tiny)
            way["period"] = (_N * (ratio / _R).floor() + 1.0).clamp_max(self.most)

    def _move(self, target: Target, before: Tensor, step: int) -> None:
        way, weight = self.ways[target.name], target.weight.detach()
        way["waiting"].add_(weight - before)
        due = torch.remainder(torch.full_like(weight, step + 1), way["period"]) == 0
        weight.copy_(before + torch.where(due, way["waiting"], 0.0))
        way["waiting"].masked_fill_(due, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            f"{part}.{name}": value.clone() for name, way in self.ways.items() for part, value in way.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name, way in self.ways.items():
            self.ways[name] = {key: of_state(state, f"{key}.{name}").clone() for key in way}
