"""Laws that are any function: the engine's interface over scipy.

Minimised by a trust-region least-squares method with Huber's loss (the same objective, to the digit), from
every start; derivatives of the residuals by central differences whose steps fit each parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dither.errors import require
from dither.laws.certificate import NEWTON, ROUNDING
from dither.laws.descent import CHANGE, differences
from dither.laws.engine import Floats, Objective, Optima, Rows
from dither.laws.law import FunctionLaw

EVALUATIONS = 2000
"""Of the function at most, a start, beside those for its slopes."""

FARTHER = 5.0
"""Steps of differences of slopes, in units of those of the residuals."""

Slopes = Callable[[Floats], Floats]


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
    law: FunctionLaw,
    rows: Rows,
    starts: Floats,
    *,
    objective: Objective,
    low: Any,
    high: Any,
    evaluations: int = EVALUATIONS,
) -> Optima:
    """As `engine.minimise`."""
    size, n = len(law.names), len(rows.y)
    weights = np.ones((1, n)) if rows.weights is None else np.atleast_2d(rows.weights)
    sets = len(weights)
    starts = np.broadcast_to(starts, (sets, *np.shape(starts)[-2:]))
    low, high = (np.broadcast_to(np.asarray(b, dtype=np.float64), (sets, size)) for b in (low, high))
    count = starts.shape[1]
    theta, value = np.empty((sets, count, size)), np.empty((sets, count))
    promise, used, ending = np.empty((sets, count)), *np.zeros((2, sets, count), dtype=np.int64)
    for s in range(sets):
        problem = _Problem(law, rows, weights[s], objective, low[s], high[s])
        for c in range(count):
            theta[s, c], value[s, c], promise[s, c], used[s, c], ending[s, c] = problem.solve(
                starts[s, c], evaluations
            )
    return Optima(theta, value / objective.unit, promise, used, ending)


class _Problem:
    """One set of weights."""

    def __init__(
        self, law: FunctionLaw, rows: Rows, weights: Floats, objective: Objective, low: Floats, high: Floats
    ) -> None:
        kept = weights > 0
        self.law, self.objective, self.weights = law, objective, weights[kept]
        self.rows = Rows(rows.x[kept], rows.y[kept])
        self.low, self.high, self.free = low, high, low < high

    def solve(self, start: Floats, evaluations: int) -> tuple[Floats, float, float, int, int]:
        """theta, value, promise, evaluations, ending from one start."""
        optimize = require("scipy.optimize", "laws")
        theta, used, ending, gain = start.copy(), 0, 0, 0.0
        if not self.free.any():
            return theta, cost(self._at(theta), self.weights, *self.objective.path()[-1]), 0.0, 1, 0
        jacobian = differences(self._at, self.low, self.high)
        for name, delta in self.objective.path():
            huber = name.endswith("huber")
            with np.errstate(all="ignore"):  # of trial steps that go too far
                result = optimize.least_squares(
                    self._residuals,
                    np.clip(theta[self.free], self.low[self.free], self.high[self.free]),
                    self._slopes,
                    args=(theta.copy(), np.ones(1) if huber else np.sqrt(self.weights), jacobian),
                    bounds=(self.low[self.free], self.high[self.free]),
                    loss=_huber(self.weights) if huber else "linear",
                    f_scale=delta if huber else 1.0,
                    x_scale="jac",
                    xtol=1e-14,
                    ftol=1e-15,
                    gtol=1e-15,
                    max_nfev=evaluations,
                )
            theta[self.free] = result.x
            used += result.nfev + 2 * int(self.free.sum()) * result.njev
            ending, gain = 0 if result.status > 0 else 2, _promise(result)
        value = cost(self._at(theta), self.weights, *self.objective.path()[-1])
        promise = gain / max(value, ROUNDING * float(self.weights.sum()))
        return theta, value, promise, used, 1 if ending == 0 and promise > NEWTON else ending

    def _residuals(self, part: Floats, full: Floats, factor: Floats, _: Slopes) -> Floats:
        trial = full.copy()
        trial[self.free] = part
        return factor * self._at(trial)

    def _slopes(self, part: Floats, full: Floats, factor: Floats, jacobian: Slopes) -> Floats:
        trial = full.copy()
        trial[self.free] = part
        return factor.reshape(-1, 1) * jacobian(trial)[:, self.free]

    def _at(self, theta: Floats) -> Floats:
        return residuals(self.law, self.rows, theta, self.objective)


def _promise(result: Any) -> float:
    """What a Gauss-Newton step of the parameters that are at no bound would gain, in units in which the
    Jacobian's columns have length 1; without directions that are rounding alone.
    """
    inner = result.active_mask == 0
    length = np.linalg.norm(result.jac[:, inner], axis=0)
    if not inner.any() or not np.isfinite(result.jac).all():
        return 0.0 if not inner.any() else np.inf
    length = np.where(length > 0, length, 1.0)
    matrix, slope = result.jac[:, inner] / length, result.grad[inner] / length
    _, sizes, directions = np.linalg.svd(matrix, full_matrices=False)
    kept = sizes > 1e-6 * sizes[0]
    return float(0.5 * np.sum(((directions @ slope)[kept] / sizes[kept]) ** 2))


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
    """The objective, its gradient and its Hessian; Huber's is in pieces, as the engine's."""
    name, delta = objective.path()[-1]
    weights = np.ones(len(rows.y)) if rows.weights is None else rows.weights
    low, high = law.limits

    def at(point: Floats) -> Floats:
        return residuals(law, rows, point, objective)

    jacobian = differences(at, low, high)
    r, slopes = at(theta), jacobian(theta)
    inside = np.abs(r) <= delta if name.endswith("huber") else np.ones(len(r), dtype=bool)
    pull = weights * (np.clip(r, -delta, delta) if name.endswith("huber") else r)
    hessian = (slopes.T * (weights * inside)) @ slopes
    length = np.linalg.norm(slopes, axis=0)
    for i in np.flatnonzero(length > 0):
        move = np.zeros(len(theta))
        move[i] = min(1e-3 * (1 + abs(theta[i])), FARTHER * CHANGE * np.sqrt(len(r)) / length[i])
        up, down = np.clip(theta + move, low, high), np.clip(theta - move, low, high)
        hessian[i] += (jacobian(up) - jacobian(down)).T @ pull / (up[i] - down[i])
    value = cost(r, weights, name, delta)
    unit = objective.unit
    return value / unit, slopes.T @ pull / unit, 0.5 * (hessian + hessian.T) / unit
