"""Is a cheaper method worth it: two laws at equal cost, with the uncertainty of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.fitting import Fit
from dither.laws.planning import budget


@dataclass(frozen=True)
class Crossover:
    """Is the cheap method worth it at equal compute? advantage: loss of `plain` minus that of `cheap` at each
    budget, with its interval; crossing: the budget where it changes its sign (None: nowhere in range).
    """

    flops: Floats
    advantage: Floats
    low: Floats
    high: Floats
    crossing: float | None

    @property
    def verdict(self) -> str:
        if (self.low > 0).all():
            return "the cheap method is better at every budget of the range"
        if (self.high < 0).all():
            return "the cheap method is worse at every budget of the range"
        if self.crossing is None:
            return "not resolved: the intervals hold zero"
        return f"it changes near {self.crossing:.3g} FLOPs, where the interval still holds zero"


def crossover(
    cheap: Fit,
    plain: Fit,
    speedup: float,
    flops: Any,
    *,
    n: int = 300,
    seed: int = 0,
    by: tuple[Any, Any] = (None, None),
) -> Crossover:
    """Compare the best of two methods at equal cost; the cheap one does `speedup` times the FLOPs for it.

    by: what is resampled of the runs of each, as `Fit.bootstrap` takes it.
    """
    if not speedup > 0:
        raise UserError(f"speedup must be positive, not {speedup}")
    points = np.atleast_1d(np.asarray(flops, dtype=np.float64))

    def curves(fit: Fit, factor: float, which: int) -> tuple[Floats, Floats]:
        plans = [budget(fit.law, float(c) * factor) for c in points]
        own = np.array([plan(**fit.params)["loss"] for plan in plans])
        drawn = fit.bootstrap(n, by=by[which], seed=seed + which).of(
            lambda **p: [plan(**p)["loss"] for plan in plans]
        )
        return own, drawn

    (one, ones), (two, twos) = curves(cheap, speedup, 0), curves(plain, 1.0, 1)
    kept = min(len(ones), len(twos))
    low, high = np.percentile(twos[:kept] - ones[:kept], (2.5, 97.5), axis=0)
    advantage = two - one
    at = np.flatnonzero(np.diff(np.sign(advantage)) != 0)
    crossing = None
    if len(at):
        i = int(at[0])
        share = advantage[i] / (advantage[i] - advantage[i + 1])
        crossing = float(np.exp(np.log(points[i]) + share * np.log(points[i + 1] / points[i])))
    return Crossover(points, advantage, low, high, crossing)
