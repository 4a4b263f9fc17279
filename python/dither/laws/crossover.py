"""Is a cheaper method worth it: two laws at equal cost, with the uncertainty of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.decisions import NOT_CALIBRATED, Decision
from dither.laws.engine import Floats
from dither.laws.fitting import Fit
from dither.laws.planning import budget, check_compute
from dither.laws.scales import size
from dither.laws.validation import uncalibrated


@dataclass(frozen=True)
class Crossover:
    """Is the cheap method worth it at equal compute? advantage: loss of `plain` minus that of `cheap` at each
    budget, with its interval; crossing: the budget where it changes its sign (None: nowhere in range);
    factor: how far the farthest optimum lies beyond the runs of its method.
    """

    flops: Floats
    advantage: Floats
    low: Floats
    high: Floats
    crossing: float | None
    factor: float

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
    far: bool = False,
) -> Crossover:
    """Compare the best of two methods at equal cost; the cheap one does `speedup` times the FLOPs for it.

    by: what is resampled of the runs of each, as `Fit.bootstrap` takes it. UserError where an optimum lies
    more than 100 times beyond the runs of its method, unless `far`.
    """
    if not speedup > 0:
        raise UserError(f"speedup must be positive, not {speedup}")
    points = np.atleast_1d(np.asarray(flops, dtype=np.float64))
    if not points.size or not (np.isfinite(points) & (points > 0)).all():
        raise UserError("give one budget or more, positive numbers of FLOPs")

    def curves(fit: Fit, factor: float, which: int) -> tuple[Floats, Floats, float]:
        plans = [budget(fit.law, float(c) * factor) for c in points]
        best = [plan(**fit.params) for plan in plans]
        reach = fit.reach({name: [one[name] for one in best] for name in ("N", "D")}, far)
        own = np.array([one["loss"] for one in best])
        drawn = fit.bootstrap(n, by=by[which], seed=seed + which).of(
            lambda **p: [plan(**p)["loss"] for plan in plans]
        )
        return own, drawn, reach

    (one, ones, near), (two, twos, beyond) = curves(cheap, speedup, 0), curves(plain, 1.0, 1)
    kept = min(len(ones), len(twos))
    low, high = np.percentile(twos[:kept] - ones[:kept], (2.5, 97.5), axis=0)
    advantage = two - one
    at = np.flatnonzero(np.diff(np.sign(advantage)) != 0)
    crossing = None
    if len(at):
        i = int(at[0])
        share = advantage[i] / (advantage[i] - advantage[i + 1])
        crossing = float(np.exp(np.log(points[i]) + share * np.log(points[i + 1] / points[i])))
    return Crossover(points, advantage, low, high, crossing, max(near, beyond))


def worth(
    cheap: Fit,
    plain: Fit,
    speedup: float,
    flops: float,
    *,
    n: int = 300,
    by: tuple[Any, Any] = (None, None),
    far: bool = False,
) -> Decision:
    """Is the cheap method worth it, from the smallest run up to a budget: see `crossover`, which it reads.

    UserError for a budget below the smallest run, and for one that lies more than 100 times beyond the runs
    of either method, unless `far`.
    """
    check_compute(plain.law)
    if both := _shared(cheap, plain):
        raise UserError(
            f"{both} runs are among those of the plain and of the cheap method alike, to the last digit: "
            "give the runs of each method apart, in two folders or tables"
        )
    least = min(float(size(one.arrays).min()) for one in (plain, cheap))
    if flops <= least:
        raise UserError(f"{flops:g} FLOPs lie below the smallest run ({least:.3g})")
    found = crossover(cheap, plain, speedup, np.geomspace(least, flops, 9), n=n, by=by, far=far)
    at = {"advantage at the smallest run": 0, "advantage at the budget": -1}
    values = {name: float(found.advantage[i]) for name, i in at.items()}
    intervals = {name: (float(found.low[i]), float(found.high[i])) for name, i in at.items()}
    if found.crossing is not None:
        values["changes at FLOPs"] = found.crossing
    said = [f"this lies {found.factor:.3g} times beyond the runs"] if found.factor > 1 else []
    for name, one, groups in (("plain", plain, by[1]), ("cheap", cheap, by[0])):
        why = uncalibrated(one, groups)
        said += [f"{name}: {text}" for text in (*one.cautions, *([NOT_CALIBRATED + why] if why else ()))]
    return Decision(
        values, intervals, f"{len(plain.loss)} and {len(cheap.loss)} own runs",
        f"{n} resamples of the runs of either method", (found.verdict, *said),
    )  # fmt: skip


def _shared(one: Fit, other: Fit) -> int:
    """How many runs of one are the other's as well."""
    rows = [{*zip(*(v.tolist() for v in (*f.arrays.values(), f.loss)), strict=True)} for f in (one, other)]
    return len(rows[0] & rows[1])
