"""How a law whose sum of power terms has no exponent is written down: its parameters, terms and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dither.laws.engine import Floats
from dither.laws.law import COARSE, Parameter, SumLaw, powers

N = {"N": "parameters"}
ND = {"N": "parameters", "D": "training tokens"}


def scale(name: str, meaning: str) -> Parameter:
    return Parameter(name, meaning, low=0.0, logarithmic=True)


def exponent(name: str, meaning: str) -> Parameter:
    return Parameter(name, meaning, low=0.0, high=10.0)


def straight(
    name: str,
    formula: str,
    terms: Mapping[str, Mapping[str, Any]],
    parameters: tuple[Parameter, ...],
    *,
    variables: Mapping[str, str] = ND,
    features: Mapping[str, Callable[[dict[str, Floats]], Floats]] | None = None,
    floor: str | None = "E",
    grid: Floats = COARSE,
    **more: Any,
) -> SumLaw:
    """A law whose sum has no exponent: parameters are theta, coefficients and floor through exp.

    `features`: name -> column; default: the logarithm of the variable of that name.
    """
    columns = dict(features or {key: log(key) for key in variables})
    model, logarithmic = powers(terms, variables=tuple(columns), floor=floor)
    names = tuple(p.name for p in parameters)
    where = [names.index(p) if p in names else None for p in model.params]
    back = [model.params.index(n) for n in names]
    is_log = np.array([p in logarithmic for p in model.params])
    exponents = [p for p in model.params if p not in logarithmic and p != "one"]

    def to_theta(vector: Floats) -> Floats:
        taken = [np.ones(vector.shape[:-1]) if w is None else vector[..., w] for w in where]
        theta = np.stack(taken, axis=-1)
        with np.errstate(divide="ignore"):
            return np.where(is_log, np.log(np.where(is_log, theta, 1.0)), theta)

    def from_theta(theta: Floats) -> Floats:
        with np.errstate(over="ignore"):
            values = np.where(is_log, np.exp(np.where(is_log, theta, 0.0)), theta)
        return values[..., back]

    return SumLaw(
        name,
        formula,
        variables,
        parameters,
        model=model,
        features=lambda arrays: [column(arrays) for column in columns.values()],
        to_theta=to_theta,
        from_theta=from_theta,
        fixed={"one": 1.0} if "one" in model.params else {},
        grid={p: grid for p in exponents},
        same={name: name for name in names},
        **more,
    )


def log(key: str) -> Callable[[dict[str, Floats]], Floats]:
    return lambda arrays: np.log(arrays[key])
