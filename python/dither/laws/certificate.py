"""How good an optimum is: what a reader needs to trust a fit, computed for every fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dither.laws.engine import ENDINGS, Floats, Optima

SAME = 1e-6
"""Starts whose objective lies within this share of the best one reached it."""

NEAR = 1e-2
"""Other minima are counted up to this share above the best."""

APART = 1e-3
"""Two ends further apart than this, in units of the parameters' own scale, are different minima."""

FLAT = 1e-13
"""Eigenvalues below this share of the largest are zero but for rounding: no bend in that direction."""

NO_EFFECT = 1e-6
"""A direction is flat in which parameters may move by 1 (scales by a factor of e) while ln L_hat moves by
less than this over all runs together: no table of losses shows it.
"""

TWIN = 1e-9
"""Two minima whose objectives differ by less than this share are one valley, or there is no reason to prefer
either.
"""

NEWTON = 1e-6
"""Share of the objective that a further Newton step may promise: no interval sees it. The engine goes on to
1e-14.
"""

ROUNDING = 1e-18
"""Objective of a row of weight 1 that counts as none: residuals of 1e-9."""

EXACT = 1e-24
"""An objective below this is the rounding of residuals that vanish, of which a step gains any share."""

PART = 0.3
"""Component from which a parameter takes part in a direction."""


@dataclass(frozen=True)
class Certificate:
    """Evidence that an optimum is one.

    promise: share of the objective that one more Newton step would gain (1e-15: nothing is left to gain;
    1e-3: a thousandth is). gradient: norm, in units in which the Hessian's diagonal is 1. eigenvalues,
    condition: of the Hessian in those units (a large condition number: some direction is hardly identified).
    flat: names of the parameters that take part in directions in which the objective does not bend, or no
    prediction moves (with runs of two sizes, ("A", "E", "alpha"): any exponent passes through two points).
    effect, weakest: how far ln L_hat moves over all runs, as a norm, where parameters move by 1 (scales by a
    factor of e) in the direction that moves it least, and the names that take part in it. active_bounds:
    names of parameters at a bound. at_start: of those that are where their start was (("E",) of a fit that
    began at E = 1 and ends at exactly 1: the search did not move it). starts: distinct ones. hit_rate: share
    of them that reached the best objective. minima: distinct ends within 1 % of it. twins: those of them that
    are as low as the best to 1e-9, beside it.
    """

    ending: str
    promise: float
    gradient: float
    eigenvalues: tuple[float, ...]
    condition: float
    flat: tuple[str, ...]
    effect: float
    weakest: tuple[str, ...]
    active_bounds: tuple[str, ...]
    at_start: tuple[str, ...]
    starts: int
    hit_rate: float
    minima: int
    twins: int
    evaluations: int

    @property
    def is_minimum(self) -> bool:
        """Converged to a point where the objective has no slope and bends upwards in every free direction,
        and the only one of its height.
        """
        arrived = self.ending == "converged" and self.promise <= NEWTON
        bends = min(self.eigenvalues) > FLAT * max(self.eigenvalues) and self.effect > NO_EFFECT
        return arrived and bends and not self.twins


