"""Quantities that follow from a law's parameters: functions of them by name, for intervals.

fit.profile(derived.exponent); fit.bootstrap().interval(derived=derived.optimal(fit.law, 1e22, "N"))
"""

from __future__ import annotations

from dither.errors import UserError, suggest
from dither.laws import planning
from dither.laws.fitting import AnyLaw
from dither.laws.uncertainty import Derived

OPTIMA = ("N", "D", "tokens a parameter", "loss", "reducible")


def exponent(*, alpha: float, beta: float, **_: float) -> float:
    """a of the optimal size N*(C) ~ C^a: beta / (alpha + beta)."""
    return beta / (alpha + beta)


def optimal(law: AnyLaw, flops: float, name: str) -> Derived:
    """One of OPTIMA at the optimum of a compute budget: size, tokens, their ratio, the loss, or the loss less
    E. UserError for others, and for a law without N and D (or E, where it is asked for).
    """
    if name not in OPTIMA:
        raise UserError(f"no optimal {name!r}{suggest(name, OPTIMA)}; give one of {', '.join(OPTIMA)}")
    if name == "reducible" and "E" not in law.names:
        raise UserError(f"{law.name} has no E, so all of its loss is reducible")
    plan = planning.budget(law, flops)

    def value(**params: float) -> float:
        found = plan(**params)
        return found["loss"] - params["E"] if name == "reducible" else found[name]

    value.__name__ = f"{name} at {flops:g} FLOPs"
    return value


def named(law: AnyLaw, text: str) -> str | Derived:
    """What a profile is asked of, from a word: a parameter, "a", or an optimum as "N@1e22"."""
    name, at, flops = text.partition("@")
    if at:
        try:
            budget = float(flops)
        except ValueError:
            raise UserError(f"{text!r}: give FLOPs after the @, as {name}@1e22") from None
        return optimal(law, budget, name)
    if text == "a" and "a" not in law.names:
        if not {"alpha", "beta"} <= set(law.names):
            raise UserError(f"{law.name} has no alpha and beta, so no exponent a = beta / (alpha + beta)")
        return exponent
    return text
