"""What residuals should not do: depend on compute (a law's first variable, where it has no N and D), or be
alike within a scale. Tested by permutations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dither.laws.engine import Floats
from dither.laws.scales import called, scales, size

if TYPE_CHECKING:
    from dither.laws.fitting import Fit


@dataclass(frozen=True)
class Trend:
    """What residuals still do over scales: their mean by scale, and a test of a cubic in ln C.

    slope, curve: of it, ln C in units of its standard deviation. p: the chance of so strong a one under
    exchangeable residuals (999 permutations). over: what stands for C.
    """

    means: tuple[float, ...]
    slope: float
    curve: float
    p: float
    over: str = "compute"


def residual_trend(fit: Fit, *, permutations: int = 999, seed: int = 0) -> Trend:
    """Whether residuals depend on compute (they should not)."""
    r, scale = fit.residuals, scales(fit.arrays)
    x = np.log(size(fit.arrays))
    x = (x - x.mean()) / max(float(x.std()), np.finfo(float).tiny)
    basis = np.stack([np.ones_like(x), x, x * x, x**3], axis=1)
    q, _ = np.linalg.qr(basis)

    def explained(values: Floats) -> Floats:
        return np.sum((values @ q[:, 1:]) ** 2, axis=-1)

    rng = np.random.default_rng(seed)
    shuffled = rng.permuted(np.tile(r, (permutations, 1)), axis=1)
    more = int(np.sum(explained(shuffled) >= explained(r[None])[0]))
    coefficients = np.linalg.lstsq(basis, r, rcond=None)[0]
    means = tuple(float(r[scale == one].mean()) for one in range(int(scale.max()) + 1))
    return Trend(
        means,
        float(coefficients[1]),
        float(coefficients[2]),
        (1 + more) / (1 + permutations),
        called(fit.arrays),
    )


def alike(fit: Fit, *, permutations: int = 999, seed: int = 0) -> float:
    """The chance of residuals that are as alike within scales, where runs are exchangeable."""
    r, scale = fit.residuals, scales(fit.arrays)
    members = scale[:, None] == np.arange(scale.max() + 1)

    def between(values: Floats) -> Floats:
        return np.sum((values @ members) ** 2 / members.sum(axis=0), axis=-1)

    shuffled = np.random.default_rng(seed).permuted(np.tile(r, (permutations, 1)), axis=1)
    return float((1 + np.sum(between(shuffled) >= between(r))) / (1 + permutations))
