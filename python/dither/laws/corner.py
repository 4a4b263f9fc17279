"""The optimum of least absolute deviations: a corner, which has no second derivative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dither.laws.certificate import FLAT
from dither.laws.engine import Floats, Objective, Rows
from dither.laws.law import FunctionLaw, SumLaw
from dither.laws.search import residuals

NEAR = 1e-6
"""Residuals of so little are taken to vanish at the corner nearby, which is then solved for."""

STEP = 6e-6
"""Of central differences, relative to a parameter's size."""


def find(
    law: SumLaw | FunctionLaw, rows: Rows, theta: Floats, objective: Objective, free: NDArray[np.bool_]
) -> tuple[Floats, Floats] | None:
    """The corner at theta, and what certifies it in place of a Hessian; None where there is none.

    At a corner as many residuals vanish as parameters are free, and the slope of the others is held by these,
    each within its weight: then the objective rises in every direction, as far as J'J of the vanishing rows
    says.
    """
    at = np.flatnonzero(free)
    r = residuals(law, rows, theta, objective)
    weight = np.ones(len(r)) if rows.weights is None else np.atleast_2d(rows.weights)[0]
    near = np.argsort(np.where(weight > 0, np.abs(r), np.inf))[: len(at)]
    if np.abs(r[near]).max(initial=0.0) > NEAR:
        return None
    for _ in range(3):  # Newton's method: the vanishing residuals are as many as the parameters
        slopes = _slopes(law, rows, theta, objective, at)
        size = np.linalg.norm(slopes, axis=0)
        corner = slopes[near] / np.maximum(size, np.finfo(float).tiny)
        squares = np.linalg.eigvalsh(corner.T @ corner)
        if squares[0] <= FLAT * squares[-1]:
            return None
        theta = theta.copy()
        theta[at] -= np.linalg.solve(corner, r[near]) / size
        r = residuals(law, rows, theta, objective)
    others = np.setdiff1d(np.arange(len(r)), near)
    pull = (slopes[others] / size).T @ (weight[others] * np.sign(r[others]))
    if (np.abs(np.linalg.solve(corner.T, -pull)) > weight[near]).any():
        return None
    hessian = np.zeros((len(theta), len(theta)))
    hessian[np.ix_(at, at)] = corner.T @ corner
    return theta, hessian


def _slopes(
    law: SumLaw | FunctionLaw, rows: Rows, theta: Floats, objective: Objective, at: NDArray[np.intp]
) -> Floats:
    """Derivatives of the residuals by the parameters `at`: (rows, parameters)."""
    columns = []
    for i in at:
        step = np.zeros_like(theta)
        step[i] = STEP * (1 + abs(theta[i]))
        up, down = (residuals(law, rows, theta + side * step, objective) for side in (1.0, -1.0))
        columns.append((up - down) / (2 * step[i]))
    return np.stack(columns, axis=1)
