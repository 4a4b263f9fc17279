"""ECO (arXiv 2601.22101): training without master weights. The parameters lie on the grid all the time; what
rounding takes from a step is put into the optimizer's momentum, whose later steps bring it back:

    w~ = w - lr m,    w' = Q(w~),    e = w~ - w',    m <- m + (1/lr) (1 - 1/beta) e

for SGD, with e (sqrt(v^) + eps) in place of e for Adam. The later steps along what was put in sum up to e;
where e is like that of the step before, the next step makes up for all of it. The paper combines this with
stochastic rounding. Memory: nothing beside the optimizer's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.base import Method
from dither.methods.curvature import group_numbers, second_moment
from dither.methods.forward import rounded
from dither.methods.targets import Target
from dither.quantizer import Quantizer


class Eco(Method):
    """`optimizer`: SGD with momentum, Adam or AdamW, with the target weights in it; they are rounded at once.
    A stochastic quantizer draws anew at every step; `seed`: of its bits.
    """

    name = "eco"
    trains = True

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        optimizer: torch.optim.Optimizer,
        seed: int = 0,
        **options: Any,
    ) -> None:
        self.optimizer, self.seed, self.step, self.microbatch = optimizer, seed, 0, 0
        super().__init__(model, quantizer, **options)
        self._groups = group_numbers(optimizer, self.targets)
        for number in set(self._groups.values()):
            _momentum(optimizer, optimizer.param_groups[number])
        with torch.no_grad():
            for target in self.found:
                target.weight.copy_(rounded(self, target, target.weight.detach(), self.quantizer))

    def set_step(self, step: int, microbatch: int = 0) -> None:
        self.step = step

    @torch.no_grad()
    def after_step_(self, step: int, lr: float) -> None:
        for target in self.found:
            group = self.optimizer.param_groups[self._groups[target.name]]
            if not group["lr"] > 0:
                continue  # nothing has moved
            weight = target.weight.detach()
            point = rounded(self, target, weight, self.quantizer)
            self._return(target, weight - point, group)
            weight.copy_(point)

    def _return(self, target: Target, error: Tensor, group: dict[str, Any]) -> None:
        """Put what was lost into the momentum."""
        beta = _momentum(self.optimizer, group)
        state = self.optimizer.state.get(target.weight, {})
        moment = state.get("exp_avg", state.get("momentum_buffer"))
        if moment is None:
            return  # no step was taken for this weight yet
        if "exp_avg" in state:
            v = second_moment(self.optimizer, target.weight, group)
            assert v is not None
            error = error * v.sqrt_().add_(group["eps"])
        moment.add_(error, alpha=(1.0 - 1.0 / beta) / float(group["lr"]))


def _momentum(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> float:
    """beta of a group; UserError for an optimizer without plain momentum."""
    beta = group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
    plain = not group.get("nesterov") and not group.get("dampening")
    if not (beta > 0 and plain and not group.get("maximize")):
        raise UserError(
            "ECO returns what rounding takes through the momentum: it needs Adam, AdamW or SGD(momentum=...) "
            f"without nesterov, dampening or maximize, not this {type(optimizer).__name__}"
        )
    return float(beta)
