"""Curvatures that passes of their own estimate: the Fisher from sampled labels, the empirical Fisher, and the
Hessian's diagonal by Hutchinson.

Each takes one extra forward and backward (Hutchinson: a second backward) every `every` steps; estimates enter
a bias-corrected moving average with weight 1 - `decay`. Draws are addressed by (seed, step, position), so
that a resumed run draws alike and no global random state is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dither.errors import UserError
from dither.methods.curvature import Curvature, State
from dither.nn.philox import random_bits

_CHUNK = 1 << 22  # elements of the fp64 cumulative distributions held at a time


class Estimated(Curvature):
    """What the three share: when to look, the average, and its state. A subclass has `estimates`."""

    what: str

    def __init__(self, *, every: int = 10, decay: float = 0.9, seed: int = 0) -> None:
        if every < 1:
            raise UserError(f"every must be at least 1, got {every}")
        if not 0.0 <= decay < 1.0:
            raise UserError(f"decay must lie in [0, 1), got {decay}")
        self.every, self.decay, self.seed = every, decay, seed
        self._targets: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._weight = 0.0

    def estimates(self, step: int, scores: Tensor, labels: Tensor | None) -> Sequence[Tensor]:
        """One estimate of g for each target, in their order; `scores` [positions, classes] with its graph."""
        raise NotImplementedError

    def bind(self, targets: Mapping[str, Tensor]) -> None:
        self._targets = dict(targets)

    def observe(self, step: int, logits: Callable[[], Tensor], labels: Tensor | None = None) -> None:
        """Every `every` steps: call `logits()` (shape [..., classes], with its graph; only positions that
        count) and update. `labels`: those of the data, one a position.
        """
        if step % self.every:
            return
        with torch.enable_grad():
            scores = logits()
            if scores.dim() < 2 or not scores.requires_grad:
                raise UserError(
                    "logits() must return a tensor [..., classes] that is connected to the model's weights"
                )
            estimates = self.estimates(step, scores.flatten(0, -2).float(), labels)
        for name, estimate in zip(self._targets, estimates, strict=True):
            if not torch.isfinite(estimate).all():
                raise UserError(
                    f"step {step}: the {self.what} of {name} is NaN or infinite, and would stay in its "
                    "average; leave the batch out of observe(), or look for where the model overflows"
                )
        with torch.no_grad():
            for (name, weight), estimate in zip(self._targets.items(), estimates, strict=True):
                if name not in self._average:
                    self._average[name] = torch.zeros_like(weight, dtype=torch.float32)
                self._average[name].lerp_(estimate, 1.0 - self.decay)
        self._weight = self.decay * self._weight + (1.0 - self.decay)

    def gradients(self, value: Tensor, create_graph: bool = False) -> list[Tensor]:
        """d value / d target for every target; UserError where one does not take part."""
        found = torch.autograd.grad(
            value, list(self._targets.values()), allow_unused=True, create_graph=create_graph
        )
        for name, gradient in zip(self._targets, found, strict=True):
            if gradient is None:
                raise UserError(f"the logits do not depend on {name}; exempt it")
        return list(found)

    def squares(self, summed: Tensor, count: int) -> list[Tensor]:
        """(d summed / dw)^2 / count."""
        return [g.float().square_().div_(count) for g in self.gradients(summed)]

    def diagonal(self, name: str, weight: Tensor) -> Tensor | None:
        found = self.scaled(name, weight)
        return None if found is None else found[0] * found[1]

    def scaled(self, name: str, weight: Tensor) -> tuple[Tensor, float] | None:
        average = self._average.get(name)
        return None if average is None else (average, 1.0 / self._weight)

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
        return f"{self.what} every {self.every} steps, decay {self.decay:g}"


class SampledFisher(Estimated):
    """The diagonal Fisher from labels drawn from the model's own softmax.

    With labels y_n ~ p(. | x_n) drawn independently, the scores have mean zero given the inputs, so the
    square of the *summed* gradient divided by the number n of positions is an unbiased estimate of the
    diagonal, which for cross-entropy is also the Gauss-Newton diagonal (Martens, arXiv 1412.1193; the same
    estimator as Sophia's, arXiv 2305.14342). The labels of the data play no part.
    """

    what = "sampled-label Fisher"

    def estimates(self, step: int, scores: Tensor, labels: Tensor | None) -> Sequence[Tensor]:
        drawn = sample_labels(scores.detach(), seed=self.seed, stream=step)
        return self.squares(F.cross_entropy(scores, drawn, reduction="sum"), scores.shape[0])


class EmpiricalFisher(Estimated):
    """The empirical Fisher 1/n sum_n (d log p(y_n | x_n) / dw)^2, with the labels of the data.

    The gradient of sum_n r_n log p(y_n | x_n) with independent random signs r_n has exactly this expectation
    when squared: products of different positions cancel. Unlike the square of the mean gradient (Adam's v) it
    holds no systematic part. (It is not the Fisher: arXiv 1905.12558. Far from a fit it is larger.)
    """

    what = "empirical Fisher"

    def estimates(self, step: int, scores: Tensor, labels: Tensor | None) -> Sequence[Tensor]:
        losses = F.cross_entropy(scores, _needed(labels, scores, self.what), reduction="none")
        signs = random_signs(losses.shape[0], seed=self.seed, stream=step, device=losses.device)
        return self.squares((losses * signs).sum(), scores.shape[0])


class Hutchinson(Estimated):
    """The diagonal of the Hessian of the mean loss: z * (H z) with random signs z has this expectation
    (Hutchinson; used for optimizers in AdaHessian, arXiv 2006.00719).

    The model must be plain: a recipe's products can be differentiated once, and `Lotion` refuses them.
    Negative estimates of the average count as zero, since a penalty with g < 0 has no minimum on the grid.
    """

    what = "Hutchinson's Hessian diagonal"
    differentiates_twice = True

    def observe(self, step: int, logits: Callable[[], Tensor], labels: Tensor | None = None) -> None:
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels have no second derivative
            super().observe(step, logits, labels)

    def estimates(self, step: int, scores: Tensor, labels: Tensor | None) -> Sequence[Tensor]:
        loss = F.cross_entropy(scores, _needed(labels, scores, self.what))
        first = self.gradients(loss, create_graph=True)
        signs = [
            random_signs(g.numel(), seed=self.seed, stream=step * len(first) + i, device=g.device)
            .view_as(g)
            .to(g.dtype)
            for i, g in enumerate(first)
        ]
        product = torch.stack([(g * z).sum() for g, z in zip(first, signs, strict=True)]).sum()
        return [(h * z).float() for h, z in zip(self.gradients(product), signs, strict=True)]

    def diagonal(self, name: str, weight: Tensor) -> Tensor | None:
        found = super().diagonal(name, weight)
        return None if found is None else found.clamp_(min=0.0)

    def scaled(self, name: str, weight: Tensor) -> tuple[Tensor, float] | None:
        found = super().scaled(name, weight)
        return None if found is None else (found[0].clamp(min=0.0), found[1])


def _needed(labels: Tensor | None, scores: Tensor, what: str) -> Tensor:
    if labels is None:
        raise UserError(f"the {what} needs the labels of the data: method.observe(step, logits, labels)")
    if labels.numel() != scores.shape[0]:
        raise UserError(f"{labels.numel()} labels for {scores.shape[0]} positions of the logits")
    return labels.flatten()


def random_signs(count: int, *, seed: int, stream: int, device: torch.device) -> Tensor:
    """`count` numbers +1 or -1 from the addressed bits of a stream."""
    rng = torch.tensor([seed, stream], dtype=torch.int64, device=device)
    return 1.0 - 2.0 * random_bits(count, 1, rng).to(torch.float32)


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
