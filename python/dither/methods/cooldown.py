"""Cooldown and QAT in one (Compute-Optimal QAT, arXiv 2509.22935): train plainly at the peak of a WSD
schedule, start QAT there, and let the learning rate fall within it, with no cooldown in full precision.

    S = tokens / (parameters bits / 8)          tokens per byte of weights
    part of the tokens for QAT = exp(-6.7297 / ln S)                (mean absolute error 0.091 in their fit)

The paper finds it better than QAT after a cooldown at 4 and 6 bits, and not at 1 and 2.

    plan = fused_cooldown(steps, tokens=tokens, parameters=n, bits=4)
    method = Qat(model, "int4_g32", start=plan.start)
    lr = plan.lr(step, peak=3e-3)               # or train.schedule = "wsd" with train.decay = plan.part
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dither.errors import UserError

_SLOPE = 6.7297


def qat_part(tokens: float, parameters: float, bits: float) -> float:
    """The part of all training tokens that QAT should get; UserError below about one token a byte, where the
    fit says nothing."""
    if not (tokens > 0 and parameters > 0 and bits > 0):
        raise UserError(f"tokens, parameters and bits are positive, not {tokens}, {parameters}, {bits}")
    ratio = tokens / (parameters * bits / 8.0)
    if ratio <= 1.0:
        raise UserError(f"{ratio:.3g} tokens per byte of weights: the formula needs more than one")
    return math.exp(-_SLOPE / math.log(ratio))


@dataclass(frozen=True)
class FusedCooldown:
    """`steps` of a run of which the last `part` is QAT and cooldown at once, after `warmup` steps of linear
    warm-up; the learning rate falls linearly to `final` of its peak."""

    steps: int
    part: float
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.part <= 1 or not 0 <= self.final <= 1:
            raise UserError(
                f"steps >= 1, 0 < part <= 1, 0 <= final <= 1, not {self.steps}, {self.part}, {self.final}"
            )
        if not 0 <= self.warmup <= self.start:
            raise UserError(f"warmup must end before QAT starts at step {self.start}, not at {self.warmup}")

    @property
    def start(self) -> int:
        """The first step of QAT, at the peak of the learning rate."""
        return self.steps - max(1, round(self.part * self.steps))

    def lr(self, step: int, peak: float) -> float:
        """The learning rate of optimizer step `step` (from 0)."""
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        down = min(1.0, max(0.0, (step - self.start) / max(1, self.steps - 1 - self.start)))
        return peak * (1.0 + (self.final - 1.0) * down)


def fused_cooldown(
    steps: int, *, tokens: float, parameters: float, bits: float, warmup: int = 0, final: float = 0.0
) -> FusedCooldown:
    """The plan of a run of `steps` over `tokens` tokens, for `parameters` weights at `bits` bits."""
    return FusedCooldown(steps, qat_part(tokens, parameters, bits), warmup, final)
