"""Profiles of the objective: its optimum at held values of a parameter, or of anything derived from them.

Where the optimum at a held value rises above a limit lies the end of an interval that follows ridges, which
errors from a Hessian do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dither.errors import UserError, suggest
from dither.laws import search
from dither.laws.descent import Constraint, Problem, descend, differences, slope
from dither.laws.engine import Floats, Rows
from dither.laws.scales import tails
from dither.laws.uncertainty import Derived
from dither.paired import student_quantile

if TYPE_CHECKING:
    from dither.laws.fitting import Fit


PARTS = (1, 8)
"""Steps in which a held value is approached; more where fewer do not arrive."""

FLAT = 1e-3
"""Share of its slope along directions in which the objective does not bend, from which a quantity is not
identified."""

WIDE = 100
"""Ends of an interval of a scale whose ratio is higher are shown on a logarithmic axis."""

OTHERS = 4
"""Minima from which a profile is followed at most."""

ATTEMPTS = 12
"""Halvings towards values that a derived quantity does not reach, before that side counts as not bounded."""


@dataclass(frozen=True)
class Profile:
    """The optimum at held values of one parameter, or of a quantity derived from all.

    x: values; value: the objective there (both empty where the quantity is not identified at all); limit: the
    height that bounds the interval; low, high: where the profile crosses it (None: it does not, so that side
    is not identified).
    """

    name: str
    x: Floats
    value: Floats
    level: float
    limit: float
    low: float | None
    high: float | None


def profile(fit: Fit, name: str | Derived, *, level: float, points: int) -> Profile:
    """See `Fit.profile`."""
    tails(level)
    if points < 0:
        raise UserError(f"a profile has points, not {points}")
    if not isinstance(name, str):
        return _derived(fit, name, level, points)
    if name not in fit.law.same:
        raise UserError(
            f"no profile of {name!r}{suggest(name, fit.law.same)}; give one of {', '.join(fit.law.same)}"
        )
    at = fit.law.thetas.index(fit.law.same[name])
    logarithmic = fit.law.parameters[fit.law.names.index(name)].logarithmic
    centre = fit.theta[at]
    rows = len(fit.loss)
    limit = fit.value + rise(fit, level)

    # Away from the optimum another minimum may be the lower one.
    others = (fit.law.to_theta(fit.law.vector(params)) for _, params in fit.minima[1:OTHERS])
    begin = np.array([fit.theta, *(theta for theta in others if np.isfinite(theta).all())])

    own = None if fit.weights is None else fit.weights[None]
    data = Rows.of(fit.rows.x, fit.rows.y, np.ones((1, rows)) if own is None else own)
    known = [(float(centre), fit.theta)]

    def held(value: float, starts: Sequence[Floats]) -> tuple[Floats, float]:
        low, high = fit.low.copy()[None], fit.high.copy()[None]
        low[0, at] = high[0, at] = value
        theta, height, _ = search.minimise(fit.law, data, np.array(starts), fit.objective, low, high).best()
        return theta[0], float(height[0])

    def lowest(value: float) -> float:
        """From the fit's minima and from the nearest values that were solved; step by step from these where
        that ends above the limit, since a search that begins far off the ridge stops short of it."""
        best = held(value, [*begin, *_ahead(known, value)])
        if not best[1] <= limit:
            origin = min(known, key=lambda one: abs(one[0] - value))[0]
            for step in np.linspace(origin, value, PARTS[-1] + 1)[1:].tolist():
                end = held(step, _ahead(known, step))
                known.append((step, end[0]))
            best = min(best, end, key=lambda one: one[1])
        known.append((value, best[0]))
        return best[1]

    def optimum(values: Floats) -> Floats:
        """From the centre outwards."""
        heights = np.empty(len(values))
        for i in np.argsort(np.abs(values - centre)).tolist():
            heights[i] = lowest(float(values[i]))
        return heights

    width = 0.05 * (1 + abs(centre))
    ends: list[float | None] = []
    for side, bound in ((-1.0, fit.low[at]), (1.0, fit.high[at])):
        ends.append(_crossing(optimum, float(centre), side, float(bound), width, limit))
    reach = [
        centre - 3 * width if ends[0] is None else ends[0],
        centre + 3 * width if ends[1] is None else ends[1],
    ]
    span = (reach[1] - reach[0]) * 0.25
    first, last = np.clip([reach[0] - span, reach[1] + span], fit.low[at], fit.high[at])
    natural = np.exp if logarithmic else lambda v: v
    low, high = (None if e is None else float(natural(e)) for e in ends)
    # The logarithm of an E near 0 reaches so far down that the rest of the curve would have a point or two.
    even = logarithmic and not (low and high and high > WIDE * low)
    marks = [centre, *(e for e in ends if e is not None)][:points]
    x = np.linspace(*((natural(first), natural(last)) if even else (first, last)), points - len(marks))
    x = np.sort([*(np.log(x) if even else x), *marks])
    return Profile(name, natural(x), optimum(x), level, float(limit), low, high)


def _ahead(known: Sequence[tuple[float, Floats]], value: float) -> list[Floats]:
    """Starts at a value: the optimum of the nearest that is known, and the line through the nearest two."""
    near = sorted(known, key=lambda one: abs(one[0] - value))
    (first, theta), *others = near
    second = next(((at, other) for at, other in others if at != first), None)
    if second is None:
        return [theta]
    at, other = second
    return [theta, theta + (value - first) / (first - at) * (theta - other)]


def _derived(fit: Fit, derived: Derived, level: float, points: int) -> Profile:
    """The profile of `derived(**params)`: the objective under the constraint that it has a value."""

    def value(theta: Floats) -> float:
        return float(derived(**fit.law.named(fit.law.from_theta(theta))))

    problem = _problem(fit)
    centre, along = value(fit.theta), np.where(fit.low < fit.high, slope(value, fit.theta), 0.0)
    if not (np.isfinite(centre) and np.isfinite(along).all() and along.any()):
        raise UserError(
            f"no profile of {_name(derived)}: at the optimum it is {centre:.6g} and does not change with the "
            "parameters; give a function of them that is smooth there"
        )
    rises = rise(fit, level)
    way, left = _across(problem, fit.theta, along)
    if left > FLAT:
        return Profile(_name(derived), np.empty(0), np.empty(0), level, fit.value + rises, None, None)
    width = float(np.sqrt(2 * rises * fit.objective.unit * along @ way))  # in the quadratic approximation
    known = [(centre, fit.theta)]

    def walk(target: float, parts: int) -> tuple[Floats, float] | None:
        """The optimum there, from the nearest value that was solved, by so many steps."""
        begin, theta = min(known, key=lambda one: abs(one[0] - target))
        end = None
        for step in np.linspace(begin, target, parts + 1)[1:].tolist():
            end = descend(problem, theta, Constraint(value, step, width))
            if end is None:
                return None
            theta = end[0]
        return end

    def optimum(values: Floats) -> Floats:
        """Infinite where the quantity does not get there."""
        found = []
        for target in values.tolist():
            end = next((end for parts in PARTS if (end := walk(target, parts)) is not None), None)
            if end is not None:
                known.append((target, end[0]))
            found.append(np.inf if end is None else max(end[1] / fit.objective.unit, fit.value))
        return np.array(found)

    ends = [_crossing(optimum, centre, side, side * np.inf, width, fit.value + rises) for side in (-1.0, 1.0)]
    reach = [
        centre + side * width if end is None else end for side, end in zip((-2.0, 2.0), ends, strict=True)
    ]
    span = 0.25 * (reach[1] - reach[0])
    x = np.linspace(reach[0] - span, reach[1] + span, points)
    return Profile(_name(derived), x, optimum(x), level, float(fit.value + rises), *ends)


def _name(derived: Derived) -> str:
    return getattr(derived, "__name__", "derived")


def _problem(fit: Fit) -> Problem:
    """The fit's objective as residuals, without the engine's closed form."""
    name, delta = fit.objective.path()[-1]

    def residuals(theta: Floats) -> Floats:
        return search.residuals(fit.law, fit.rows, theta, fit.objective)

    weights = np.ones(len(fit.loss)) if fit.weights is None else fit.weights
    delta = delta if name.endswith("huber") else np.inf
    return Problem(residuals, differences(residuals, fit.low, fit.high), weights, delta, fit.low, fit.high)


def _across(problem: Problem, theta: Floats, along: Floats) -> tuple[Floats, float]:
    """Matrix^+ along, and the share of `along` in directions in which the objective does not bend; in units
    in which the matrix' diagonal is 1."""
    _, matrix = problem.normal(theta)
    unit = 1 / np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
    unit[problem.low == problem.high] = 0.0
    scaled, part = matrix * unit[:, None] * unit, unit * along
    found = np.linalg.lstsq(scaled, part, rcond=1e-12)[0]
    return unit * found, float(np.linalg.norm(part - scaled @ found) / np.linalg.norm(part))


