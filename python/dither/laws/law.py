"""What a scaling law is: its variables, its parameters, its formula, and where it was published.

A `SumLaw` is a sum of power terms, fitted by the compiled engine to a certified optimum; a `FunctionLaw` is
any other formula, fitted through scipy. Both predict the loss from named parameters and named variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError, suggest
from dither.laws import engine
from dither.laws.engine import Entry, Floats, Model
from dither.laws.table import listed

LARGEST = 1e100
"""Of losses and variables: their products must be numbers still, and so must its inverse's."""


FARTHEST = 100.0
"""Further than this factor beyond the runs, nothing is said of a law unless it is asked for."""


def unusable(values: Any) -> NDArray[np.intp]:
    """Rows whose value is missing, not positive, or beyond LARGEST or its inverse."""
    flat = np.ravel(np.asarray(values, dtype=np.float64))
    return np.flatnonzero(~((flat >= 1 / LARGEST) & (flat <= LARGEST)))


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law. `logarithmic`: a positive scale, searched and reported by its logarithm."""

    name: str
    meaning: str
    low: float = -np.inf
    high: float = np.inf
    logarithmic: bool = False


@dataclass(frozen=True)
class Spread:
    """The covariance of published parameters (scales by their logarithm), as its lower Cholesky factor.
    origin: where it is from, in words."""

    factor: tuple[tuple[float, ...], ...]
    origin: str


@dataclass(frozen=True)
class Law:
    """A family of curves.

    variables: name -> meaning with its unit. parameters: in the order in which vectors hold them. published:
    label (with the source) -> parameter values; spread: label -> their covariance, studied: label -> variable
    (C: 6 N D) -> from where to where its runs went, where these are known. zero: variables that may be 0 ->
    what the formula takes of them, which must be positive; the others are positive themselves.
    """

    name: str
    formula: str
    variables: Mapping[str, str]
    parameters: tuple[Parameter, ...]
    source: str
    response: str = "loss (nats/token)"
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    spread: Mapping[str, Spread] = field(default_factory=dict)
    studied: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    zero: Mapping[str, Callable[[Floats], Floats]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def vector(self, params: Mapping[str, float]) -> Floats:
        """Named parameters as a vector. UserError for a missing or unknown name, and for no number."""
        for name in params:
            if name not in self.names:
                raise UserError(
                    f"{self.name} has no parameter {name!r}{suggest(name, self.names)}; "
                    f"its parameters are {', '.join(self.names)}"
                )
        missing = [name for name in self.names if name not in params]
        if missing:
            raise UserError(f"{self.name} needs a value of {', '.join(missing)}")
        for name in self.names:
            if not isinstance(params[name], SupportsFloat):
                raise UserError(f"{name} of {self.name} must be a number, not {params[name]!r}")
        return np.array([params[name] for name in self.names], dtype=np.float64)

    def named(self, vector: Any) -> dict[str, float]:
        return {name: float(value) for name, value in zip(self.names, vector, strict=True)}

    def arrays(self, variables: Mapping[str, Any]) -> dict[str, Floats]:
        """The law's variables as fp64 arrays of one shape. UserError if one is missing, or not positive."""
        unknown = [name for name in variables if name not in self.variables]
        if unknown:
            raise UserError(
                f"{self.name} has no variable {unknown[0]!r}{suggest(unknown[0], self.variables)}; "
                f"its variables are {', '.join(self.variables)}"
            )
        missing = [name for name in self.variables if name not in variables]
        if missing:
            raise UserError(
                f"{self.name} needs " + ", ".join(f"{name} ({self.variables[name]})" for name in missing)
            )
        try:
            values = np.broadcast_arrays(
                *(np.asarray(variables[name], dtype=np.float64) for name in self.variables)
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{', '.join(self.variables)} must be numbers: {error}") from None
        arrays = dict(zip(self.variables, values, strict=True))
        for name, value in arrays.items():
            taken = value
            if name in self.zero:
                taken = np.where(value >= 0, self.zero[name](value), np.nan)
            if len(bad := unusable(taken)):
                where = f" (rows {listed(bad)} are not)" if np.size(value) > 1 else ""
                what = (
                    "be at least 0, and such that the formula is defined"
                    if name in self.zero
                    else f"be positive and finite everywhere, and within {1 / LARGEST:g} to {LARGEST:g}"
                )
                raise UserError(f"{name} ({self.variables[name]}) must {what}{where}")
        return arrays

    def measured(self, arrays: Mapping[str, Floats]) -> dict[str, Floats]:
        """The variables as they are compared by factors: those that may be 0 as the formula takes them."""
        return {name: self.zero[name](v) if name in self.zero else v for name, v in arrays.items()}

    def extrapolation(self, at: Mapping[str, Any], data: Mapping[str, Floats]) -> float:
        """How far the farthest of `at` lies beyond the data: the largest factor over the variables, 1 inside.

        at: some of the law's variables, or all; where N and D are there, their product (compute) counts too.
        """
        new = self.measured({name: np.asarray(v, dtype=np.float64) for name, v in at.items()})
        old = self.measured(data)
        spans = [(new[name], old[name]) for name in new]
        if {"N", "D"} <= set(new):
            spans.append((new["N"] * new["D"], old["N"] * old["D"]))
        return float(max([1.0, *(max(a.max() / b.max(), b.min() / a.min()) for a, b in spans)]))

    def reach(self, at: Mapping[str, Any], data: Mapping[str, Floats], far: bool = False) -> float:
        """`extrapolation`. UserError further than FARTHEST, unless `far`."""
        factor = self.extrapolation(at, data)
        if factor > FARTHEST and not far:
            raise UserError(
                f"this lies {factor:.3g} times beyond the runs; add larger ones, or pass far=True (--far) if "
                "that is meant"
            )
        return factor

    def predict(self, params: Mapping[str, float], **variables: Any) -> Floats:
        """The law's value; variables broadcast against each other. UserError for a parameter that is NaN."""
        arrays, vector = self.arrays(variables), self.vector(params)
        for name, value in zip(self.names, vector, strict=True):
            if np.isnan(value):
                raise UserError(f"{name} of {self.name} must be a number, not nan")
        return self.curve(vector, arrays)

    def curve(self, vector: Floats, arrays: dict[str, Floats]) -> Floats:
        """The law's value from a vector of parameters and checked variables."""
        raise NotImplementedError

    def simulate(
        self, params: Mapping[str, float], *, noise: float = 0.0, seed: int = 0, **variables: Any
    ) -> dict[str, Floats]:
        """A table of the law: its variables and `loss`, with log-normal noise of that standard deviation.

        Generated data: to test a fit, or to plan a sweep; not measurements.
        """
        arrays = self.arrays(variables)
        if not 0 <= noise < np.inf:
            raise UserError(f"noise is a standard deviation, not {noise:g}")
        loss = self.predict(params, **arrays)
        rng = np.random.default_rng(seed)
        return {**arrays, "loss": loss * np.exp(noise * rng.standard_normal(loss.shape))}


@dataclass(frozen=True)
class SumLaw(Law):
    """A law that the engine fits.

    model: the sum of power terms. features: arrays -> columns in the model's order. to_theta, from_theta:
    between parameters and the engine's theta, over leading axes. fixed: theta of constant parameters of the
    model. grid: exponents of the projection. same: parameter -> the theta that is it (or its logarithm), so
    that it can be bounded or fixed; called: what a theta that is no parameter is of them.
    """

    model: Model = None  # pyright: ignore[reportAssignmentType]
    features: Callable[[dict[str, Floats]], list[Floats]] = None  # pyright: ignore[reportAssignmentType]
    to_theta: Callable[[Floats], Floats] = None  # pyright: ignore[reportAssignmentType]
    from_theta: Callable[[Floats], Floats] = None  # pyright: ignore[reportAssignmentType]
    fixed: Mapping[str, float] = field(default_factory=dict)
    grid: Mapping[str, Floats] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    called: Mapping[str, str] = field(default_factory=dict)

    @property
    def thetas(self) -> tuple[str, ...]:
        return self.model.params

    @property
    def labels(self) -> tuple[str, ...]:
        """What a reader knows each theta by."""
        known = {theta: name for name, theta in self.same.items()} | dict(self.called)
        return tuple(known.get(theta, theta) for theta in self.thetas)

    @property
    def floor(self) -> str | None:
        """The parameter that is the irreducible loss."""
        return self.model.floor

    def columns(self, arrays: dict[str, Floats]) -> Floats:
        """Features as the engine reads them: (rows, features)."""
        columns = np.broadcast_arrays(*self.features(arrays))
        return np.stack([column.ravel() for column in columns], axis=1)

    def curve(self, vector: Floats, arrays: dict[str, Floats]) -> Floats:
        shape = np.shape(next(iter(arrays.values())))
        values = engine.predict(self.model, self.columns(arrays), self.to_theta(vector))
        return np.exp(values).reshape(shape)


@dataclass(frozen=True)
class FunctionLaw(Law):
    """A law given as a function(parameters by name, variables by name) -> value, fitted through scipy.

    starts: parameter -> values whose combinations are starts; `tries` starts at least are minimised, the
    missing ones drawn about them. placed: parameter -> (variable, power): its starts are in units of that
    power (a number, or a parameter) of the variable's geometric mean, so that N may be given in billions.
    linear: parameters in which the law is linear; log_linear: those in which its logarithm is. They begin at
    their least squares instead.
    """

    function: Callable[..., NDArray[Any]] = None  # pyright: ignore[reportAssignmentType]
    starts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    placed: Mapping[str, tuple[str, str | float]] = field(default_factory=dict)
    linear: tuple[str, ...] = ()
    log_linear: tuple[str, ...] = ()
    tries: int = 20

    @property
    def thetas(self) -> tuple[str, ...]:
        return self.names

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names

    @property
    def floor(self) -> str | None:
        return "E" if "E" in self.names else None

    @property
    def same(self) -> Mapping[str, str]:
        return {name: name for name in self.names}

    @property
    def logarithmic(self) -> NDArray[np.bool_]:
        return np.array([parameter.logarithmic for parameter in self.parameters])

    @property
    def limits(self) -> tuple[Floats, Floats]:
        """Bounds of theta."""
        low, high = (np.array([getattr(p, end) for p in self.parameters]) for end in ("low", "high"))
        return self.to_theta(low), self.to_theta(high)

    def to_theta(self, vector: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.logarithmic, np.log(np.where(self.logarithmic, vector, 1.0)), vector)

    def from_theta(self, theta: Floats) -> Floats:
        return np.where(self.logarithmic, np.exp(np.where(self.logarithmic, theta, 0.0)), theta)

    def columns(self, arrays: dict[str, Floats]) -> Floats:
        """Variables as rows: (rows, variables)."""
        return np.stack([value.ravel() for value in arrays.values()], axis=1)

    def curve(self, vector: Floats, arrays: dict[str, Floats]) -> Floats:
        params = dict(zip(self.names, np.asarray(vector, dtype=np.float64), strict=True))
        return np.asarray(self.function(**params, **arrays), dtype=np.float64)


COARSE = np.linspace(0.05, 1.5, 20)
"""Exponents of a projection with two of them."""


def powers(
    terms: Mapping[str, Mapping[str, str | tuple[str, float] | float]],
    *,
    variables: tuple[str, ...],
    floor: str | None = "E",
    outer: str | None = None,
) -> tuple[Model, tuple[str, ...]]:
    """A model from terms, coefficient -> {feature: exponent}; returns it and its logarithmic parameters.

    An exponent is the name of a parameter (decay: it enters with a minus), a pair (name, factor), or a
    number. Numbers become one constant parameter `one`, fixed at 1.
    """
    order: list[str] = []
    built = []
    for coefficient, exponents in terms.items():
        entries = [Entry(coefficient)]
        order.append(coefficient)
        for feature, exponent in exponents.items():
            name, factor = (
                ("one", exponent)
                if isinstance(exponent, (int, float))
                else (exponent, -1.0)
                if isinstance(exponent, str)
                else exponent
            )
            entries.append(Entry(name, feature, factor))
        built.append(tuple(entries))
    logarithmic = (*order, *([floor] if floor else []))
    exponents_ = dict.fromkeys(e.param for term in built for e in term[1:])
    params = (*logarithmic, *(p for p in exponents_ if p not in logarithmic), *([outer] if outer else []))
    return Model(params, variables, tuple(built), floor, outer), logarithmic
