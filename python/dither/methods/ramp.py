"""Schedules for lambda: silence, then a rise, linear or along half a cosine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dither.errors import UserError


def lam_at(lam: float | Callable[[int], float], step: int) -> float:
    """A number or schedule at `step`; UserError where it gives a negative number or NaN."""
    value = float(lam(step)) if callable(lam) else float(lam)
    if not value >= 0.0:
        raise UserError(f"lam is {value} at step {step}; it must be at least 0")
    return value


@dataclass(frozen=True)
class Ramp:
    """lambda(step): 0 for the first `silent` part of `steps`, then linear up to `value` at `steps`, constant
    after it.

    A penalty at full strength from the first step can hold the weights at the lattice points near their
    initialisation; a silent first half lets the task place them first (the same idea as CAGE's silence ratio,
    arXiv 2510.18784).

    `value`: the final lambda. `steps`: optimizer steps of the run. `silent`: fraction of `steps` in [0, 1).
    """

    value: float
    steps: int
    silent: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"Ramp needs steps >= 1, got {self.steps}")
        if not 0.0 <= self.silent < 1.0:
            raise UserError(f"Ramp needs 0 <= silent < 1, got {self.silent}")
        if not self.value >= 0.0:
            raise UserError(f"Ramp needs value >= 0, got {self.value}")

    def __call__(self, step: int) -> float:
        start = self.silent * self.steps
        return self.value * min(1.0, max(0.0, (step - start) / (self.steps - start)))

    def __str__(self) -> str:
        return f"0 for {self.silent:.0%} of {self.steps} steps, then linear to {self.value:g}"


@dataclass(frozen=True)
class CosineRamp(Ramp):
    """lambda(step): as `Ramp`, but rising as (1 - cos(pi x))/2, slowly at both ends."""

    def __call__(self, step: int) -> float:
        part = super().__call__(step) / self.value if self.value else 0.0
        return self.value * 0.5 * (1.0 - math.cos(math.pi * part))

    def __str__(self) -> str:
        return super().__str__().replace("linear", "half a cosine")
