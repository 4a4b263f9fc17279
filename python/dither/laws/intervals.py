"""Losses known to lie in intervals: rounded, read off a picture, or bounded on one side.

A value rounded to 0.005 is an interval of that width, not a number; a run that broke off at 0.9 says that the
loss it was on its way to lies below 0.9. Under normal noise the likelihood of an interval is the chance of
falling into it, that of an exact value (low = high) the density.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from dither.errors import UserError, require
from dither.laws.engine import Floats
from dither.paired import student_quantile

STEPS = 500
"""Of expectation and maximisation at most."""

GAIN = 1e-11
"""A step that raises the log-likelihood by less is the last."""

THIN = 1e-5
"""Of the sd: intervals below this are taken for points."""

POINTS = 201
"""Of the grid on which a mean is integrated out."""

ROOT = 0.5 * np.log(2 * np.pi)


def rounded(values: Any, step: Any) -> tuple[Floats, Floats]:
    """The intervals of values rounded to multiples of `step` (0: exact), one or one a value."""
    x, half = np.asarray(values, dtype=np.float64), 0.5 * np.asarray(step, dtype=np.float64)
    return x - half, x + half


def checked(low: Any, high: Any) -> tuple[Floats, Floats]:
    """Both as fp64. UserError for NaN, different shapes, an interval upside down, or an infinite point."""
    a, b = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not (a <= b).all() or (np.isinf(a) & (a == b)).any():
        raise UserError(
            "give intervals as two equally long lists, low <= high and no NaN; -inf and inf for open ends"
        )
    return a, b


def likelihood(mu: Any, sd: Any, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Of every interval under N(mu, sd^2): the log-likelihood, and the mean given the interval."""
    special = require("scipy.special", "laws")
    mu, sd = (np.broadcast_to(np.asarray(v, dtype=np.float64), low.shape) for v in (mu, sd))
    a, b = (low - mu) / sd, (high - mu) / sd
    flip = -a < b  # into the lower tail, where the logarithm of the chance has all its digits
    a, b = np.where(flip, -b, a), np.where(flip, -a, b)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        upper, lower = special.log_ndtr(b), special.log_ndtr(a)
        log = upper + np.log1p(-np.exp(lower - upper))
        at_a, at_b = (np.exp(-0.5 * z * z - ROOT - log) for z in (a, b))  # densities over the chance
        shift = at_a - at_b
    mean = mu + sd * np.where(flip, -shift, shift)
    # Exact values, and intervals so narrow that the digits of the difference above are gone: the density.
    width = np.where(np.isinf(low) | np.isinf(high), np.inf, high - low)
    thin = width < THIN * sd
    width = np.where(thin, width, 0.0)
    value = np.where(thin, low, 0.0) + 0.5 * width
    density = -0.5 * ((value - mu) / sd) ** 2 - ROOT - np.log(sd) + np.log(np.where(width > 0, width, 1.0))
    return np.where(thin, density, log), np.where(thin, value, mean)


def spread(mu: Any, low: Floats, high: Floats, noise: float) -> tuple[float, float]:
    """The sd, not below `noise`, that makes the intervals most likely about mu; and the log-likelihood."""
    ends = np.concatenate([low - mu, high - mu])
    reach = float(np.abs(ends[np.isfinite(ends)]).max(initial=1e-9))
    return highest(
        lambda x: float(likelihood(mu, np.exp(x), low, high)[0].sum()),
        float(np.log(max(noise, 1e-6 * reach, 1e-12))),
        float(np.log(max(noise, 1e-6 * reach, 1e-12) + 3 * reach)),
    )


