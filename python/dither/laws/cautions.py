"""What a reader of a fit must be told, in words: weak designs, unidentified parameters, doubtful optima."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dither.laws import units
from dither.laws.law import SumLaw
from dither.laws.scales import distinct, scales, tied
from dither.laws.table import listed

if TYPE_CHECKING:
    from dither.laws.fitting import Fit

FEW_SCALES = 3
SHORT = 1.5
"""Decades that a variable should span."""
WIDE = 0.1
"""Residual, as a share of the loss, that no seed explains."""

NO_FLOOR = 1e-3
"""E below this share of the smallest loss is none."""

LOOSE = 3.0
"""Standard deviations, of scales' logarithms and exponents, from which the same is said of the noise."""

NORMAL = 1.4826
"""Standard deviation of normal residuals in units of their median size."""

STEEP = 2.0
"""Exponents of N, D and C above this are none of a scaling law."""

ILL = 1e8
"""Condition number from which a direction of the parameters counts as not identified."""


def of(fit: Fit) -> Iterator[str]:
    """The cautions of a fit, the gravest first."""
    yield from _optimum(fit)
    yield from _bounds(fit)
    yield from _exponents(fit)
    yield from _rows(fit)
    yield from _design(fit)


def _optimum(fit: Fit) -> Iterator[str]:
    c = fit.certificate
    if c.ending != "converged":
        yield f"the search {c.ending} before it converged; give other starts or bounds"
    elif not c.is_minimum and not c.flat:
        yield "the search ended where the objective still falls or bends down; give other starts or bounds"
    elif not c.is_minimum:
        names = " and ".join(c.flat)
        lost = f"do not identify {names}" if len(c.flat) == 1 else f"do not tell {names} apart"
        yield (
            f"the objective does not bend upwards in every direction: these runs {lost}; hold one at a value "
            "(fixed=, --fix), or add runs at other sizes or tokens"
        )
    elif c.condition > ILL:
        yield f"some direction is hardly identified (condition {c.condition:.1e}): report intervals"
    elif c.effect * LOOSE < (noise := float(NORMAL * np.median(np.abs(fit.residuals)))):
        yield (
            f"these runs hardly determine {' and '.join(c.weakest)}: noise alone moves them by some "
            f"{min(noise / c.effect, 1e6):.0f} (a scale by e to that power); report intervals, or hold one "
            "at a value (fixed=, --fix)"
        )
    if c.minima > 1:
        yield (
            f"{c.minima} different minima lie within 1 % of the best: the parameters are not settled"
            + _spread(fit)
        )
    if c.at_start:
        yield f"{', '.join(c.at_start)} did not move from the start"


def _spread(fit: Fit) -> str:
    """Which parameters differ between the minima, and how far."""
    said = []
    for name in fit.law.names:
        values = sorted(params[name] for _, params in fit.minima)
        if values[-1] - values[0] > 0.1 * abs(fit.params[name]):
            said.append(f"{name} is {values[0]:.4g} to {values[-1]:.4g}")
    return f" ({', '.join(said)})" if said else ""


def at_bound(fit: Fit) -> tuple[str, ...]:
    """The free parameters that sit at a bound; the floor too where it is next to none."""
    active, floor = fit.certificate.active_bounds, fit.law.floor
    if floor is None or floor in active or not np.less(fit.low, fit.high)[fit.law.labels.index(floor)]:
        return active
    return (floor, *active) if fit.params[floor] < NO_FLOOR * float(fit.loss.min()) else active


def _bounds(fit: Fit) -> Iterator[str]:
    floor = fit.law.floor
    for name in at_bound(fit):
        at = fit.law.labels.index(name)
        at_low = fit.theta[at] - fit.low[at] < fit.high[at] - fit.theta[at]
        if name == floor and (at_low or name not in fit.certificate.active_bounds):
            yield (
                f"{name} went to 0: these runs do not show a floor; fit a law without one, or add larger runs"
            )
        elif name == floor:
            yield f"{name} sits at the smallest loss: the largest run looks saturated"
        else:
            yield f"{name} sits at its bound; widen the bound or fix the parameter"
    for name in fit.params:
        scale = fit.law.parameters[fit.law.names.index(name)].logarithmic and name != floor
        if not np.isfinite(fit.params[name]) or (scale and fit.params[name] == 0):
            yield (
                f"{name} ran to {fit.params[name]:g}: the law has no optimum on these runs; take another, or "
                "hold a parameter (fixed=, --fix)"
            )