def at_bounds(theta: Floats, low: Floats, high: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which parameters sit at a bound, and which are neither there nor fixed."""
    fixed = low == high
    tight = 1e-9 * (1 + np.abs(theta))
    active = ~fixed & ((theta <= low + tight) | (theta >= high - tight))
    return active, ~fixed & ~active


def certify(
    names: tuple[str, ...],
    optima: Optima,
    starts: Floats,
    gradient: Floats,
    hessian: Floats,
    low: Floats,
    high: Floats,
    slopes: Floats | None = None,
) -> Certificate:
    """The certificate of the best of one set's optima; names, bounds, starts and derivatives are theta's.

    slopes: (rows, params) of ln L_hat, in units of theta in which a move by 1 is large.
    """
    theta, value, which = (part[0] for part in optima.best())
    active, free = at_bounds(theta, low, high)
    bend = np.abs(np.diag(hessian)[free])
    scale = np.sqrt(np.where(bend > np.finfo(float).tiny, bend, 1.0))
    unit = hessian[np.ix_(free, free)] / np.outer(scale, scale)
    # Where a parameter ran to infinity there is no Hessian, and so no certificate.
    none = np.full(max(len(unit), 1), 1.0 if not free.any() else np.nan)
    eigenvalues, directions = none, np.zeros((len(none), len(none)))
    if free.any() and np.isfinite(unit).all():
        eigenvalues, directions = np.linalg.eigh(unit)
    flat = _part(directions[:, eigenvalues <= FLAT * eigenvalues[-1]])
    ends, heights = minima(optima, free)
    twins = int(np.sum(heights <= value * (1 + TWIN) + np.finfo(float).tiny)) - 1
    effects, ways = _effects(slopes, free)
    weakest = _part(ways[:, :1])
    flat |= _part(ways[:, effects <= NO_EFFECT]) | (weakest if twins else False)
    values = optima.value[0]

    def called(chosen: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(names[i] for i, a in zip(np.flatnonzero(free), chosen, strict=False) if a)

    return Certificate(
        ending=ENDINGS[optima.ending[0, which]],
        promise=float(optima.promise[0, which]) if value > EXACT else 0.0,
        gradient=float(np.linalg.norm(gradient[free] / scale)),
        eigenvalues=tuple(float(v) for v in eigenvalues),
        condition=_condition(eigenvalues),
        flat=called(flat),
        effect=float(effects[0]),
        weakest=called(weakest),
        active_bounds=tuple(n for n, a in zip(names, active, strict=True) if a),
        at_start=called((starts[which] == theta)[free]),
        starts=len(values),
        hit_rate=float(np.mean(values <= value * (1 + SAME) + np.finfo(float).tiny)),
        minima=len(ends),
        twins=twins,
        evaluations=int(optima.evaluations.sum()),
    )


def _part(directions: Floats) -> NDArray[np.bool_]:
    """Which parameters take part in any of the directions, which are columns."""
    return np.abs(directions).max(axis=1, initial=0.0) > PART


def _effects(slopes: Floats | None, free: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """How far ln L_hat moves along each principal direction of the free parameters, the least first, and
    these as columns; infinite where the slopes are not known.
    """
    count = max(int(free.sum()), 1)
    if slopes is None or not free.any():
        return np.full(count, np.inf), np.zeros((count, count))
    if not np.isfinite(slopes[:, free]).all():
        return np.zeros(count), np.zeros((count, count))
    _, lengths, rotation = np.linalg.svd(slopes[:, free], full_matrices=True)
    return np.pad(lengths, (0, count - len(lengths)))[::-1], rotation[::-1].T


def _condition(eigenvalues: Floats) -> float:
    with np.errstate(over="ignore"):
        return float(eigenvalues[-1] / eigenvalues[0]) if eigenvalues[0] > 0 else np.inf


def distinct(ends: Floats, values: Floats) -> list[int]:
    """Groups of ends, best first: an end belongs to the first group whose leader lies within APART of it.

    Returns the leaders' places.
    """
    leaders: list[int] = []
    for i in np.argsort(values).tolist():
        if leader(ends[i], ends[leaders]) is None:
            leaders.append(i)
    return leaders


def leader(end: Floats, leaders: Floats) -> int | None:
    """Which of the leaders (best first) an end belongs to; None where it is another minimum."""
    far = np.abs(end - leaders) / (1 + np.abs(leaders))
    within = np.flatnonzero(np.max(far, axis=1, initial=0.0) <= APART)
    return int(within[0]) if len(within) else None


def minima(optima: Optima, free: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """theta (minima, params) and values of the distinct ends within NEAR of the best, best first."""
    values = optima.value[0]
    near = np.flatnonzero(values <= np.nanmin(values) * (1 + NEAR) + np.finfo(float).tiny)
    which = near[distinct(optima.theta[0][near][:, free], values[near])]
    return optima.theta[0][which], values[which]
