"""Laws that are any function: the engine's interface over scipy.

Minimised by a trust-region least-squares method with Huber's loss (the same objective, to the digit), from
every start; derivatives of the objective by central differences.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import require
from dither.laws.engine import Floats, Objective, Optima, Rows
from dither.laws.law import FunctionLaw

EVALUATIONS = 2000
"""Of the function at most, a start."""


def residuals(law: FunctionLaw, rows: Rows, theta: Floats, objective: Objective) -> Floats:
    """ln L_hat - ln L of every row, or L_hat - L for the raw objectives; large where the law has no value."""
    arrays = dict(zip(law.variables, rows.x.T, strict=True))
    with np.errstate(all="ignore"):
        value = law.curve(law.from_theta(theta), arrays)
        r = value - np.exp(rows.y) if objective.name.startswith("raw") else np.log(value) - rows.y
    return np.where(np.isfinite(r), r, 1e3)


def cost(r: Floats, weights: Floats, name: str, delta: float) -> float:
    if not name.endswith("huber"):
        return float(0.5 * np.sum(weights * r * r))
    size = np.abs(r)
    return float(np.sum(weights * np.where(size <= delta, 0.5 * r * r, delta * (size - 0.5 * delta))))


def minimise(
    law: FunctionLaw, rows: Rows, starts: Floats, *, objective: Objective, low: Any, high: Any
) -> Optima:
    """As `engine.minimise`."""
    size, n = len(law.names), len(rows.y)
    weights = np.ones((1, n)) if rows.weights is None else np.atleast_2d(rows.weights)
    sets = len(weights)
    starts = np.broadcast_to(starts, (sets, *np.shape(starts)[-2:]))
    low, high = (np.broadcast_to(np.asarray(b, dtype=np.float64), (sets, size)) for b in (low, high))
    count = starts.shape[1]
    theta, value = np.empty((sets, count, size)), np.empty((sets, count))
    promise, evaluations, ending = np.empty((sets, count)), *np.zeros((2, sets, count), dtype=np.int64)
    for s in range(sets):
        problem = _Problem(law, rows, weights[s], objective, low[s], high[s])
        for c in range(count):
            theta[s, c], value[s, c], promise[s, c], evaluations[s, c], ending[s, c] = problem.solve(
                starts[s, c]
            )
    return Optima(theta, value / objective.unit, promise, evaluations, ending)


class _Problem:
    """One set of weights."""

    def __init__(
        self, law: FunctionLaw, rows: Rows, weights: Floats, objective: Objective, low: Floats, high: Floats
    ) -> None:
        kept = weights > 0
        self.law, self.objective, self.weights = law, objective, weights[kept]
        self.rows = Rows(rows.x[kept], rows.y[kept])
        self.low, self.high, self.free = low, high, low < high

    def solve(self, start: Floats) -> tuple[Floats, float, float, int, int]:
        """theta, value, promise, evaluations, ending from one start."""
        optimize = require("scipy.optimize", "laws")
        theta, used, ending, promise = start.copy(), 0, 0, 0.0
        for name, delta in self.objective.path():
            huber = name.endswith("huber")
            result = optimize.least_squares(
                self._residuals,
                np.clip(theta[self.free], self.low[self.free], self.high[self.free]),
                args=(theta.copy(), np.ones(1) if huber else np.sqrt(self.weights)),
                bounds=(self.low[self.free], self.high[self.free]),
                loss=_huber(self.weights) if huber else "linear",
                f_scale=delta if huber else 1.0,
                x_scale="jac",
                xtol=1e-14,
                ftol=1e-15,
                gtol=1e-15,
                max_nfev=EVALUATIONS,
            )
            theta[self.free] = result.x
            used += result.nfev
            ending, promise = 0 if result.status > 0 else 2, float(result.optimality)
        value = cost(self._at(theta), self.weights, *self.objective.path()[-1])
        return theta, value, promise / max(value, np.finfo(float).tiny), used, ending

    def _residuals(self, part: Floats, full: Floats, factor: Floats) -> Floats:
        trial = full.copy()
        trial[self.free] = part
        return factor * self._at(trial)

    def _at(self, theta: Floats) -> Floats:
        return residuals(self.law, self.rows, theta, self.objective)


def _huber(weights: Floats) -> Any:
    """Huber's loss with weights, as scipy wants it: rho and its derivatives by z = (r / delta)^2."""

    def rho(z: Floats) -> Floats:
        root = np.sqrt(np.maximum(z, 1.0))
        inside = z <= 1
        return weights * np.stack(
            [
                np.where(inside, z, 2 * root - 1),
                np.where(inside, 1.0, 1 / root),
                np.where(inside, 0.0, -0.5 / root**3),
            ]
        )

    return rho


def evaluate(
    law: FunctionLaw, rows: Rows, theta: Floats, objective: Objective
) -> tuple[float, Floats, Floats]:
    """The objective, its gradient and its Hessian by central differences (steps of 1e-4 in size)."""
    name, delta = objective.path()[-1]
    weights = np.ones(len(rows.y)) if rows.weights is None else rows.weights

    def at(point: Floats) -> float:
        return cost(residuals(law, rows, point, objective), weights, name, delta) / objective.unit

    step = 1e-4 * (1e-2 + np.abs(theta))
    moves = np.diag(step)
    n, centre = len(theta), at(theta)
    gradient = np.array([(at(theta + m) - at(theta - m)) / (2 * h) for m, h in zip(moves, step, strict=True)])
    hessian = np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            corners = [at(theta + a * moves[i] + b * moves[j]) * a * b for a in (1, -1) for b in (1, -1)]
            hessian[i, j] = hessian[j, i] = sum(corners) / (4 * step[i] * step[j])
    return centre, gradient, hessian
