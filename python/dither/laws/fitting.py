"""Fit a law to a table, and what one gets: parameters, certificate, predictions, intervals, a card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError, suggest
from dither.files import finite
from dither.laws import cautions, corner, search, table
from dither.laws.certificate import Certificate, certify, minima
from dither.laws.engine import Floats, Objective, Rows
from dither.laws.law import LARGEST, FunctionLaw, SumLaw, unusable
from dither.laws.profiles import Profile, profile
from dither.laws.table import listed
from dither.laws.uncertainty import Bootstrap, Derived, bootstrap

AnyLaw = SumLaw | FunctionLaw
Mask = NDArray[np.bool_]

MANY = 5
"""Starts from which on the share that reaches the optimum is evidence."""

PLOTS = (
    "residuals",
    "extrapolation",
    "starts",
    "sensitivity",
    "contours",
    "reducible",
    "tokens_per_parameter",
)
"""Pictures of `Fit.plot`: functions of a fit alone in `dither.laws.plots`."""


class Settings(NamedTuple):
    """How a fit was asked for, as `fit` and `fit_arrays` take it."""

    starts: Any
    bounds: Mapping[str, tuple[float, float]]
    fixed: Mapping[str, float]
    threads: int


@dataclass(frozen=True)
class Fit:
    """A law fitted to a table.

    params: name -> value. value: of the objective (a sum over rows). certificate: evidence that this is the
    optimum. minima: (value, params) of every distinct minimum within 1 % of the best, best first. cautions:
    what a reader must know, in words. theta: the parameters as they were searched. arrays, loss and weights
    are of the rows that were fitted; used: which of the table's these are (rows of weight 0 are not).
    """

    law: AnyLaw
    params: dict[str, float]
    objective: Objective
    value: float
    certificate: Certificate
    minima: tuple[tuple[float, dict[str, float]], ...]
    cautions: tuple[str, ...]
    arrays: dict[str, Floats] = field(repr=False)
    loss: Floats = field(repr=False)
    weights: Floats | None = field(repr=False)
    used: Mask = field(repr=False)
    theta: Floats = field(repr=False)
    low: Floats = field(repr=False)
    high: Floats = field(repr=False)
    settings: Settings = field(repr=False)

    @property
    def rows(self) -> Rows:
        return Rows.of(self.law.columns(self.arrays), np.log(self.loss), self.weights)

    def of_rows(self, values: Any, what: str) -> Any:
        """Values that are given one a row of the table, of the rows that were fitted. UserError for other
        numbers of them; what: names them there."""
        found = np.asarray(values)
        if found.shape != self.used.shape:
            raise UserError(
                f"{what} must be {len(self.used)}, one for each row of the table, not {found.shape}"
            )
        return found[self.used]

    def predict(self, *, far: bool = False, **variables: Any) -> Floats:
        """The law's value at `variables`. UserError beyond FARTHEST times the data's span, unless `far`."""
        arrays = self.law.arrays(variables)
        self.reach(arrays, far)
        return self.law.curve(self.law.vector(self.params), arrays)

    def extrapolation(self, at: Mapping[str, Any]) -> float:
        """How far beyond the data some of the variables lie: see `Law.extrapolation`."""
        return self.law.extrapolation(at, self.arrays)

    def reach(self, at: Mapping[str, Any], far: bool = False) -> float:
        """`extrapolation`. UserError further than FARTHEST, unless `far`."""
        return self.law.reach(at, self.arrays, far)

    def reach_of(self, derived: str | Derived, far: bool = False) -> float:
        """`reach` of where a derived quantity is taken, if it says so in its `where(**params)`; else 1."""
        where = getattr(derived, "where", None)
        return 1.0 if where is None else self.reach(where(**self.params), far)

    @property
    def residuals(self) -> Floats:
        """ln L - ln L_hat of every row."""
        # Of theta: a scale may lie beyond what a number holds, as its logarithm does not.
        return -search.residuals(self.law, self.rows, self.theta, Objective("log_square"))

    def bootstrap(
        self, n: int = 1000, *, by: Any = None, weights: Any = None, seed: int = 0, threads: int = 1
    ) -> Bootstrap:
        """Refit to `n` resamples of the rows, or of the groups that `by` names.

        by: a label a row (a run, a size); "scale" (of compute); "scale/row", or a pair of either, outer
        first: groups are drawn, then what is inside each of them (scales, then their seeds or runs).
        weights: (n, rows) counts of resamples drawn elsewhere, in place of `n`, `by` and `seed`.
        """
        return bootstrap(self, n, by=by, weights=weights, seed=seed, threads=threads)

    def profile(
        self, name: str | Derived, *, level: float = 0.95, points: int = 41, far: bool = False
    ) -> Profile:
        """The objective's optimum at held values of one parameter, or of `name(**params)`, a number derived
        from all of them (`dither.laws.derived` has some), and the interval it gives. UserError for an optimum
        of `derived` further than FARTHEST beyond the data, unless `far`.
        """
        self.reach_of(name, far)
        return profile(self, name, level=level, points=points)

    def interval(
        self, level: float = 0.95, *, n: int = 1000, by: Any = None, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Percentile bootstrap intervals of every parameter."""
        return self.bootstrap(n, by=by, seed=seed).interval(level)

    def plot(self, name: str = "residuals", **options: Any) -> Any:
        """A matplotlib figure of the fit: residuals, extrapolation, starts, sensitivity, contours, reducible,
        tokens_per_parameter (see `dither.laws.plots`, which has those of other input). UserError for others.
        """
        from dither.laws import plots

        if name not in PLOTS:
            raise UserError(
                f"no picture {name!r} of a fit{suggest(name, PLOTS)}; there are {', '.join(PLOTS)}"
            )
        return getattr(plots, name)(self, **options)

    def card(self) -> dict[str, Any]:
        """Everything needed to check the fit, as JSON takes it: what is no number there is None."""
        digest = hashlib.sha256()
        for values in (*self.arrays.values(), self.loss):
            digest.update(np.ascontiguousarray(values).tobytes())
        return finite(
            {
                "law": self.law.name,
                "formula": self.law.formula,
                "source": self.law.source,
                "variables": dict(self.law.variables),
                "response": self.law.response,
                "rows": len(self.loss),
                "ranges": {
                    k: [float(v.min()), float(v.max())] for k, v in {**self.arrays, "loss": self.loss}.items()
                },
                "data_sha256": digest.hexdigest(),
                "objective": str(self.objective),
                "reduction": "sum",
                "value": self.value,
                "params": self.params,
                "certificate": asdict(self.certificate),
                "minima": [{"value": value, "params": params} for value, params in self.minima],
                "cautions": list(self.cautions),
            }
        )

    def __str__(self) -> str:
        lines = [f"{self.law.name}: {self.law.formula}"]
        held = cautions.at_bound(self)
        lines += [
            f"  {name:<8} {value:.6g}" + " (at its bound)" * (name in held)
            for name, value in self.params.items()
        ]
        c = self.certificate
        hits = (
            f"{c.hit_rate:.0%} of {c.starts} starts reach it" if c.starts >= MANY else f"starts: {c.starts}"
        )
        lines += [
            f"  {self.objective} = {self.value:.8g} over {len(self.loss)} rows; {c.ending}, {hits}, minima "
            f"within 1 %: {c.minima}, condition {c.condition:.2g}"
        ]
        return "\n".join(lines + [f"  ! {caution}" for caution in self.cautions])

    def to_json(self) -> str:
        return json.dumps(self.card(), indent=1, default=float, allow_nan=False)


