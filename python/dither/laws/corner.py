"""The optimum of least absolute deviations, which has no second derivative where residuals vanish.

It mostly is a corner: as many residuals vanish as parameters are free. Where the law bends enough there are
fewer, and along what these leave free the others have a smooth minimum. Either is certified by multipliers:
with those of the vanishing rows, each within its weight, the slopes of all rows add up to zero; of a
parameter at a bound they push it outwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dither.laws import absolute
from dither.laws.certificate import FLAT, NEAR, at_bounds, distinct, leader
from dither.laws.engine import ENDINGS, Floats, Objective, Optima, Rows
from dither.laws.law import FunctionLaw, SumLaw
from dither.laws.search import derivatives, residuals

STEP = 6e-6
"""Of central differences, relative to a parameter's size."""

BEND = 1e-4
"""The same of differences of slopes."""

MET = 1e-10
"""A residual of a corner vanishes to this."""

ROUNDS = 30
"""Linearisations at most."""

NEWTON = 8
"""Steps of Newton's method at most."""

MOST = 8
"""Ends that are settled at most, the best."""

AnyLaw = SumLaw | FunctionLaw
Mask = NDArray[np.bool_]
Corner = tuple[Floats, Floats]
"""theta, and what certifies it in place of a Hessian: J'J of the vanishing rows, and the bend of the others
along what these leave free."""


def settle(
    law: AnyLaw, rows: Rows, optima: Optima, objective: Objective, low: Floats, high: Floats
) -> tuple[Optima, Floats | None]:
    """Ends within 1 % of the best at their corners, and what certifies the best one; None where nothing does
    (then all ends stay as they were).
    """
    values, ends, free = optima.value[0], optima.theta[0], low < high
    near = np.flatnonzero(values <= np.nanmin(values) * (1 + NEAR) + np.finfo(float).tiny)
    leaders = near[distinct(ends[near][:, free], values[near])[:MOST]]
    problem = _Problem.of(law, rows, objective, low, high)
    corners = [problem.corner(ends[k]) for k in leaders]
    theta, value, ending = optima.theta.copy(), optima.value.copy(), optima.ending.copy()
    promise = optima.promise.copy()
    for i in near:
        k = leader(ends[i][free], ends[leaders][:, free])
        found = None if k is None else corners[k]
        if found is not None:
            theta[0, i], value[0, i] = found[0], derivatives(law, rows, found[0], objective)[0]
            ending[0, i], promise[0, i] = ENDINGS.index("converged"), 0.0
    settled = replace(optima, theta=theta, value=value, ending=ending, promise=promise)
    best = settled.best()[0][0]
    for found in corners:
        if found is not None and (found[0] == best).all():
            return settled, found[1]
    return optima, None


def settle_each(
    law: AnyLaw, rows: Rows, theta: Floats, objective: Objective, low: Floats, high: Floats
) -> tuple[Floats, Mask]:
    """The corner of every set of weights from its end theta, (sets, params), and which sets have one."""
    assert rows.weights is not None
    found = [
        _Problem.of(law, Rows(rows.x, rows.y, weights), objective, low, high).corner(end)
        for weights, end in zip(rows.weights, theta, strict=True)
    ]
    ends = [end if one is None else one[0] for one, end in zip(found, theta, strict=True)]
    return np.array(ends), np.array([one is not None for one in found])


