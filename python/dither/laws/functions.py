"""Where the search of a law begins that is a function: its own starts, brought to the units of the data.

What the law is linear in follows by least squares from the other parameters; of many such points the lowest
are minimised.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from dither.errors import require
from dither.laws import numeric
from dither.laws.engine import Floats, Objective, Rows
from dither.laws.law import FunctionLaw

TIMES = 3
"""Points that are drawn for each start that is missing."""

SPREAD = 0.7
"""Of points that are drawn about a law's starts: of scales' logarithms, and relative."""

ALIVE = 1e-3
"""A term that least squares leave out begins at this share of the loss."""


def starts(law: FunctionLaw, rows: Rows, objective: Objective, low: Floats, high: Floats) -> Floats:
    """theta of the starts that are minimised, the lowest first: (starts, params)."""
    solved = (*law.linear, *law.log_linear)
    one = [name in solved or low[i] == high[i] for i, name in enumerate(law.names)]
    axes = [law.starts[name][: 1 if once else None] for name, once in zip(law.names, one, strict=True)]
    points = np.array(list(product(*axes)), dtype=np.float64)
    own = len(points)
    if own < law.tries:
        points = np.concatenate([points, _about(law, points, TIMES * (law.tries - own))])
    theta = np.clip(law.to_theta(_placed(law, points, rows, low, high)), low, high)
    theta = np.array([_solved(law, rows, one, low, high) for one in theta])
    name, delta = objective.path()[-1]
    weights = np.ones(len(rows.y)) if rows.weights is None else rows.weights
    residuals = (numeric.residuals(law, rows, one, objective) for one in theta)
    values = [numeric.cost(r, weights, name, delta) for r in residuals]
    if own < law.tries:  # all of its own are minimised
        values[:own] = [-np.inf] * own
    return theta[np.argsort(values, kind="stable")[: law.tries]]


def _about(law: FunctionLaw, points: Floats, count: int) -> Floats:
    """Points about those, the same in every call."""
    noise = SPREAD * np.random.default_rng(0).standard_normal((count, points.shape[1]))
    base = points[np.arange(count) % len(points)]
    signed = base + noise * np.where(base == 0, 1.0, np.abs(base))
    return np.where(law.logarithmic, base * np.exp(noise), signed)


def _placed(law: FunctionLaw, points: Floats, rows: Rows, low: Floats, high: Floats) -> Floats:
    """The points in the units of the data; held parameters where they are held."""
    held, at = law.from_theta(low), {name: i for i, name in enumerate(law.names)}
    points = np.where(low == high, held, points)
    logs = np.log(np.where(rows.x > 0, rows.x, np.nan))
    means = dict(zip(law.variables, np.exp(np.nanmean(logs, axis=0)), strict=True))
    for name, (variable, power) in law.placed.items():
        if low[at[name]] < high[at[name]]:
            exponent = points[:, at[power]] if isinstance(power, str) else power
            points[:, at[name]] *= means[variable] ** exponent
    return points


def _solved(law: FunctionLaw, rows: Rows, theta: Floats, low: Floats, high: Floats) -> Floats:
    """theta with what the law, or its logarithm, is linear in where the relative errors are least."""
    names = law.log_linear or law.linear
    which = [i for i, name in enumerate(law.names) if name in names and low[i] < high[i]]
    if not which:
        return theta
    arrays, loss = dict(zip(law.variables, rows.x.T, strict=True)), np.exp(rows.y)
    vector = law.from_theta(theta)
    vector[which] = 0.0
    root = np.ones(len(loss)) if rows.weights is None else np.sqrt(rows.weights)

    def height(i: int | None = None) -> Floats:
        one = vector.copy()
        if i is not None:
            one[i] = 1.0
        value = law.curve(one, arrays)
        return root * (np.log(value) - rows.y if law.log_linear else value / loss - 1)

    with np.errstate(all="ignore"):
        rest = height()
        columns = np.stack([height(i) - rest for i in which], axis=1)
    length = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(rest).all() and np.isfinite(length).all() and length.all()):
        return theta
    if law.logarithmic[which].all():
        found = require("scipy.optimize", "laws").nnls(columns / length, -rest)[0]
        found = np.maximum(found, ALIVE * np.linalg.norm(root))
    else:
        found = np.linalg.lstsq(columns / length, -rest, rcond=None)[0]
    vector[which] = found / length
    return np.clip(law.to_theta(vector), low, high)