def fit(
    law: AnyLaw | str,
    data: Any,
    *,
    loss: str = "loss",
    objective: str = "huber",
    delta: float = 1e-3,
    weights: Any = None,
    starts: Any = "project",
    bounds: Mapping[str, tuple[float, float]] | None = None,
    fixed: Mapping[str, float] | None = None,
    threads: int = 1,
    **columns: str,
) -> Fit:
    """Fit `law` to a table and certify the optimum.

    Args:
        law: a law or its name (`dither.laws.names()`).
        data: a mapping of columns, a pandas / polars / Arrow frame, or the path of a .csv, .jsonl or
        .parquet file. loss: name of the column of losses; `columns`: law's variable -> column's name
        (default: its own name). objective: "huber" (of log residuals, `delta`), "lad", "log_square",
        "raw_square", "raw_huber"; summed. weights: one a row, of any unit; rows of weight 0 are left out,
        whatever their loss.
        starts: "project", a grid {parameter: values}, or rows of parameters.
        bounds, fixed: parameter -> (low, high), or a value.

    Raises UserError for missing or unusable columns, and for fewer rows than free parameters.
    """
    law = law if isinstance(law, AnyLaw) else get(law)
    if threads < 1:
        raise UserError(f"a fit needs one thread or more, not {threads}")
    for name in columns:
        if name not in law.variables:
            raise UserError(
                f"{law.name} has no variable {name!r}{suggest(name, law.variables)}; "
                f"its variables are {', '.join(law.variables)}"
            )
    taken = table.select(data, {**{v: columns.get(v, v) for v in law.variables}, "the loss": loss})
    w = None if weights is None else np.asarray(weights, dtype=np.float64)
    used = np.ones(len(taken["the loss"]), dtype=bool)
    if w is not None:
        if w.shape != used.shape or not (np.isfinite(w) & (w >= 0)).all():
            raise UserError(f"weights must be {len(used)} finite numbers that are not negative")
        used = w > 0
        w = w[used]
    if not used.any():
        raise UserError("the table has no rows" + " of a weight above 0" * (w is not None))
    y = taken.pop("the loss")
    bad = unusable(y)
    if len(bad := bad[used[bad]]):
        raise UserError(
            f"column {loss!r} has {len(bad)} losses that are missing, infinite, zero, negative or beyond "
            f"{LARGEST:g} (rows {listed(bad)}); drop them"
        )
    arrays = {name: values[used] for name, values in law.arrays(taken).items()}
    kind = Objective(objective, delta)
    return fit_arrays(law, arrays, y[used], kind, w, starts, bounds or {}, fixed or {}, threads, used)


