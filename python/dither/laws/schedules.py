"""Laws of the whole loss curve under a learning-rate schedule: the annealing law and the multi-power law.

Both depend on all steps before a row, so a law is made for given schedules; its rows then name a schedule
(counted from 1 in the order of the mapping) and a step. Residuals of one curve follow each other closely:
resample whole curves (`by="curve"`), never steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws import engine
from dither.laws.engine import Floats
from dither.laws.formulas import function_law
from dither.laws.law import FunctionLaw
from dither.laws.table import listed

ROWS = {"curve": "number of the schedule, from 1", "step": "optimizer step, from 1"}


@dataclass(frozen=True)
class Schedule:
    """Learning rates of the steps 1, 2, ...; warmup: the sum of those before, which the loss forgets."""

    rates: Floats
    warmup: float = 0.0


def _checked(schedules: Mapping[str, Any], *, zero: bool) -> list[Schedule]:
    """zero: learning rates may be 0 after the first step with one."""
    if not schedules:
        raise UserError("give at least one schedule")
    found = []
    for name, given in schedules.items():
        one = given if isinstance(given, Schedule) else Schedule(np.asarray(given, dtype=np.float64))
        rates = np.asarray(one.rates, dtype=np.float64)
        if rates.ndim != 1 or not len(rates) or not (np.isfinite(rates).all() and (rates >= 0).all()):
            raise UserError(f"schedule {name!r}: give one learning rate a step, none of them negative")
        if zero and not one.warmup + rates[0] > 0:
            raise UserError(f"schedule {name!r}: its learning rates begin at 0: leave these steps out")
        if not zero and not rates.all():
            raise UserError(
                f"schedule {name!r}: steps {listed(np.flatnonzero(rates == 0))} have a learning rate of 0, "
                "of which this law takes a negative power: leave them out, or take the annealing law"
            )
        found.append(Schedule(rates, one.warmup))
    return found


def _each(schedules: list[Schedule], curve: Floats, step: Floats, values: Any) -> Floats:
    """`values(number of the schedule, its steps from 0)` gathered row by row."""
    which, at = curve.astype(np.int64) - 1, step.astype(np.int64) - 1
    result = np.empty(curve.shape)
    for i in np.unique(which):
        if not 0 <= i < len(schedules):
            raise UserError(f"curve {i + 1}: there are {len(schedules)} schedules")
        mine = which == i
        if at[mine].min() < 0 or at[mine].max() >= len(schedules[i].rates):
            raise UserError(f"curve {i + 1} has the steps 1 to {len(schedules[i].rates)}")
        result[mine] = values(i, at[mine])
    return result


def momentum_of_drops(rates: Floats, decay: float) -> Floats:
    """S2 of 2408.11029: the running sum of m_i = decay m_(i-1) + (eta_(i-1) - eta_i)."""
    drops = -np.diff(rates, prepend=rates[0])
    momentum, total = np.empty_like(rates), 0.0
    for i, drop in enumerate(drops.tolist()):
        total = decay * total + drop
        momentum[i] = total
    return np.cumsum(momentum)


def annealing(schedules: Mapping[str, Any], *, decay: float = 0.999) -> FunctionLaw:
    """L = L0 + A S1^-alpha - C S2 for these schedules: name -> (steps,) learning rates, or a `Schedule`.

    S1: the sum of the learning rates so far; S2: that of the momentum of their drops, which forgets by
    `decay` a step. Rates may be 0, as at the end of a decay.
    """
    given = _checked(schedules, zero=True)
    first = [one.warmup + np.cumsum(one.rates) for one in given]
    second = [momentum_of_drops(one.rates, decay) for one in given]

    def law(L0: float, A: float, alpha: float, C: float, curve: Floats, step: Floats) -> Floats:
        def one(i: int, at: Any) -> Floats:
            return L0 + A * first[i][at] ** -alpha - C * second[i][at]

        return _each(given, curve, step, one)

    return function_law(
        "annealing",
        f"L = L0 + A S1^-alpha - C S2, decay {decay:g}",
        ROWS,
        {
            "L0": ("limit at a constant learning rate", (2.5,)),
            "A": ("coefficient of progress", (0.5,)),
            "alpha": ("exponent of progress", (0.5,)),
            "C": ("gain of annealing", (0.5,)),
        },
        law,
        "Tissue et al. 2024, 2408.11029",
        linear=("L0", "A", "C"),
        tries=4,
    )


def multi_power(schedules: Mapping[str, Any]) -> FunctionLaw:
    """L = L0 + A S1^-alpha - B sum_k (eta_(k-1) - eta_k) [1 - (1 + C eta_k^-gamma S_k)^-beta] for these
    schedules: name -> (steps,) learning rates, or a `Schedule` with the sum of its warm-up.
    """
    given = _checked(schedules, zero=False)

    def law(curve: Floats, step: Floats, **params: float) -> Floats:
        vector = [params[name] for name in ("L0", "A", "alpha", "B", "C", "beta", "gamma")]

        def one(i: int, at: Any) -> Floats:
            return engine.multi_power(given[i].rates, given[i].warmup, vector, at)

        return _each(given, curve, step, one)

    return function_law(
        "multi_power",
        "L = L0 + A S1^-alpha - B sum_k (eta_(k-1) - eta_k) [1 - (1 + C eta_k^-gamma S_k)^-beta]",
        ROWS,
        {
            "L0": ("limit at a constant learning rate", (2.8,)),
            "A": ("coefficient of progress", (0.5,)),
            "alpha": ("exponent of progress", (0.5,)),
            "B": ("gain of annealing", (300.0,)),
            "C": ("how soon it is gained", (2.0,)),
            "beta": ("exponent of the gain", (0.5,)),
            "gamma": ("exponent of the learning rate in it", (0.5,)),
        },
        law,
        "Luo et al. 2025, 2503.12811",
        tries=2,
    )