def highest(height: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """exp(x) and height at the maximum between two x: the best of a grid, then golden sections."""
    grid = np.linspace(low, high, 13)
    i = int(np.argmax([height(float(x)) for x in grid]))
    a, b = float(grid[max(i - 1, 0)]), float(grid[min(i + 1, len(grid) - 1)])
    share = 0.5 * (np.sqrt(5) - 1)
    c, d = b - share * (b - a), a + share * (b - a)
    at_c, at_d = height(c), height(d)
    while b - a > 1e-4:
        if at_c >= at_d:
            b, d, at_d = d, c, at_c
            c = b - share * (b - a)
            at_c = height(c)
        else:
            a, c, at_c = c, d, at_d
            d = a + share * (b - a)
            at_d = height(d)
    x = low if i == 0 and height(low) >= max(at_c, at_d) else 0.5 * (a + b)
    return float(np.exp(x)), height(x)


def climb(
    step: Callable[[Floats], Floats], mu: Floats, low: Floats, high: Floats, noise: float
) -> tuple[Floats, float, float]:
    """mu, sd and log-likelihood at the optimum, by expectation and maximisation (with the sd maximised for
    itself: ECME, Liu and Rubin 1994).

    step(targets) is the curve that is nearest to the targets by least squares; the targets are the expected
    values given the intervals. noise: the sd is not below it.
    """
    sd, total = spread(mu, low, high, noise)
    for _ in range(STEPS):
        mu = step(likelihood(mu, sd, low, high)[1])
        last, (sd, total) = total, spread(mu, low, high, noise)
        if total - last < GAIN:
            break
    return mu, sd, total


def allowed(n: int, free: int, level: float) -> float:
    """How far the profiled log-likelihood may lie below its maximum inside an interval.

    For exact values it gives Student's interval exactly; free: parameters of the curve.
    """
    t = student_quantile(0.5 + level / 2, max(1, n - free))
    return 0.5 * n * float(np.log1p(t * t / max(1, n - free)))


@dataclass(frozen=True)
class Estimate:
    """A value with its interval (infinite ends: not bounded by the data); sd: of single values; n: of
    them."""

    value: float
    low: float
    high: float
    sd: float
    n: int


def interval_mean(low: Any, high: Any, *, noise: float = 0.0, level: float = 0.95) -> Estimate:
    """The mean of values that are known as intervals, by profile likelihood.

    noise: the least sd of a single value, as `rerun_noise` gives it. UserError for fewer than 3 values, or
    where one side of all of them is open.
    """
    low, high = checked(low, high)
    if len(low) < 3 or not np.isfinite(low).any() or not np.isfinite(high).any():
        raise UserError(f"{len(low)} values, all open on one side or too few: a mean needs 3 with both ends")
    ends = np.concatenate([low, high])
    ends = ends[np.isfinite(ends)]
    start = np.full(len(low), float(np.median(ends)))
    mu, sd, best = climb(lambda t: np.full(len(t), t.mean()), start, low, high, noise)
    centre, limit = float(mu[0]), best - allowed(len(low), 1, level)
    sides = [
        cross(lambda x: spread(x, low, high, noise)[1], centre, side, sd / len(low) ** 0.5, limit)
        for side in (-1.0, 1.0)
    ]
    return Estimate(centre, sides[0], sides[1], sd, len(low))


def interval_median(low: Any, high: Any, *, level: float = 0.95) -> Estimate:
    """The median of values that are known as intervals, with the interval of order statistics: no
    distribution is assumed, and values may be unknown (-inf, inf) or beyond every bound (inf, inf).

    value: halfway between the medians of both ends; sd: half their distance (0 where all are exact).
    UserError for fewer values than such an interval needs (6 at 95 %), and where so many are unknown that the
    median itself may be anything.
    """
    a, b = np.sort(np.asarray(low, dtype=np.float64)), np.sort(np.asarray(high, dtype=np.float64))
    n, tail, left = len(a), 0.5 * (1 - level), 0
    if a.shape != b.shape or np.isnan(a).any() or np.isnan(b).any():
        raise UserError("give as many low as high ends, and no NaN")
    chance = 0.5**n
    total = chance
    while total <= tail:  # the chance that at most `left` values lie below the median
        left += 1
        chance *= (n - left + 1) / left
        total += chance
    if left == 0:
        raise UserError(f"{n} values are too few for an interval of their median at {level:.0%}")
    ends = [float(np.median(side)) for side in (a, b)]
    if ends == [-np.inf, np.inf]:
        raise UserError("half of the values or more are unknown (-inf, inf): their median may be anything")
    middle = ends[0] if ends[0] == ends[1] else 0.5 * (ends[0] + ends[1])
    half = 0.0 if ends[0] == ends[1] else 0.5 * (ends[1] - ends[0])
    return Estimate(middle, float(a[left - 1]), float(b[n - left]), half, n)


def cross(height: Callable[[float], float], centre: float, side: float, width: float, limit: float) -> float:
    """Where a profile falls below the limit on one side, by doubling and 30 halvings; infinite if it does
    not."""
    width = max(width, 1e-9)
    inner = outer = centre
    for _ in range(40):
        outer = inner + side * width
        if height(outer) < limit:
            break
        inner, width = outer, 2 * width
    else:
        return side * np.inf
    for _ in range(30):
        middle = 0.5 * (inner + outer)
        inner, outer = (inner, middle) if height(middle) < limit else (middle, outer)
    return 0.5 * (inner + outer)


def rerun_noise(groups: Sequence[tuple[Any, Any]]) -> Estimate:
    """The sd between runs of the same cell with its 95 % interval, from groups (low, high) of runs of a cell.

    The cells' own means are integrated out, so that pairs give the sd of their differences over sqrt 2. n:
    runs less groups. UserError without a group of two closed intervals.
    """
    if any(len(one) != 2 for one in groups):
        raise UserError("a group is a pair: the low ends and the high ends of the runs of one cell")
    cells = [checked(low, high) for low, high in groups]
    cells = [(a, b) for a, b in cells if len(a) > 1]
    if not cells or not all(np.isfinite(ends).all() for cell in cells for ends in cell):
        raise UserError("no cell was run twice with both results known: the noise between reruns is unknown")
    reach = max(float(b.max() - a.min()) for a, b in cells)
    if reach == 0:
        raise UserError("all reruns agree exactly: the noise between them cannot be estimated")
    span = np.array([(a.min(), b.max()) for a, b in cells])
    owner = np.repeat(np.arange(len(cells)), [len(a) for a, _ in cells])
    low, high = (np.repeat(np.concatenate(ends)[:, None], POINTS, 1) for ends in zip(*cells, strict=True))

    def height(log_sd: float) -> float:
        sd = float(np.exp(log_sd))
        means = np.linspace(span[:, 0] - 6 * sd, span[:, 1] + 6 * sd, POINTS, axis=1)
        runs = likelihood(means[owner].ravel(), sd, low.ravel(), high.ravel())[0].reshape(low.shape)
        log = np.zeros(means.shape)
        np.add.at(log, owner, runs)
        top = log.max(axis=1, keepdims=True)
        inside = np.exp(log - top).sum(axis=1) * (means[:, 1] - means[:, 0])
        return float(np.sum(top[:, 0] + np.log(inside)))

    value, best = highest(height, float(np.log(reach)) - 7, float(np.log(reach)) + 3)
    limit = best - 0.5 * NormalDist().inv_cdf(0.975) ** 2
    ends = [float(np.exp(cross(height, float(np.log(value)), side, 0.2, limit))) for side in (-1.0, 1.0)]
    return Estimate(value, ends[0], ends[1], value, sum(len(a) - 1 for a, _ in cells))
