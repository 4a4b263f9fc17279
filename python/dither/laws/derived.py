"""Quantities that follow from a law's parameters: functions of them by name, for intervals.

fit.profile(derived.exponent); fit.bootstrap().interval(derived=derived.optimal(fit.law, 1e22, "N"))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from dither.errors import UserError, suggest
from dither.laws import planning
from dither.laws.fitting import AnyLaw
from dither.laws.uncertainty import Derived

OPTIMA = ("N", "D", "tokens a parameter", "loss", "reducible", "a")

EXPONENTS = {
    "chinchilla": ("alpha", "beta"),
    "chinchilla_tied": ("alpha", "alpha"),
    "over_training": ("eta", "eta"),
    "kaplan_e": ("alpha", "beta"),
    "gamma": ("p", "q"),
    "kaplan": ("aN", "aD"),
    "precision": ("alpha", "beta"),
    "fine_grained_moe": ("alpha", "beta"),
    "sparse": ("bN", "bD"),
}
"""Laws whose optimal size is a power of compute (other variables held): its exponents of size and data."""

NEAR = 0.1
"""Of ln C, to either side: where the slope of ln N*(C) is taken."""


def exponent(*, alpha: float, beta: float, **_: float) -> float:
    """a of the optimal size N*(C) ~ C^a: beta / (alpha + beta)."""
    return beta / (alpha + beta)


def exponent_of(law: AnyLaw) -> Derived:
    """a of N*(C) ~ C^a from a law's parameters. UserError where its optimal size is no power of compute: the
    slope at a budget is `optimal(law, flops, "a")`."""
    if law.name not in EXPONENTS:
        planning.check_compute(law)
        raise UserError(
            f"the optimal size of {law.name} is no power of compute, so there is no one exponent a; ask for "
            "its slope at a budget, as a@1e22"
        )
    of_size, of_data = EXPONENTS[law.name]

    def a(**params: float) -> float:
        return exponent(alpha=params[of_size], beta=params[of_data])

    return a


def is_constant(law: AnyLaw) -> bool:
    """Whether the exponent a is one half by the law's form, whatever its parameters."""
    return len(set(EXPONENTS.get(law.name, ("size", "data")))) == 1


@dataclass(frozen=True)
class Optimum:
    """The optimum of a budget as a function of a law's parameters: see `optimal`. where(**params): at which
    size and tokens it lies."""

    law: AnyLaw
    flops: float
    name: str
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def __name__(self) -> str:
        return f"{self.name} at {self.flops:g} FLOPs"

    def where(self, **params: float) -> dict[str, float]:
        found = self._best(1.0, params)
        return {"N": found["N"], "D": found["D"]} | dict(self.fixed)

    def __call__(self, **params: float) -> float:
        if self.name == "a":
            low, high = (np.log(self._best(np.exp(side), params)["N"]) for side in (-NEAR, NEAR))
            return float(high - low) / (2 * NEAR)
        found = self._best(1.0, params)
        return found["loss"] - params["E"] if self.name == "reducible" else found[self.name]

    def _best(self, times: float, params: Mapping[str, float]) -> dict[str, float]:
        return planning.budget(self.law, self.flops * times, self.fixed)(**params)


def optimal(law: AnyLaw, flops: float, name: str, fixed: Mapping[str, float] | None = None) -> Optimum:
    """One of OPTIMA at the optimum of a compute budget: size, tokens, their ratio, the loss, the loss less E,
    or the slope of ln N* over ln C there. fixed: values of the law's other variables.

    UserError for others, and for a law without N and D (or E, where it is asked for).
    """
    if name not in OPTIMA:
        raise UserError(f"no optimal {name!r}{suggest(name, OPTIMA)}; give one of {', '.join(OPTIMA)}")
    if name == "reducible" and "E" not in law.names:
        raise UserError(f"{law.name} has no E, so all of its loss is reducible")
    planning.budget(law, flops)  # which refuses what has none
    held, others = dict(fixed or {}), [one for one in law.variables if one not in ("N", "D")]
    for one in held:
        if one not in others:
            raise UserError(
                f"{one} cannot be held: beside N and D, which the budget gives, {law.name} has "
                f"{', '.join(others) or 'no variables'}"
            )
    if missing := [one for one in others if one not in held]:
        raise UserError(
            f"the optimum of {law.name} depends on {', '.join(missing)}: say at which, as "
            f"{name}@{flops:g},{missing[0]}=..."
        )
    return Optimum(law, flops, name, held)


def named(law: AnyLaw, text: str) -> str | Derived:
    """What a profile is asked of, from a word: a parameter, "a", or an optimum as "N@1e22"; of a law with
    other variables as "N@1e22,U=1e10"."""
    name, at, where = text.partition("@")
    if at:
        flops, *others = where.split(",")
        try:
            fixed = {one: float(value) for one, _, value in (other.partition("=") for other in others)}
            budget = float(flops)
        except ValueError:
            raise UserError(
                f"{text!r}: give FLOPs after the @, as {name}@1e22 or {name}@1e22,U=1e10"
            ) from None
        return optimal(law, budget, name, fixed)
    if text == "a" and "a" not in law.names:
        return exponent_of(law)
    return text