def fit_arrays(
    law: AnyLaw,
    arrays: dict[str, Floats],
    loss: Floats,
    objective: Objective,
    weights: Floats | None,
    starts: Any,
    bounds: Mapping[str, tuple[float, float]],
    fixed: Mapping[str, float],
    threads: int = 1,
    used: Mask | None = None,
) -> Fit:
    """`fit` of checked arrays, whose rows all count."""
    rows = Rows.of(law.columns(arrays), np.log(loss), weights)
    low, high = search.theta_bounds(law, rows.y, bounds, fixed)
    free = int(np.sum(low < high))
    if len(loss) < free:
        raise UserError(
            f"{law.name} has {free} free parameters, but there are {len(loss)} rows; "
            "fix some (fixed=), take a law with fewer, or measure more"
        )
    found = search.find(law, rows, objective, low, high, starts=starts, threads=threads)
    optima, corners = found.optima, None
    if objective.name == "lad":
        optima, corners = corner.settle(law, rows, optima, objective, low, high)
    theta, value, _ = (part[0] for part in optima.best())
    _, gradient, hessian = search.derivatives(law, rows, theta, objective)
    if corners is not None:  # which has neither
        gradient, hessian = np.zeros_like(gradient), corners
    slopes = search.slopes(law, rows, theta, low, high)
    certificate = certify(law.labels, optima, found.starts, gradient, hessian, low, high, slopes)
    ends = zip(*minima(optima, low < high), strict=True)
    result = Fit(
        law=law,
        params=law.named(law.from_theta(theta)),
        objective=objective,
        value=float(value),
        certificate=certificate,
        minima=tuple((float(v), law.named(law.from_theta(end))) for end, v in ends),
        cautions=(),
        arrays=arrays,
        loss=loss,
        weights=weights,
        used=np.ones(len(loss), dtype=bool) if used is None else used,
        theta=theta,
        low=low,
        high=high,
        settings=Settings(starts, bounds, fixed, threads),
    )
    return replace(result, cautions=tuple(cautions.of(result)))


def get(name: str) -> AnyLaw:
    """The law of that name. UserError names the known ones."""
    from dither.laws.catalogue import LAWS

    if name not in LAWS:
        raise UserError(f"unknown law {name!r}{suggest(str(name), LAWS)}; laws are {', '.join(LAWS)}")
    return LAWS[name]