def rise(fit: Fit, level: float) -> float:
    """How far above its optimum the profiled objective stays inside an interval.

    The likelihood-ratio test of M-estimates (Hampel et al. 1986, section 7.2): 2 rise sum(w psi') /
    sum(w^2 psi^2) is about the square of Student's t, whatever the unit of the weights w. Of n rows and p
    free parameters, n - p count in the mean of psi^2, and the whole is K^2 times as high, K = 1 + p/n
    var(psi') / mean(psi')^2 (Huber 1981, section 7.6): for squares that is the F test. psi' is averaged over
    a window of the residuals' own width, because Huber's and the absolute deviation's have it at a few points
    only.
    """
    r, objective = search.residuals(fit.law, fit.rows, fit.theta, fit.objective), fit.objective
    weights = np.ones(len(r)) if fit.weights is None else fit.weights
    n, p = len(r), int(np.sum(fit.low < fit.high))
    left = max(1, n - p)
    delta = objective.path()[-1][1] if objective.has_delta or objective.name == "lad" else np.inf
    low, high = np.percentile(r, (25, 75))
    window = max(float(high - low) * n**-0.2, np.finfo(float).tiny)
    bend = (np.clip(r + window, -delta, delta) - np.clip(r - window, -delta, delta)) / (2 * window)
    mean = max(float(np.average(bend, weights=weights)), np.finfo(float).tiny)
    few = 1 + p / n * np.average((bend / mean - 1) ** 2, weights=weights)
    square = np.sum((weights * np.clip(r, -delta, delta)) ** 2) * n / left
    t = student_quantile(0.5 + level / 2, left)
    return float(0.5 * t**2 * few**2 * square / (weights.sum() * mean) / objective.unit)


