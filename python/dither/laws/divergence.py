"""Whether a run diverges, as an outcome of its own: logistic regression with Firth's penalty (1993).

Recipes that never diverge, or always beyond some budget, separate the outcomes; the likelihood then has no
maximum, Firth's has: Jeffreys' prior is added, which also takes away the first-order bias of small tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.intervals import cross

STEPS = 200
LIMIT = 0.5 * 3.841459
"""Half the 95 % quantile of chi-squared with one degree of freedom."""


@dataclass(frozen=True)
class Logistic:
    """ln odds = sum of coefficients times features (0 where a feature is not given).

    coefficients: by name. height: penalised log-likelihood. x, y: as fitted.
    """

    coefficients: dict[str, float]
    height: float
    x: Floats = field(repr=False)
    y: Floats = field(repr=False)

    def chance(self, **features: Any) -> Floats:
        """The chance of the outcome; features broadcast. UserError for a missing or unknown one."""
        if set(features) != set(self.coefficients):
            raise UserError(f"give every one of {', '.join(self.coefficients)}")
        odds = sum(self.coefficients[name] * np.asarray(v, dtype=np.float64) for name, v in features.items())
        return np.asarray(1 / (1 + np.exp(-np.asarray(odds))))

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % interval of a coefficient by its profile (not symmetric where the outcomes separate)."""
        names = list(self.coefficients)
        if name not in names:
            raise UserError(f"{name!r} is none of {', '.join(names)}")
        at, best = names.index(name), np.array(list(self.coefficients.values()))
        scale = float(np.sqrt(np.linalg.pinv(_information(self.x, best))[at, at]))

        def height(value: float) -> float:
            start = best.copy()
            start[at] = value
            return _maximise(self.x, self.y, start, np.arange(len(best)) != at)[1]

        low, high = (cross(height, best[at], side, scale, self.height - LIMIT) for side in (-1.0, 1.0))
        return low, high


def logistic(outcome: Any, features: Mapping[str, Any]) -> Logistic:
    """Fit the chance of `outcome` (0 or 1, one a run) to features (name -> one number a run; put in a
    constant one for the level).

    UserError for outcomes that are neither 0 nor 1, lengths that differ, and features of which one follows
    from the others (ln C, ln N and ln D/N together do: C = 6 N D).
    """
    y = np.asarray(outcome, dtype=np.float64)
    columns = [np.asarray(values, dtype=np.float64) for values in features.values()]
    if y.ndim != 1 or not np.isin(y, (0.0, 1.0)).all() or any(c.shape != y.shape for c in columns):
        raise UserError("outcomes are 0 or 1, one a run, with as many values of every feature")
    if not columns:
        raise UserError("give at least one feature (a constant one for the level)")
    x = np.stack(columns, axis=1)
    if not np.isfinite(x).all():
        raise UserError("features must be finite")
    size = np.maximum(np.abs(x).max(axis=0), np.finfo(float).tiny)
    if len(y) < x.shape[1] or np.linalg.svd(x / size, compute_uv=False)[-1] < 1e-9 * len(y) ** 0.5:
        raise UserError(
            f"{', '.join(features)} do not tell each other apart in these {len(y)} runs; leave one out"
        )
    beta, height = _maximise(x, y, np.zeros(x.shape[1]), np.ones(x.shape[1], dtype=bool))
    return Logistic({name: float(b) for name, b in zip(features, beta, strict=True)}, height, x, y)


def _chances(x: Floats, beta: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x @ beta, -500, 500)))


def _information(x: Floats, beta: Floats) -> Floats:
    p = _chances(x, beta)
    return x.T @ (x * (p * (1 - p))[:, None])


def _height(x: Floats, y: Floats, beta: Floats) -> float:
    odds = x @ beta
    log = float(np.sum(y * odds - np.logaddexp(0, odds)))
    sign, value = np.linalg.slogdet(_information(x, beta))
    return log + 0.5 * float(value) if sign > 0 else -np.inf


def _maximise(x: Floats, y: Floats, beta: Floats, free: Any) -> tuple[Floats, float]:
    """Newton's steps on Firth's score of the free coefficients, halved until the height rises."""
    beta, height = beta.copy(), _height(x, y, beta)
    for _ in range(STEPS):
        p = _chances(x, beta)
        w = p * (1 - p)
        information = x.T @ (x * w[:, None])
        leverage = w * np.einsum("ij,ij->i", x @ np.linalg.pinv(information), x)
        score = (x.T @ (y - p + leverage * (0.5 - p)))[free]
        step = np.zeros(len(beta))
        step[free] = np.linalg.pinv(information[np.ix_(free, free)]) @ score
        share = min(1.0, 5.0 / max(1e-300, float(np.abs(x @ step).max())))  # no leap of the odds
        for _ in range(40):
            trial = beta + share * step
            if (new := _height(x, y, trial)) >= height:
                break
            share *= 0.5
        else:
            break
        gain, beta, height = new - height, trial, new
        if gain < 1e-11 and float(np.abs(score @ step[free])) < 1e-9:
            break
    return beta, height
