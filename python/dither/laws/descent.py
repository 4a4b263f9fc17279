"""Least squares and Huber's objective of any residuals, under bounds and one constraint g(theta) = c.

Gauss-Newton on reweighted residuals, damped (Levenberg-Marquardt), in the plane that is tangent to the
constraint; after each step the constraint is met again along the direction that costs least. The accepted
steps lower the true objective.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dither.laws.engine import Floats

STEPS = 300
GAIN = 1e-9
"""Steps that lower the objective by a smaller share are the last ones."""

MOVE = 1e-4
"""Of a parameter, in units of 1 + its size, for central differences."""


CHANGE = 1e-4
"""Of a residual at most between the points of a difference: steps of a parameter of 1e-9 are short."""

SHORTER = 12
"""Times that a step is cut to a hundredth at most."""


@dataclass(frozen=True)
class Problem:
    """residuals: theta -> (rows,); jacobian: theta -> (rows, params); weights: (rows,); delta of Huber's
    objective, infinite for half the squares; low, high: bounds of theta, equal ones fix.
    """

    residuals: Callable[[Floats], Floats]
    jacobian: Callable[[Floats], Floats]
    weights: Floats
    delta: float
    low: Floats
    high: Floats

    def cost(self, r: Floats) -> float:
        size = np.abs(r)
        inside = np.minimum(size, self.delta)
        return float(np.sum(self.weights * inside * (size - 0.5 * inside)))

    def value(self, theta: Floats) -> float:
        with np.errstate(all="ignore"):
            found = self.cost(self.residuals(theta))
        return found if np.isfinite(found) else np.inf

    def normal(self, theta: Floats) -> tuple[Floats, Floats]:
        """The gradient, and Gauss and Newton's matrix with Huber's weights."""
        r, j = self.residuals(theta), self.jacobian(theta)
        weights = self.weights / np.maximum(np.abs(r) / self.delta, 1.0)
        return j.T @ (weights * r), (j.T * weights) @ j


@dataclass(frozen=True)
class Constraint:
    """value(theta) is `target`, to 1e-6 of `scale`."""

    value: Callable[[Floats], float]
    target: float
    scale: float

    def off(self, theta: Floats) -> float:
        with np.errstate(all="ignore"):
            return self.target - self.value(theta)


def slope(function: Callable[[Floats], float], theta: Floats, move: float = MOVE) -> Floats:
    """Central differences of a number."""
    moves = np.diag(move * (1 + np.abs(theta)))
    return np.array([(function(theta + m) - function(theta - m)) / (2 * m.sum()) for m in moves])


def differences(
    residuals: Callable[[Floats], Floats], low: Floats, high: Floats
) -> Callable[[Floats], Floats]:
    """The Jacobian of residuals by central differences inside the bounds; 0 by fixed parameters."""

    def jacobian(theta: Floats) -> Floats:
        columns = np.zeros((len(residuals(theta)), len(theta)))
        for i in np.flatnonzero(low < high):
            move = 1e-5 * (1 + abs(theta[i]))
            for _ in range(SHORTER):
                up, down = theta.copy(), theta.copy()
                up[i], down[i] = min(theta[i] + move, high[i]), max(theta[i] - move, low[i])
                change = residuals(up) - residuals(down)
                if np.max(np.abs(change), initial=0.0) <= CHANGE or up[i] - down[i] <= 1e-9 * abs(theta[i]):
                    break
                move *= 0.01
            columns[:, i] = change / (up[i] - down[i])
        return columns

    return jacobian


def descend(
    problem: Problem, theta: Floats, constraint: Constraint | None = None
) -> tuple[Floats, float] | None:
    """theta and the objective at a minimum that is reached from `theta`; None where the constraint cannot be
    met from there."""
    theta = np.clip(theta, problem.low, problem.high)
    if constraint is not None:
        met = _meet(problem, theta, constraint, problem.normal(theta)[1], slope(constraint.value, theta))
        if met is None:
            return None
        theta = met
    value, damping, small = problem.value(theta), 1e-4, 0
    for _ in range(STEPS):
        gradient, matrix = problem.normal(theta)
        along = None if constraint is None else slope(constraint.value, theta)
        last = value
        while damping < 1e8:
            step = _step(problem, theta, gradient, matrix, along, damping)
            moved: Floats | None = np.clip(theta + step, problem.low, problem.high)
            if constraint is not None and along is not None:
                moved = _meet(problem, moved, constraint, matrix, along)
            if moved is not None and (new := problem.value(moved)) < value:
                theta, value, damping = moved, new, max(0.1 * damping, 1e-10)
                break
            damping *= 10
        small = small + 1 if last - value <= GAIN * abs(value) else 0
        if damping >= 1e8 or small == 2:
            break
    return theta, value


def _step(
    problem: Problem, theta: Floats, gradient: Floats, matrix: Floats, along: Floats | None, damping: float
) -> Floats:
    """The damped step in the tangent plane; parameters that it pushes out of their bounds stay."""
    scale = np.maximum(np.diag(matrix), 1e-12 * max(float(np.diag(matrix).max()), 1e-300))
    free, step = problem.low < problem.high, np.zeros_like(theta)
    for _ in range(len(theta)):
        at = np.flatnonzero(free)
        if not len(at):
            break
        a = matrix[np.ix_(at, at)] + np.diag(damping * scale[at])
        # in units in which the diagonal is 1, so that scales of parameters do not matter
        unit = 1 / np.sqrt(np.diag(a))
        a, b = a * unit[:, None] * unit, -gradient[at] * unit
        basis = np.eye(len(at))
        if along is not None and np.any(along[at]):
            basis = np.linalg.svd((along[at] * unit)[None], full_matrices=True)[2][1:].T
        step[:] = 0.0
        if basis.shape[1]:
            inner = np.linalg.lstsq(basis.T @ a @ basis, basis.T @ b, rcond=1e-14)[0]
            step[at] = unit * (basis @ inner)
        out = free & (((theta <= problem.low) & (step < 0)) | ((theta >= problem.high) & (step > 0)))
        if not out.any():
            break
        free &= ~out
    return step


def _meet(
    problem: Problem, theta: Floats, constraint: Constraint, matrix: Floats, along: Floats
) -> Floats | None:
    """The nearest theta, as the objective measures it, that meets the constraint; None if none is found.

    matrix, along: the objective's and the constraint's at a point nearby, whose direction serves while it
    helps.
    """
    size = np.diag(matrix)
    matrix = matrix + np.diag(np.maximum(1e-8 * size, 1e-12 * max(float(size.max()), 1e-300)))
    off, fresh = constraint.off(theta), False
    for _ in range(40):
        if not np.isfinite(off):
            return None
        if abs(off) <= 1e-6 * constraint.scale:
            return theta
        along = np.where(problem.low < problem.high, along, 0.0)
        at = np.flatnonzero(along)
        moved, left = theta, np.inf
        if len(at) and np.isfinite(along).all():
            way = np.zeros_like(theta)
            way[at] = np.linalg.lstsq(matrix[np.ix_(at, at)], along[at], rcond=None)[0]
            full, share = way * off / float(along @ way), 1.0
            while share > 1e-3:
                moved = np.clip(theta + share * full, problem.low, problem.high)
                left = constraint.off(moved)
                if np.isfinite(left) and abs(left) < 0.5 * abs(off):
                    break
                share *= 0.5
        if np.isfinite(left) and abs(left) < abs(off):
            theta, off, fresh = moved, left, False
        elif fresh:
            return None
        else:
            along, fresh = slope(constraint.value, theta), True
    return None
