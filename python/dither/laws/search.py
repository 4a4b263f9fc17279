"""From a table to the best known optimum of a law: bounds, starts, minimisation.

theta is what is searched: logarithms of scales, exponents as they are (`law.thetas`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.laws import engine, numeric
from dither.laws.engine import Floats, Objective, Optima, Rows
from dither.laws.law import FunctionLaw, SumLaw

KEEP = 20
"""Projected starts that are minimised: from each, all problems tried so far gave the best known optimum."""

DEEPEST = 20.0
"""ln E is kept above ln(min L) - DEEPEST: an E of a billionth of the loss is no E."""

FINITE = 700.0
"""Logarithms of starts are brought to this size: a coefficient of 0 or infinity is none to start from."""


@dataclass(frozen=True)
class Found:
    """The optima of every start; the starts, and the bounds, are theta's."""

    optima: Optima
    starts: Floats
    low: Floats
    high: Floats


def minimise(
    law: SumLaw | FunctionLaw,
    rows: Rows,
    starts: Floats,
    objective: Objective,
    low: Any,
    high: Any,
    threads: int = 1,
) -> Optima:
    """From every start, under every set of weights; shapes as `engine.minimise` has them."""
    if isinstance(law, SumLaw):
        return engine.minimise(
            law.model, rows, starts, objective=objective, low=low, high=high, threads=threads
        )
    return numeric.minimise(law, rows, starts, objective=objective, low=low, high=high)


def derivatives(
    law: SumLaw | FunctionLaw, rows: Rows, theta: Floats, objective: Objective
) -> tuple[float, Floats, Floats]:
    """The objective, its gradient and its Hessian at theta."""
    if isinstance(law, SumLaw):
        return engine.evaluate(law.model, rows, theta, objective)
    return numeric.evaluate(law, rows, theta, objective)


def residuals(law: SumLaw | FunctionLaw, rows: Rows, theta: Floats, objective: Objective) -> Floats:
    """ln L_hat - ln L of every row, or L_hat - L where the objective is raw."""
    if isinstance(law, FunctionLaw):
        return numeric.residuals(law, rows, theta, objective)
    f = engine.predict(law.model, rows.x, theta)
    return np.exp(f) - np.exp(rows.y) if objective.name.startswith("raw") else f - rows.y


def theta_bounds(
    law: SumLaw | FunctionLaw,
    y: Floats,
    bounds: Mapping[str, tuple[float, float]],
    fixed: Mapping[str, float],
) -> tuple[Floats, Floats]:
    """Bounds of theta: the law's own (E in (0, min L), exponents not negative), then the user's.

    UserError for a parameter that no theta stands for, or an empty interval.
    """
    at = {name: i for i, name in enumerate(law.thetas)}
    low, high = _own_bounds(law, y, at)
    given = {**{k: (v, v) for k, v in fixed.items()}, **bounds}
    for name, interval in given.items():
        if name not in law.same:
            why = "is not one of" if name not in law.names else "cannot be bounded in this form; bound one of"
            raise UserError(f"{name!r} {why} {', '.join(law.same)}{suggest(name, law.same)}")
        lowest, highest = (float(v) for v in interval)
        if not lowest <= highest:
            raise UserError(f"bounds of {name} are empty: {lowest} .. {highest}")
        i = at[law.same[name]]
        if law.parameters[law.names.index(name)].logarithmic:
            if highest < 0 or (highest == 0 and name != law.floor):
                raise UserError(f"{name} is positive: it cannot be held at {highest:g}")
            with np.errstate(divide="ignore"):
                lowest, highest = float(np.log(max(lowest, 0.0))), float(np.log(highest))
        if isinstance(law, SumLaw) and law.thetas[i] == law.model.floor:
            highest = max(highest, low[i])  # E = 0
        if max(low[i], lowest) > min(high[i], highest):
            why = (
                f"it lies below every loss ({np.exp(y.min()):.6g} is the least)"
                if name == law.floor
                else f"the law takes {low[i]:g} to {high[i]:g}"
            )
            raise UserError(f"{name} cannot lie within {interval[0]:g} .. {interval[1]:g}: {why}")
        low[i], high[i] = max(low[i], lowest), min(high[i], highest)
    return low, high


def _own_bounds(law: SumLaw | FunctionLaw, y: Floats, at: Mapping[str, int]) -> tuple[Floats, Floats]:
    low, high = np.full(len(at), -np.inf), np.full(len(at), np.inf)
    if isinstance(law, FunctionLaw):
        for i, parameter in enumerate(law.parameters):
            low[i], high[i] = law.to_theta(np.array([[parameter.low], [parameter.high]]) + np.zeros(len(at)))[
                :, i
            ]
        return low, high
    model = law.model
    exponents = {e.param for term in model.terms for e in term if e.feature is not None}
    for name in exponents | ({model.outer} if model.outer else set()):
        low[at[name]], high[at[name]] = 1e-6, 20.0
    for parameter in law.parameters:
        if parameter.low < 0:  # an exponent of either sign
            low[at[law.same[parameter.name]]] = parameter.low
    if model.floor is not None:
        low[at[model.floor]], high[at[model.floor]] = y.min() - DEEPEST, y.min()
    for name, value in law.fixed.items():
        low[at[name]] = high[at[name]] = value
    return low, high


def find(
    law: SumLaw | FunctionLaw,
    rows: Rows,
    objective: Objective,
    low: Floats,
    high: Floats,
    *,
    starts: Any = "project",
    threads: int = 1,
) -> Found:
    """Minimise from `starts`: "project" (the law's own), a grid {parameter: values}, or vectors of
    parameters.
    """
    given = _starts(law, rows, objective, low, high, starts, threads)
    inside = np.clip(np.clip(given, -FINITE, FINITE), low, high)
    optima = minimise(law, rows, inside, objective, low, high, threads)
    return Found(optima, inside, low, high)


def _starts(
    law: SumLaw | FunctionLaw,
    rows: Rows,
    objective: Objective,
    low: Floats,
    high: Floats,
    starts: Any,
    threads: int,
) -> Floats:
    if isinstance(starts, str):
        if starts != "project":
            raise UserError(f"starts={starts!r}: give 'project', a grid {{parameter: values}}, or vectors")
        if isinstance(law, SumLaw):
            return _projected(law, rows, objective, low, high, threads)
        starts = law.starts
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
    return law.to_theta(vectors)


def _projected(
    law: SumLaw, rows: Rows, objective: Objective, low: Floats, high: Floats, threads: int
) -> Floats:
    if law.via is None:
        at = {name: i for i, name in enumerate(law.model.params)}
        grid = {name: _within(values, low[at[name]], high[at[name]]) for name, values in law.grid.items()}
        base = np.where(low == high, low, 0.0)
        return engine.project(law.model, rows, grid, base=base, keep=KEEP)[0]
    # A law that bends starts from the optima of the straight one.
    straight = law.via
    own = theta_bounds(straight, rows.y, {}, {})
    optima = find(straight, rows, objective, *own, threads=threads).optima
    assert law.bend is not None
    ends, values = optima.theta[0], optima.value[0]
    best = ends[np.argsort(values)[:5]]
    return law.to_theta(law.bend(straight.from_theta(best)))


def _within(values: Floats, low: float, high: float) -> Floats:
    """The grid's values inside the bounds; where there are none, the nearest bound."""
    if low == high:
        return np.array([low])
    inside = values[(values >= low) & (values <= high)]
    return inside if len(inside) else np.clip(values[:1], low, high)
