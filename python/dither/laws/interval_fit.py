"""A law fitted to losses that are known as intervals (`dither.laws.intervals`): the most likely curve under
normal noise of ln L, whose sd is that between reruns and that of the law's misfit together.

Every maximisation step is a least-squares fit of the compiled engine, so that laws, bounds and fixed
parameters are those of `dither.laws.fit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.laws import search, table
from dither.laws.engine import Floats, Objective, Rows
from dither.laws.fitting import AnyLaw, Fit, fit_arrays, get
from dither.laws.intervals import allowed, checked, climb, likelihood

SQUARES = Objective("log_square")


@dataclass(frozen=True)
class IntervalFit:
    """A law fitted to intervals.

    sd: of ln L about the law; noise: that between reruns, below which it was kept. midpoints: the ordinary
    fit to the middles of the closed intervals, where the climb began. gradient: of the log-likelihood by the
    free parameters, in units in which its Hessian's diagonal is 1 (0 at an optimum); eigenvalues: of that
    Hessian, negative everywhere at a maximum.
    """

    law: AnyLaw
    params: dict[str, float]
    sd: float
    noise: float
    log_likelihood: float
    gradient: float
    eigenvalues: tuple[float, ...]
    midpoints: Fit = field(repr=False)
    arrays: dict[str, Floats] = field(repr=False)
    low: Floats = field(repr=False)
    high: Floats = field(repr=False)
    theta: Floats = field(repr=False)
    bounds: tuple[Floats, Floats] = field(repr=False)

    @property
    def certified(self) -> bool:
        return self.gradient < 1e-3 and all(value < 0 for value in self.eigenvalues)

    @property
    def counts(self) -> dict[str, int]:
        """How many losses are exact, rounded, and bounded on one side."""
        closed = np.isfinite(self.low) & np.isfinite(self.high)
        exact = int(np.sum(self.low == self.high))
        return {
            "exact": exact, "rounded": int(closed.sum()) - exact, "bounded": int(np.sum(~closed)),
        }  # fmt: skip

    def predict(self, *, far: bool = False, **variables: Any) -> Floats:
        """The law's value. UserError more than 100 times beyond the data, unless `far`."""
        self.law.reach(self.law.arrays(variables), self.arrays, far)
        return self.law.predict(self.params, **variables)

    def interval(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """The interval of a parameter from its profile likelihood; where the data do not bound it, the end
        that the fit allows (0, infinity, or what was given)."""
        if name not in self.law.same:
            raise UserError(f"no interval of {name!r}{suggest(name, self.law.same)}")
        at = self.law.thetas.index(self.law.same[name])
        logarithmic = self.law.parameters[self.law.names.index(name)].logarithmic
        free = int(np.sum(self.bounds[0] < self.bounds[1]))
        limit = self.log_likelihood - allowed(len(self.low), free, level)
        ends = [self._end(at, side, limit) for side in (-1.0, 1.0)]
        low, high = (float(np.exp(e)) if logarithmic else float(e) for e in ends)
        return (0.0 if logarithmic and ends[0] <= self.bounds[0][at] else low), high

    def _end(self, at: int, side: float, limit: float) -> float:
        bound = float(self.bounds[0 if side < 0 else 1][at])
        theta, value, width = self.theta, float(self.theta[at]), 0.02 * (1 + abs(float(self.theta[at])))
        inner, outer = value, value
        for _ in range(30):
            outer = min(inner + width, bound) if side > 0 else max(inner - width, bound)
            theta, height = self._profile(at, outer, theta)
            if height < limit:
                break
            if outer == bound:
                return bound
            inner, width = outer, 2 * width
        else:
            return side * np.inf
        for _ in range(14):
            middle = 0.5 * (inner + outer)
            theta, height = self._profile(at, middle, theta)
            inner, outer = (inner, middle) if height < limit else (middle, outer)
        return 0.5 * (inner + outer)

    def _profile(self, at: int, value: float, theta: Floats) -> tuple[Floats, float]:
        low, high = (bound.copy() for bound in self.bounds)
        low[at] = high[at] = value
        theta, _, height = _climb(self, np.clip(theta, low, high), low, high)
        return theta, height


def fit_intervals(
    law: AnyLaw | str,
    data: Any,
    *,
    low: str = "low",
    high: str = "high",
    noise: float = 0.0,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    fixed: Mapping[str, float] | None = None,
    **columns: str,
) -> IntervalFit:
    """Fit `law` to a table whose losses lie between two columns.

    Args:
        law, data, bounds, fixed, columns: as `dither.laws.fit` takes them. low, high: names of the columns of
        the ends, equal for exact losses; `low` may be 0 (an upper bound only), `high` infinite. noise: sd of
        ln L between reruns of the same cell (`rerun_noise` of ln L), which the fit may not undercut.

    Raises UserError for unusable columns, and for fewer closed intervals than free parameters.
    """
    law = get(law) if isinstance(law, str) else law
    if not 0 <= noise < np.inf:
        raise UserError(f"noise is a standard deviation, not {noise:g}")
    names = {**{v: columns.get(v, v) for v in law.variables}, "the low end": low, "the high end": high}
    taken = table.select(data, names)
    ends = checked(taken.pop("the low end"), taken.pop("the high end"))
    if not ((ends[0] >= 0).all() and (ends[1] > 0).all()):
        raise UserError("losses are positive: low ends must be at least 0 and high ends above 0")
    with np.errstate(divide="ignore"):
        logs = np.log(ends[0]), np.log(ends[1])
    arrays = law.arrays(taken)
    closed = np.isfinite(logs[0]) & np.isfinite(logs[1])
    middle = fit_arrays(
        law,
        {name: values[closed] for name, values in arrays.items()},
        np.exp(0.5 * (logs[0][closed] + logs[1][closed])),
        SQUARES,
        None,
        "project",
        bounds or {},
        fixed or {},
    )
    start = IntervalFit(
        law, middle.params, 0.0, noise, 0.0, np.inf, (), middle, arrays, *logs, middle.theta,
        (middle.low, middle.high),
    )  # fmt: skip
    theta, sd, height = _climb(start, middle.theta, middle.low, middle.high)
    found = replace(start, params=law.named(law.from_theta(theta)), sd=sd, log_likelihood=height, theta=theta)
    gradient, eigenvalues = _certificate(found)
    return replace(found, gradient=gradient, eigenvalues=eigenvalues)


def _curve(fit: IntervalFit, theta: Floats) -> Floats:
    return np.log(fit.law.curve(fit.law.from_theta(theta), fit.arrays))


def _climb(fit: IntervalFit, theta: Floats, low: Floats, high: Floats) -> tuple[Floats, float, float]:
    """theta, sd and log-likelihood at the optimum within bounds."""
    x, place = fit.law.columns(fit.arrays), [theta]

    def step(targets: Floats) -> Floats:
        rows = Rows.of(x, targets, None)
        place[0] = search.minimise(fit.law, rows, place[0][None], SQUARES, low, high).best()[0][0]
        return _curve(fit, place[0])

    _, sd, height = climb(step, _curve(fit, theta), fit.low, fit.high, fit.noise)
    return place[0], sd, height


def _certificate(fit: IntervalFit) -> tuple[float, tuple[float, ...]]:
    """The scaled gradient and the eigenvalues of the scaled Hessian at the fitted sd: the score of every row
    is exact, the curve's derivatives are central differences."""
    # a parameter at its bound may have a gradient at the optimum
    free = np.flatnonzero((fit.bounds[0] < fit.theta) & (fit.theta < fit.bounds[1]))
    size = 1 + np.abs(fit.theta[free])

    def moved(theta: Floats, i: int, by: float) -> Floats:
        theta = theta.copy()
        theta[free[i]] += by * size[i]
        return theta

    def slopes(theta: Floats) -> Floats:
        mu = _curve(fit, theta)
        score = (likelihood(mu, fit.sd, fit.low, fit.high)[1] - mu) / fit.sd**2
        ends = [(_curve(fit, moved(theta, i, 1e-6)), _curve(fit, moved(theta, i, -1e-6))) for i in at]
        return np.array(
            [score @ (up - down) / (2e-6 * size[i]) for i, (up, down) in zip(at, ends, strict=True)]
        )

    at = range(len(free))
    gradient = slopes(fit.theta)
    hessian = np.stack(
        [
            (slopes(moved(fit.theta, i, 1e-5)) - slopes(moved(fit.theta, i, -1e-5))) / (2e-5 * size[i])
            for i in at
        ]
    )
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(hessian)), np.finfo(float).tiny))
    values = np.linalg.eigvalsh(0.5 * (hessian + hessian.T) * scale[:, None] * scale)
    return float(np.linalg.norm(gradient * scale)), tuple(float(v) for v in values)