@dataclass(frozen=True)
class _Problem:
    """The rows that count, each once with its weight, and what is fixed."""

    law: AnyLaw
    rows: Rows
    weight: Floats
    objective: Objective
    low: Floats
    high: Floats

    @staticmethod
    def of(law: AnyLaw, rows: Rows, objective: Objective, low: Floats, high: Floats) -> _Problem:
        weight = np.ones(len(rows.y)) if rows.weights is None else np.atleast_2d(rows.weights)[0]
        # Rows that repeat vanish together: they are one, of their weights.
        table, which = np.unique(np.column_stack([rows.x, rows.y]), axis=0, return_inverse=True)
        total = np.zeros(len(table))
        np.add.at(total, which.ravel(), weight)
        table, total = table[total > 0], total[total > 0]
        single = Rows.of(table[:, :-1], table[:, -1])
        return _Problem(law, single, total, objective, low, high)

    @cached_property
    def loose(self) -> Mask:
        return self.low < self.high

    def off(self, theta: Floats) -> Floats:
        return residuals(self.law, self.rows, theta, self.objective)

    def total(self, theta: Floats) -> float:
        return float(self.weight @ np.abs(self.off(theta)))

    def slopes(self, theta: Floats) -> Floats:
        """Derivatives of the residuals: (rows, parameters), 0 by fixed ones."""
        found = np.zeros((len(self.weight), len(theta)))
        for i in np.flatnonzero(self.loose):
            step = np.zeros_like(theta)
            step[i] = STEP * (1 + abs(theta[i]))
            found[:, i] = (self.off(theta + step) - self.off(theta - step)) / (2 * step[i])
        return found

    def corner(self, theta: Floats) -> Corner | None:
        """The certified optimum that theta leads to: the residuals are taken as linear, the optimal corner of
        these is gone to, and again from there, until nothing is gained."""
        value, rounds = self.total(theta), 0
        while True:
            rounds += 1
            found = self._linear(theta)
            if found is None:
                return None
            aim, free, vanish = found
            share = 1.0
            while share > 1e-4 and self.total(theta + share * (aim - theta)) >= value:
                share *= 0.5
            moved = theta + share * (aim - theta)
            gained = value - self.total(moved)
            if gained > 0:
                theta, value = moved, value - gained
            if gained <= 1e-9 * value or rounds == ROUNDS:
                break
        order = vanish[np.argsort(np.abs(self.off(theta))[vanish])]
        for count in range(len(order), -1, -1):
            if (one := self._optimum(theta, free, order[:count])) is not None:
                return one
        return None

    def _linear(self, theta: Floats) -> tuple[Floats, Mask, NDArray[np.intp]] | None:
        """Where linear residuals lead, which parameters are free there, and the rows that vanish."""
        _, free = at_bounds(theta, self.low, self.high)
        start, held = theta.copy(), False
        for _ in range(2 * len(theta) + 1):
            slopes = self.slopes(start)
            found = absolute.least(slopes[:, free], self.off(start), self.weight)
            if found is None:
                return None
            aim = start.copy()
            aim[free] += found[0]
            out = free & ((aim < self.low) | (aim > self.high))
            if out.any():  # held at the bound, and solved again for the others
                start = np.where(out, np.clip(aim, self.low, self.high), start)
                free, held = free & ~out, True
                continue
            pull = self._pull(slopes[:, free], self.off(start) + slopes @ (aim - start), found[1])
            inward = self._inward(slopes, pull, start, self.loose & ~free)
            if held or not inward.any():
                return aim, free, found[1]
            free = free | inward
        return None

    def _pull(self, slopes: Floats, r: Floats, vanish: NDArray[np.intp]) -> Floats:
        """The multiplier of every row: its weight and sign; of those that vanish, what holds the others."""
        pull = self.weight * np.sign(r)
        pull[vanish] = 0.0
        pull[vanish] = np.linalg.lstsq(slopes[vanish].T, -slopes.T @ pull, rcond=None)[0]
        return pull

    def _inward(self, slopes: Floats, pull: Floats, theta: Floats, active: Mask) -> Mask:
        """Which parameters at a bound the objective falls for when they leave it."""
        slope, none = slopes.T @ pull, 1e-8 * np.abs(slopes.T) @ np.abs(pull)
        at_low = theta - self.low <= self.high - theta
        return active & np.where(at_low, slope < -none, slope > none)

    def _optimum(self, theta: Floats, free: Mask, vanish: NDArray[np.intp]) -> Corner | None:
        """The optimum where these rows vanish, by Newton's method, if there is one near theta."""
        at, most = np.flatnonzero(free), self.total(theta) * (1 + 1e-9) + 1e-300
        theta = theta.copy()
        for _ in range(NEWTON):
            slopes, r = self.slopes(theta), self.off(theta)
            size = np.linalg.norm(slopes[:, at], axis=0)
            if not np.isfinite(slopes).all() or (size < 1e-150).any():
                return None
            j = slopes[:, at] / size
            _, lengths, rotation = np.linalg.svd(j[vanish], full_matrices=True)
            if len(vanish) and lengths[-1] ** 2 <= FLAT * lengths[0] ** 2:
                return None
            pull, rest = self._pull(j, r, vanish), rotation[len(vanish) :].T
            step, inner = np.zeros(len(at)), np.empty((0, 0))
            if len(vanish):
                step = np.linalg.lstsq(j[vanish], -r[vanish], rcond=None)[0]
            if rest.shape[1]:  # along what these rows leave free, the minimum of the others
                bend = self._bend(theta, at, size, pull)
                inner = rest.T @ bend @ rest
                if not np.isfinite(inner).all() or np.linalg.eigvalsh(inner)[0] <= 0:
                    return None
                step = step - rest @ np.linalg.solve(inner, rest.T @ (j.T @ pull + bend @ step))
            theta[at] += step / size
            if not np.isfinite(theta).all():
                return None
            if np.linalg.norm(step) > 1e-6 or np.abs(self.off(theta)[vanish]).max(initial=0.0) > MET:
                continue
            inside = (theta >= self.low).all() and (theta <= self.high).all()
            held = (np.abs(pull[vanish]) <= self.weight[vanish] * (1 + 1e-6)).all()
            inward = self._inward(slopes, pull, theta, self.loose & ~free).any()
            if not inside or not held or inward or self.total(theta) > most:
                return None
            certifies = np.zeros((len(theta), len(theta)))
            certifies[np.ix_(at, at)] = j[vanish].T @ j[vanish] + rest @ inner @ rest.T
            return theta, certifies
        return None

    def _bend(self, theta: Floats, at: NDArray[np.intp], size: Floats, pull: Floats) -> Floats:
        """Second derivatives of the sum of the rows times their multipliers, in units of size."""
        columns = []
        for k, i in enumerate(at):
            step = np.zeros_like(theta)
            step[i] = BEND * (1 + abs(theta[i]))
            difference = self.slopes(theta + step) - self.slopes(theta - step)
            columns.append(difference[:, at].T @ pull / (2 * step[i] * size * size[k]))
        found = np.stack(columns, axis=1)
        return 0.5 * (found + found.T)
