"""Least absolute deviations of a linear model, exactly: from corner to corner along edges, always downwards
(Barrodale and Roberts 1973)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dither.laws.engine import Floats

TIES = 1e-13
"""Shift of residuals, each another, so that no more of them vanish at once than there are parameters."""


def least(slopes: Floats, r: Floats, weight: Floats) -> tuple[Floats, NDArray[np.intp]] | None:
    """The step that minimises sum weight |r + slopes step|, and the rows that vanish there, as many as it has
    parameters. slopes: (rows, parameters). None where the columns are not independent.
    """
    size = np.linalg.norm(slopes, axis=0)
    if not (size > 0).all():
        return None
    j, count = slopes / size, slopes.shape[1]
    r = r + TIES * np.cos(1.0 + np.arange(len(r)))
    corner = independent(j, np.argsort(np.abs(r)))
    if len(corner) < count:
        return None
    for _ in range(50 * (count + 1)):
        inverse = np.linalg.inv(j[corner])
        step = -inverse @ r[corner]
        left = r + j @ step
        left[corner] = 0.0
        hold = -inverse.T @ (j.T @ (weight * np.sign(left)))
        over = np.abs(hold) / weight[corner]
        if over.max(initial=0.0) <= 1 + 1e-10:
            return step / size, corner
        out = int(np.argmax(over))  # the edge along which this row alone no longer vanishes goes down
        along = j @ (inverse[:, out] * np.sign(hold[out]))
        along[corner] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            meets = np.where(along != 0, -left / along, np.inf)
        ahead = np.flatnonzero((meets > 0) & np.isfinite(meets))
        ahead = ahead[np.argsort(meets[ahead])]
        slope = weight[corner[out]] - np.abs(hold[out]) + np.cumsum(2 * weight[ahead] * np.abs(along[ahead]))
        if not len(ahead) or slope[-1] < 0:
            return None
        corner[out] = ahead[int(np.argmax(slope >= 0))]
    return None


def independent(j: Floats, order: NDArray[np.intp]) -> NDArray[np.intp]:
    """The first rows in that order that are independent of those before, as many as there are columns."""
    taken: list[int] = []
    rest, length = j.copy(), np.linalg.norm(j, axis=1)
    for i in order:
        if len(taken) == j.shape[1]:
            break
        norm = np.linalg.norm(rest[i])
        if norm > 1e-7 * max(length[i], 1e-300):
            taken.append(int(i))
            unit = rest[i] / norm
            rest = rest - np.outer(rest @ unit, unit)
    return np.array(taken, dtype=np.intp)
