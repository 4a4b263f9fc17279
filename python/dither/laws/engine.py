"""The compiled engine as arrays: sums of power terms, minimised from many starts under many weights.

A `Model` is a law in the engine's own parameters theta (logarithms of coefficients, exponents as they are)
over columns of features (mostly logarithms):

    z_j  = sum of factor * theta[param] * (feature, or 1)      a term's logarithm
    ln L = LSE(outer * LSE_j z_j, theta[floor])                the floor is ln E; outer is 1 unless it is a
    parameter

Objectives are sums over the rows, of r = ln L_hat - ln L: `huber` (delta), `lad`, `log_square`; of r = L_hat
- L: `raw_huber`, `raw_square`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither import _core
from dither.errors import UserError, suggest

Floats = NDArray[np.float64]

OBJECTIVES = ("huber", "lad", "log_square", "raw_square", "raw_huber")
ENDINGS = ("converged", "stalled", "stopped", "invalid")

LAD_DELTA = 1e-9
"""Least absolute deviations are the limit of Huber's objective, reached by a path of deltas down to this one:
a residual of this size lies below the digits of any table of losses.
"""


@dataclass(frozen=True)
class Entry:
    """`factor * theta[param] * feature`; without a feature, `factor * theta[param]`."""

    param: str
    feature: str | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class Model:
    """A sum of power terms, everything by name. Raises ValueError (from the engine) if it makes no sense."""

    params: tuple[str, ...]
    features: tuple[str, ...]
    terms: tuple[tuple[Entry, ...], ...]
    floor: str | None = None
    outer: str | None = None

    def description(self) -> Any:
        """What the extension takes."""
        at = {name: i for i, name in enumerate(self.params)}
        column = {name: i for i, name in enumerate(self.features)}

        def entry(e: Entry) -> tuple[int, int | None, float]:
            return at[e.param], None if e.feature is None else column[e.feature], float(e.factor)

        terms = [[entry(e) for e in term] for term in self.terms]
        floor = None if self.floor is None else at[self.floor]
        return (
            len(self.params),
            len(self.features),
            terms,
            floor,
            None if self.outer is None else at[self.outer],
        )


@dataclass(frozen=True)
class Objective:
    """What is minimised: one of OBJECTIVES, with the delta of the Huber forms."""

    name: str = "huber"
    delta: float = 1e-3

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise UserError(
                f"unknown objective {self.name!r}{suggest(self.name, OBJECTIVES)}; "
                f"objectives are {', '.join(OBJECTIVES)}"
            )
        if not self.delta > 0:
            raise UserError(f"delta must be positive, not {self.delta}")

    @property
    def has_delta(self) -> bool:
        return self.name.endswith("huber")

    def __str__(self) -> str:
        return f"{self.name}({self.delta:g})" if self.has_delta else self.name

    def path(self) -> list[tuple[str, float]]:
        """The engine's objectives to be minimised one after the other, each from the last one's optimum."""
        if self.name != "lad":
            return [(self.name, self.delta)]
        return [("huber", 10.0**-k) for k in range(3, 10)]

    @property
    def unit(self) -> float:
        """Divides the engine's value: Huber's is delta times the absolute deviation where delta is small."""
        return LAD_DELTA if self.name == "lad" else 1.0


@dataclass(frozen=True)
class Optima:
    """Where the engine ended, for every set of weights and every start.

    theta: (sets, starts, params); value, promise, evaluations, ending: (sets, starts). `promise` is the
    share of the objective that a further Newton step promises; `ending` indexes ENDINGS.
    """

    theta: Floats
    value: Floats
    promise: Floats
    evaluations: NDArray[np.int64]
    ending: NDArray[np.int64]

    def best(self) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """theta (sets, params) and value (sets,) of the best start of each set, and which one that was."""
        value = np.where(np.isnan(self.value), np.inf, self.value)
        which = np.argmin(value, axis=1)
        rows = np.arange(len(which))
        return self.theta[rows, which], self.value[rows, which], which


@dataclass(frozen=True)
class Rows:
    """A table. x: (rows, features); y: (rows,) ln L; weights: (sets, rows), (rows,) or None."""

    x: Floats
    y: Floats
    weights: Floats | None = None

    @staticmethod
    def of(x: Any, y: Any, weights: Any = None) -> Rows:
        w = None if weights is None else np.ascontiguousarray(weights, dtype=np.float64)
        return Rows(np.ascontiguousarray(x, dtype=np.float64), np.ascontiguousarray(y, dtype=np.float64), w)


def minimise(
    model: Model,
    rows: Rows,
    starts: Any,
    *,
    objective: Objective,
    low: Any = -np.inf,
    high: Any = np.inf,
    evaluations: int = 500,
    tolerance: float = 1e-14,
    threads: int = 1,
) -> Optima:
    """Every set of weights from every start.

    starts: (starts, params) for all sets, or (sets, starts, params). low, high: scalar, (params,) or
    (sets, params); equal bounds fix a parameter. `evaluations` of the objective at most, a start; converged
    where a Newton step promises less than `tolerance` of the objective.
    """
    size = len(model.params)
    given = np.asarray(starts, dtype=np.float64)
    sets = 1 if rows.weights is None or rows.weights.ndim == 1 else len(rows.weights)
    bounds = [np.asarray(b, dtype=np.float64) for b in (low, high)]
    shape = (size,) if all(b.ndim < 2 for b in bounds) else (sets, size)
    low, high = (np.ascontiguousarray(np.broadcast_to(b, shape)) for b in bounds)
    if rows.weights is None and len(shape) == 2:
        raise ValueError("bounds of several sets need weights of several sets")
    count = given.shape[-2]
    table = np.empty(0)
    for stage in objective.path():
        raw = _core.fit_minimise(
            model.description(),
            rows.x,
            rows.y,
            rows.weights,
            [stage],
            low,
            high,
            np.ascontiguousarray(given),
            count,
            evaluations,
            tolerance,
            threads,
        )
        table = np.frombuffer(raw).reshape(sets, count, size + 4)
        given = table[..., :size]
    return Optima(
        theta=table[..., :size].copy(),
        value=table[..., size] / objective.unit,
        promise=table[..., size + 1].copy(),
        evaluations=table[..., size + 2].astype(np.int64),
        ending=table[..., size + 3].astype(np.int64),
    )


def project(
    model: Model, rows: Rows, grid: dict[str, Floats], *, base: Any = None, keep: int = 20
) -> tuple[Floats, Floats]:
    """Starts by variable projection: exponents on a grid, coefficients and floor by least squares.

    `grid`: values of every exponent; parameters that are neither coefficients nor in the grid stay as in
    `base` (theta, zeros). Returns starts (at most keep, params) and the error of each, best first.
    """
    size = len(model.params)
    at = {name: i for i, name in enumerate(model.params)}
    raw = _core.fit_project(
        model.description(),
        rows.x,
        rows.y,
        rows.weights,
        [at[name] for name in grid],
        [[float(v) for v in values] for values in grid.values()],
        [0.0] * size if base is None else [float(v) for v in base],
        keep,
    )
    table = np.frombuffer(raw).reshape(-1, size + 1)
    return table[:, :size].copy(), table[:, size].copy()


def evaluate(model: Model, rows: Rows, theta: Any, objective: Objective) -> tuple[float, Floats, Floats]:
    """The objective, its gradient (params,) and its exact Hessian (params, params)."""
    size = len(model.params)
    value, gradient, hessian = _core.fit_evaluate(
        model.description(), rows.x, rows.y, rows.weights, objective.path()[-1], [float(t) for t in theta]
    )
    unit = objective.unit
    return value / unit, np.array(gradient) / unit, np.array(hessian).reshape(size, size) / unit


def predict(model: Model, x: Any, theta: Any) -> Floats:
    """ln L of every row of x: (rows, features)."""
    raw = _core.fit_predict(
        model.description(), np.ascontiguousarray(x, dtype=np.float64), [float(t) for t in theta]
    )
    return np.frombuffer(raw).copy()


def multi_power(eta: Any, warmup: float, law: Any, at: Any, threads: int = 1) -> Floats:
    """Losses of the multi-power law (2503.12811) at the steps `at` of a schedule.

    eta: (steps,) learning rates, positive; warmup: their sum before step 0; law: L0, A, alpha, B, C, beta,
    gamma.
    """
    raw = _core.fit_multipower(
        np.ascontiguousarray(eta, dtype=np.float64),
        float(warmup),
        [float(v) for v in law],
        [int(t) for t in at],
        threads,
    )
    return np.frombuffer(raw).copy()