def _crossing(
    optimum: Callable[[Floats], Floats], centre: float, side: float, bound: float, width: float, limit: float
) -> float | None:
    """Where the profile crosses the limit on one side: bracketed by doubling, then by secants of the root of
    the rise, which grows about evenly, with halvings where these do not shrink the bracket.
    """

    def over(x: float) -> float:
        value = optimum(np.array([x]))[0]
        return float(np.sqrt(max(value - least, 0.0)) - root) if np.isfinite(value) else np.inf

    least = float(optimum(np.array([centre]))[0])
    root = float(np.sqrt(max(limit - least, 0.0)))
    inner, outer, at_inner, at_outer = centre, centre, -root, -root
    for _ in range(12):
        outer = centre + side * width
        outer = max(outer, bound) if side < 0 else min(outer, bound)
        at_outer = over(outer)
        if at_outer > 0:
            break
        if outer == bound:
            return None
        inner, at_inner, width = outer, at_outer, 2 * width
    else:
        return None
    for turn in range(60):
        if turn == ATTEMPTS and not np.isfinite(at_outer):
            return None
        share = at_inner / (at_inner - at_outer) if turn % 3 < 2 and np.isfinite(at_outer) else 0.5
        middle = inner + float(np.clip(share, 0.01, 0.99)) * (outer - inner)
        height = over(middle)
        if abs(height) < 1e-7 * root or abs(outer - inner) < 1e-12 * (1 + abs(centre)):
            return middle
        if height > 0:
            outer, at_outer = middle, height
        else:
            inner, at_inner = middle, height
    return outer
