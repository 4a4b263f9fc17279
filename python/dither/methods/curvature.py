"""Where LOTION's curvature g_ii comes from: the interface, and Adam's second moment.

All sources are in units of the curvature of the *mean* loss, in which the Fisher is E over examples of
(d log p / dw_i)^2. Adam's second moment is not in these units: its gradient is a mean over n examples, so v
is about F_ii / n, and a penalty with g = v is n times too weak. `AdamSecondMoment` multiplies by n_eff; the
estimators of `dither.methods.fisher` need no correction.

A source of your own is a subclass of `Curvature` with one method, `diagonal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dither.errors import UserError

State = dict[str, Any]


class Curvature:
    """The interface: `diagonal(name, weight)` gives g for one target weight, or None while nothing is known
    yet.
    """

    differentiates_twice: ClassVar[bool] = False
    """Whether `observe` needs second derivatives of the model."""

    def bind(self, targets: Mapping[str, Tensor]) -> None:
        """Called once by the method with its targets; raise UserError where one cannot be served."""

    def diagonal(self, name: str, weight: Tensor) -> Tensor | None:
        """g_ii >= 0, the shape of `weight`; None counts as zero."""
        raise NotImplementedError

    def scaled(self, name: str, weight: Tensor) -> tuple[Tensor, float] | None:
        """(a tensor, a factor) whose product is `diagonal`, where that saves a copy of the weight's size."""
        diagonal = self.diagonal(name, weight)
        return None if diagonal is None else (diagonal, 1.0)

    def observe(self, step: int, logits: Callable[[], Tensor], labels: Tensor | None = None) -> None:
        """Called by the loop each step; a source that needs passes of its own calls `logits()`."""

    def state_dict(self) -> State:
        """Flat: tensors, ints, floats and strings under string keys."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class AdamSecondMoment(Curvature):
    """g = n_eff * v / (1 - beta2^t): Adam's bias-corrected second moment in true-Fisher units; costs
    nothing.

    `optimizer`: Adam, AdamW, or any whose state holds `exp_avg_sq` and `step`. `n_eff`: examples (for a
    language model: tokens) averaged in one optimizer step's gradient, over all microbatches and ranks. Before
    a weight's first step g is zero.

    v is the mean square of whatever gradient the optimizer sees, F_ii/n plus the square of the mean gradient,
    so n_eff v is close to F where the noise dominates and too large where it does not. Clipping scales it by
    the square of the clip factor. In the modes "loss" and "grad" the penalty's own gradient enters v, hence
    g: where 1/2 lam n_eff s sqrt(v) exceeds about 1 (s: the scale) that feedback grows; "decoupled" has none.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, n_eff: float) -> None:
        if not n_eff > 0:
            raise UserError(
                f"n_eff must be the number of examples (tokens) in one step's gradient, got {n_eff}"
            )
        self.optimizer = optimizer
        self.n_eff = float(n_eff)
        self._groups: dict[str, int] = {}

    def bind(self, targets: Mapping[str, Tensor]) -> None:
        self._groups = group_numbers(self.optimizer, targets)

    def diagonal(self, name: str, weight: Tensor) -> Tensor | None:
        found = self.scaled(name, weight)
        return None if found is None else found[0] * found[1]

    def scaled(self, name: str, weight: Tensor) -> tuple[Tensor, float] | None:
        found = moment_and_bias(self.optimizer, weight, self.optimizer.param_groups[self._groups[name]])
        return None if found is None else (found[0], self.n_eff / found[1])

    def __str__(self) -> str:
        return f"{type(self.optimizer).__name__} second moment x {self.n_eff:g}"


def group_numbers(optimizer: torch.optim.Optimizer, targets: Mapping[str, Tensor]) -> dict[str, int]:
    """Which parameter group of `optimizer` each target is in; UserError where one is in none.

    Numbers, because `load_state_dict` replaces the groups themselves.
    """
    number = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    missing = [name for name, weight in targets.items() if id(weight) not in number]
    if missing:
        raise UserError(
            f"these weights are not in the {type(optimizer).__name__}: {', '.join(missing)}; "
            "add them to it or exempt them"
        )
    return {name: number[id(weight)] for name, weight in targets.items()}


def second_moment(
    optimizer: torch.optim.Optimizer, weight: Tensor, group: Mapping[str, Any]
) -> Tensor | None:
    """Adam's v / (1 - beta2^t) of one weight, a new tensor; None before its first step. UserError for an
    optimizer without one.
    """
    found = moment_and_bias(optimizer, weight, group)
    return None if found is None else found[0] / found[1]


def moment_and_bias(
    optimizer: torch.optim.Optimizer, weight: Tensor, group: Mapping[str, Any]
) -> tuple[Tensor, float] | None:
    """Adam's own v of one weight, and 1 - beta2^t; None and UserError as for `second_moment`."""
    state = optimizer.state.get(weight)
    if not state:
        return None
    if "exp_avg_sq" not in state or "step" not in state or "betas" not in group:
        raise UserError(
            f"{type(optimizer).__name__} keeps no second moment (its state has {sorted(map(str, state))}); "
            "use Adam or AdamW, or curvature=SampledFisher(...)"
        )
    return state["exp_avg_sq"], 1.0 - group["betas"][1] ** float(state["step"])
