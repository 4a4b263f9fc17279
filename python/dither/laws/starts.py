"""Where the search of a law begins: the law's own starts from the data, a user's grid, or a user's vectors.

A straight sum of power terms is linear in its coefficients and floor at given exponents: the engine projects
it. One that bends, L = E + (sum)^gamma, is a straight sum of (L - E)^(1/gamma) at a given E and gamma, of
which a few are tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.laws import engine, functions
from dither.laws.engine import Floats, Model, Objective, Rows
from dither.laws.law import FunctionLaw, SumLaw

KEEP = 20
"""Projected starts that are minimised: from each, all problems tried so far gave the best known optimum."""

BENDS = (0.03, 0.06, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75, 1.1, 2.0)
"""Exponents of the sum that are tried; those of laws published so far lie between .1 and 1.2."""

FLOORS = (0.05, 0.5, 0.8, 0.95)
"""Floors that are tried, as shares of the smallest loss."""

KEEP_BENT = 16
"""Starts of a law that bends that are minimised."""


def of(
    law: SumLaw | FunctionLaw, rows: Rows, objective: Objective, low: Floats, high: Floats, starts: Any
) -> Floats:
    """theta of every start: (starts, params). See `search.find`; UserError for what is no start."""
    if isinstance(starts, str):
        if starts != "project":
            raise UserError(f"starts={starts!r}: give 'project', a grid {{parameter: values}}, or vectors")
        if isinstance(law, SumLaw):
            return _projected(law, rows, low, high)
        return functions.starts(law, rows, objective, low, high)
    if isinstance(starts, Mapping):
        for name in starts:
            if name not in law.names:
                raise UserError(f"starts: {law.name} has no parameter {name!r}{suggest(name, law.names)}")
        missing = [name for name in law.names if name not in starts]
        if missing:
            raise UserError(f"starts: no values of {', '.join(missing)}")
        starts = np.array(list(product(*(starts[name] for name in law.names))), dtype=np.float64)
    vectors = np.atleast_2d(np.asarray(starts, dtype=np.float64))
    if vectors.ndim != 2 or vectors.shape[1] != len(law.names) or not len(vectors):
        raise UserError(f"starts must be rows of {', '.join(law.names)}, not of shape {vectors.shape}")
    scales = [parameter.logarithmic for parameter in law.parameters]
    if not np.isfinite(vectors).all() or (vectors[:, scales] < 0).any():
        raise UserError("starts must be finite, and those of scales not negative")
    return law.to_theta(vectors)


def _projected(law: SumLaw, rows: Rows, low: Floats, high: Floats) -> Floats:
    at = {name: i for i, name in enumerate(law.thetas)}
    base = np.where(low == high, low, 0.0)
    if law.model.outer is None:
        grid = {name: _within(values, low[at[name]], high[at[name]]) for name, values in law.grid.items()}
        return engine.project(law.model, rows, grid, base=base, keep=KEEP)[0]
    straight = Model(law.thetas, law.model.features, law.model.terms)
    floor, outer = at[law.model.floor or ""], at[law.model.outer]
    loss, weights = np.exp(rows.y), 1.0 if rows.weights is None else rows.weights
    lowest = rows.y[np.broadcast_to(weights, rows.y.shape) > 0].min()
    floors = np.unique(np.clip(lowest + np.log(FLOORS), low[floor], high[floor]))
    best, errors = [], []
    for gamma, ln_e in product(_within(np.array(BENDS), low[outer], high[outer]), floors):
        grid = {
            name: _within(values / gamma, low[at[name]], high[at[name]]) for name, values in law.grid.items()
        }
        above = loss - np.exp(ln_e)
        seen = above > 0
        # an error of a share of (L - E)^(1 / gamma) is one of gamma (L - E) / L times it of the loss
        slope = np.where(seen, (gamma * above / loss) ** 2, 0.0)
        bent = Rows.of(rows.x, np.log(np.where(seen, above, 1.0)) / gamma, weights * slope)
        found, error = engine.project(straight, bent, grid, base=base, keep=1)
        found[:, floor], found[:, outer] = ln_e, gamma
        best.append(found)
        errors.append(error)
    table, order = np.concatenate(best), np.argsort(np.concatenate(errors))
    # the best of every exponent of the sum, then the others
    first = np.unique(table[order, outer], return_index=True)[1]
    later = np.setdiff1d(np.arange(len(order)), first)
    return table[order[np.concatenate([np.sort(first), later])[:KEEP_BENT]]]


def _within(values: Floats, low: float, high: float) -> Floats:
    """The grid's values inside the bounds; where there are none, the nearest bound."""
    if low == high:
        return np.array([low])
    inside = values[(values >= low) & (values <= high)]
    return inside if len(inside) else np.clip(values[:1], low, high)