def _exponents(fit: Fit) -> Iterator[str]:
    """Free exponents of size, data or compute that no law of losses has."""
    if not isinstance(fit.law, SumLaw):
        return
    model, free = fit.law.model, dict(zip(fit.law.thetas, fit.low < fit.high, strict=True))
    theta = dict(zip(fit.law.thetas, fit.theta.tolist(), strict=True))
    bend = theta[model.outer] if model.outer else 1.0
    said = set()
    for term in model.terms:
        for entry in term:
            value = abs(entry.factor) * theta[entry.param] * bend
            if entry.feature in ("N", "D", "C") and free[entry.param] and value > STEEP:
                said.add(f"the loss would fall with {entry.feature} to the power {value:.3g}")
    for text in sorted(said):
        yield (
            f"{text}: no scaling law has an exponent above {STEEP:g}, so that term follows a few runs or "
            "none; take a law without it, hold the exponent (fixed=, --fix), or add runs where it counts"
        )


def _rows(fit: Fit) -> Iterator[str]:
    """Rows that look like mistakes of the table: other units, outliers, repetitions."""
    numbers = np.flatnonzero(fit.used)
    for name, values in fit.law.measured(fit.arrays).items():
        yield from units.counted(name, fit.law.variables[name], values, numbers)
    size = np.abs(fit.residuals)
    usual = float(np.median(size))
    if mixed := units.mixed(fit):
        yield mixed  # of which the residuals would say the same again
    elif usual > WIDE:
        yield f"residuals are {usual:.0%} of the loss: are its units mixed (nats, bits), or is the law wrong?"
    elif len(far := np.flatnonzero(size > max(WIDE, 20 * usual))):
        yield (
            f"rows {listed(numbers[far])} lie more than {WIDE:.0%} off the curve, far beyond the "
            "others: check or drop them"
        )
    table = np.stack([*fit.arrays.values(), fit.loss], axis=1)
    same = len(table) - len(np.unique(table, axis=0))
    if same:
        yield f"{same} rows repeat others to the last digit: repeated rows are no evidence; give them once"


def _design(fit: Fit) -> Iterator[str]:
    free = int(np.sum(fit.low < fit.high))
    rows = len(fit.loss)
    if rows == free:
        yield f"as many parameters as rows ({rows}): the curve meets every point, errors are unknown"
    elif rows < 2 * free:
        yield f"{rows} rows for {free} parameters: intervals will be too narrow"
    for name, values in fit.law.measured(fit.arrays).items():
        levels = distinct(values)
        span = float(np.log10(values.max() / values.min()))
        if levels == 1:
            yield (
                f"{name} has one value only: its exponent and coefficient cannot be told from the floor; add "
                "runs at three values or more, or hold them (fixed=, --fix)"
            )
        elif levels < FEW_SCALES:
            yield (
                f"{name} has two values only: any exponent passes through two points, so the floor, its "
                "coefficient and its exponent are not told apart and their intervals mean nothing; add a "
                "third value, or hold the exponent (fixed=, --fix)"
            )
        elif span < SHORT and name in ("N", "D", "C"):
            yield f"{name} spans {span:.1f} decades; extrapolations beyond as much again are guesses"
    if together := tied(fit.arrays):
        yield f"{together}: their terms are not told apart, nor is an optimal D/N; add runs at other ratios"
    if {"N", "D"} <= set(fit.arrays) and scales(fit.arrays).max() == 0:
        yield (
            "all runs have one scale of compute (6 N D): nothing shows how the loss falls with it; add runs "
            "of other budgets"
        )
