"""Where LOTION's curvature g_ii comes from: the diagonal Fisher, estimated while training.

Both sources are in **true-Fisher units**: g_ii estimates E over examples of (d log p / dw_i)^2, the curvature
of the *mean* loss. Adam's second moment is not in these units: its gradient is a mean over n examples, so v
is about F_ii / n, and a penalty with g = v is n times too weak. `AdamSecondMoment` multiplies by n_eff;
`SampledFisher` needs no correction.

A source of your own is a subclass of `Curvature` with one method, `diagonal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dither.errors import UserError
from dither.nn.philox import random_bits

State = dict[str, Any]
_CHUNK = 1 << 22  # elements of the fp64 cumulative distributions held at a time


class Curvature:
    """The interface: `diagonal(name, weight)` gives g for one target weight, or None while nothing is known
    yet.
    """

    def bind(self, targets: Mapping[str, Tensor]) -> None:
        """Called once by the method with its targets; raise UserError where one cannot be served."""

    def diagonal(self, name: str, weight: Tensor) -> Tensor | None:
        """g_ii >= 0, the shape of `weight`; None counts as zero."""
        raise NotImplementedError

    def observe(self, step: int, logits: Callable[[], Tensor]) -> None:
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
        moment = second_moment(self.optimizer, weight, self.optimizer.param_groups[self._groups[name]])
        return None if moment is None else moment.mul_(self.n_eff)

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
    state = optimizer.state.get(weight)
    if not state:
        return None
    if "exp_avg_sq" not in state or "step" not in state or "betas" not in group:
        raise UserError(
            f"{type(optimizer).__name__} keeps no second moment (its state has {sorted(map(str, state))}); "
            "use Adam or AdamW, or curvature=SampledFisher(...)"
        )
    return state["exp_avg_sq"] / (1.0 - group["betas"][1] ** float(state["step"]))


class SampledFisher(Curvature):
    """The diagonal Fisher from labels drawn from the model's own softmax: one extra forward and backward
    every `every` steps.

    With labels y_n ~ p(. | x_n) drawn independently, the scores have mean zero given the inputs, so the
    square of the *summed* gradient divided by the number n of positions is an unbiased estimate of the
    diagonal, which for cross-entropy is also the Gauss-Newton diagonal (Martens, arXiv 1412.1193; the same
    estimator as Sophia's, arXiv 2305.14342). The labels of the data play no part. Estimates enter a
    bias-corrected moving average with weight 1 - `decay`.

    `seed`: the draws are addressed by (seed, step, position), so that a resumed run draws the same labels.
    """

    def __init__(self, *, every: int = 10, decay: float = 0.9, seed: int = 0) -> None:
        if every < 1:
            raise UserError(f"every must be at least 1, got {every}")
        if not 0.0 <= decay < 1.0:
            raise UserError(f"decay must lie in [0, 1), got {decay}")
        self.every, self.decay, self.seed = every, decay, seed
        self._targets: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._weight = 0.0

    def bind(self, targets: Mapping[str, Tensor]) -> None:
        self._targets = dict(targets)

    def observe(self, step: int, logits: Callable[[], Tensor]) -> None:
        """Every `every` steps: call `logits()` (shape [..., classes], with its graph; only positions that
        count) and update.
        """
        if step % self.every:
            return
        with torch.enable_grad():
            scores = logits()
            if scores.dim() < 2 or not scores.requires_grad:
                raise UserError(
                    "logits() must return a tensor [..., classes] that is connected to the model's weights"
                )
            scores = scores.flatten(0, -2)
            labels = sample_labels(scores.detach(), seed=self.seed, stream=step)
            total = F.cross_entropy(scores.float(), labels, reduction="sum")
        gradients = torch.autograd.grad(total, list(self._targets.values()), allow_unused=True)
        with torch.no_grad():
            for (name, weight), gradient in zip(self._targets.items(), gradients, strict=True):
                if gradient is None:
                    raise UserError(f"the logits do not depend on {name}; exempt it")
                estimate = gradient.float().square_().div_(scores.shape[0])
                if name not in self._average:
                    self._average[name] = torch.zeros_like(weight, dtype=torch.float32)
                self._average[name].lerp_(estimate, 1.0 - self.decay)
        self._weight = self.decay * self._weight + (1.0 - self.decay)

    def diagonal(self, name: str, weight: Tensor) -> Tensor | None:
        average = self._average.get(name)
        return None if average is None else average / self._weight

    def state_dict(self) -> State:
        return {
            "weight": self._weight,
            **{f"average.{name}": value.clone() for name, value in self._average.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        averages = {
            key.removeprefix("average."): value for key, value in state.items() if key.startswith("average.")
        }
        if averages and set(averages) != set(self._targets):
            odd = sorted(set(averages) ^ set(self._targets))
            raise UserError("the saved curvature is of other weights; they differ in: " + ", ".join(odd))
        self._weight = float(state["weight"])
        self._average = {
            name: value.to(device=self._targets[name].device, dtype=torch.float32).clone()
            for name, value in averages.items()
        }

    def __str__(self) -> str:
        return f"sampled-label Fisher every {self.every} steps, decay {self.decay:g}"


def sample_labels(logits: Tensor, *, seed: int, stream: int) -> Tensor:
    """One label per row of `logits` [n, classes], drawn from softmax(logits) by inversion; int64 of shape
    (n,).

    Row i uses the 32 addressed bits of element i under (seed, stream): the draw does not depend on the
    device, on threads, or on what was drawn before.
    """
    count, classes = logits.shape
    rng = torch.tensor([seed, stream], dtype=torch.int64, device=logits.device)
    uniform = (random_bits(count, 32, rng).to(torch.float64) + 0.5) / 2.0**32
    labels = torch.empty(count, dtype=torch.int64, device=logits.device)
    rows = max(1, _CHUNK // classes)
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        cumulative = logits[part].double().softmax(-1).cumsum(-1)
        threshold = uniform[part, None] * cumulative[:, -1:]
        labels[part] = (
            torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp_(max=classes - 1)
        )
    return labels
