"""From a table to the best known optimum of a law: bounds, starts, minimisation.

theta is what is searched: logarithms of scales, exponents as they are (`law.thetas`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.laws import engine, numeric
from dither.laws import starts as begin
from dither.laws.certificate import SAME
from dither.laws.descent import differences
from dither.laws.engine import Floats, Objective, Optima, Rows
from dither.laws.law import FunctionLaw, SumLaw

DEEPEST = 20.0
"""ln E is kept above ln(min L) - DEEPEST: an E of a billionth of the loss is no E."""

FINITE = 700.0
"""Logarithms of starts are brought to this size: a coefficient of 0 or infinity is none to start from."""

SHORT = 40
"""Evaluations of a function from each of many starts at first."""


@dataclass(frozen=True)
class Stage:
    """So many ends, the lowest of those that have not converged, go on for so many evaluations; `always`, or
    where none as low as the best has converged."""

    ends: int
    evaluations: int
    always: bool = False


SUM_STAGES = (Stage(5, 3000),) * 3
FUNCTION_STAGES = (Stage(10, 200, always=True), Stage(2, 1000), Stage(1, 2000))
"""What had a short search may be another minimum near the best: ten go on in any case."""

PROMISING = 0.5
"""Ends go on that lie up to this share above the best."""


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
    *,
    evaluations: int | None = None,
) -> Optima:
    """From every start, under every set of weights; shapes as `engine.minimise` has them."""
    given = {} if evaluations is None else {"evaluations": evaluations}
    if isinstance(law, SumLaw):
        return engine.minimise(
            law.model, rows, starts, objective=objective, low=low, high=high, threads=threads, **given
        )
    return numeric.minimise(law, rows, starts, objective=objective, low=low, high=high, **given)


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


def slopes(law: SumLaw | FunctionLaw, rows: Rows, theta: Floats, low: Floats, high: Floats) -> Floats:
    """Derivatives of ln L_hat, of the rows that count: (rows, params), by scales' logarithms and exponents;
    by a function's parameter that is no scale, in units in which the column's length is 1.
    """
    if rows.weights is not None:
        rows = Rows(rows.x[rows.weights > 0], rows.y[rows.weights > 0])
    found = differences(lambda t: residuals(law, rows, t, Objective("log_square")), low, high)(theta)
    if isinstance(law, FunctionLaw):
        length = np.linalg.norm(found, axis=0)
        found = np.where(law.logarithmic | (length == 0), found, found / np.where(length > 0, length, 1.0))
    return found


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
        try:
            lowest, highest = (float(v) for v in interval)
        except (TypeError, ValueError):
            raise UserError(f"bounds of {name} are a pair of numbers, not {interval!r}") from None
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
    if isinstance(law, FunctionLaw):
        return law.limits
    low, high = np.full(len(at), -np.inf), np.full(len(at), np.inf)
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
    given = begin.of(law, rows, objective, low, high, starts)
    inside = _distinct(np.clip(np.clip(given, -FINITE, FINITE), low, high))
    staged = objective.name != "lad"
    first = SHORT if staged and isinstance(law, FunctionLaw) else None
    optima = minimise(law, rows, inside, objective, low, high, threads, evaluations=first)
    if staged:
        _finish(law, rows, optima, objective, low, high, threads)
    return Found(optima, inside, low, high)


def _distinct(starts: Floats) -> Floats:
    """Each start once, in their order: what bounds bring to one point says nothing twice."""
    _, first = np.unique(starts, axis=0, return_index=True)
    return starts[np.sort(first)]


def _finish(
    law: SumLaw | FunctionLaw,
    rows: Rows,
    optima: Optima,
    objective: Objective,
    low: Floats,
    high: Floats,
    threads: int,
) -> None:
    """Let the lowest ends of `optima` go on, in stages: valleys of laws with many parameters, or of one that
    bends, are long and narrow.
    """
    for stage in SUM_STAGES if isinstance(law, SumLaw) else FUNCTION_STAGES:
        value, ending = optima.value[0], optima.ending[0]
        best = np.min(value, initial=np.inf, where=np.isfinite(value))
        if not stage.always and (ending[value <= best * (1 + SAME)] == 0).any():
            break
        unfinished = np.flatnonzero((value <= best * (1 + PROMISING)) & (ending != 0))
        unfinished = unfinished[np.argsort(value[unfinished])][: stage.ends]
        if not len(unfinished):
            break
        ends = optima.theta[0][unfinished]
        more = minimise(law, rows, ends, objective, low, high, threads, evaluations=stage.evaluations)
        optima.evaluations[0, unfinished] += more.evaluations[0]
        for end, further in (
            (optima.theta, more.theta),
            (optima.value, more.value),
            (optima.promise, more.promise),
            (optima.ending, more.ending),
        ):
            end[0, unfinished] = further[0]
