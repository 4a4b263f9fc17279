"""Decisions from constants of own runs, published or given, with an interval or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.fitting import AnyLaw, Fit
from dither.laws.validation import uncalibrated

Values = dict[str, float]

NOT_CALIBRATED = "intervals are not calibrated: "
"""Before the reason."""


@dataclass(frozen=True)
class Decision:
    """What was decided: name -> value, and name -> (low, high) where something is known of it.

    basis: what the constants are: the user's runs, a publication, or given ones. spread: what the intervals
    stand on, or why there are none. others: what other publications say, by their name; where there are any,
    the intervals reach from the least to the most of all, else they are of 95 %.
    """

    values: Values
    intervals: dict[str, tuple[float, float]]
    basis: str
    spread: str
    cautions: tuple[str, ...] = ()
    others: dict[str, Values] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"constants: {self.basis}", f"intervals: {self.spread}"]
        for name, value in self.values.items():
            interval = self.intervals.get(name)
            level = "" if self.others else "95 % "
            span = "" if interval is None else f"   ({level}{_end(interval[0])} .. {_end(interval[1])})"
            lines.append(f"  {name:<22} {value:.5g}{span}")
        for name, values in self.others.items():
            lines.append(f"  by {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
        return "\n".join(lines + [f"  ! {caution}" for caution in self.cautions])


def _end(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "not bounded"


@dataclass(frozen=True)
class Constants:
    """Parameters of a law and what is known of them.

    draws: (draws, params) that they might be as well, in the law's order; None where nothing is known of
    their uncertainty. spread: where the draws come from, or why there are none. fit: of own runs; studied:
    variable (C: 6 N D) -> from where to where the runs behind published ones went.
    """

    law: AnyLaw
    params: Values
    draws: Floats | None
    basis: str
    spread: str
    cautions: tuple[str, ...] = ()
    fit: Fit | None = None
    studied: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def own(fit: Fit, *, n: int = 500, by: Any = None, seed: int = 0) -> Constants:
    """Of the user's runs; by: what is resampled, as `Fit.bootstrap` takes it."""
    return own_together([fit], n=n, by=by, seed=seed)[0]


def own_together(fits: Sequence[Fit], *, n: int = 500, by: Any = None, seed: int = 0) -> list[Constants]:
    """Of several fits to the same runs: a draw of one and of another are of the same resample."""
    drawn = [fit.bootstrap(n, by=by, seed=seed) for fit in fits]
    kept, found = np.all([one.converged for one in drawn], axis=0), []
    for fit, one in zip(fits, drawn, strict=True):
        why = uncalibrated(fit, by)
        said = (*fit.cautions, *([NOT_CALIBRATED + why] if why else ()), *one.cautions)
        found.append(
            Constants(
                fit.law, fit.params, one.values[kept], f"{len(fit.loss)} own runs",
                f"{n} resamples of own runs", said, fit,
            )
        )  # fmt: skip
    return found


def published(law: AnyLaw) -> tuple[Values, str]:
    """The law's published constants and their source: of several the first whose uncertainty is known, else
    the first. UserError where it has none."""
    if not law.published:
        raise UserError(f"no constants of {law.name} are known; fit it to your own runs")
    source = next((label for label in law.published if label in law.spread), next(iter(law.published)))
    return dict(law.published[source]), source


def of_publication(law: AnyLaw, *, n: int = 500, seed: int = 0, option: str = "--data") -> Constants:
    """Published ones, with draws where their covariance is known. option: that of own runs."""
    params, source = published(law)
    studied = law.studied.get(source, {})
    if source not in law.spread:
        return Constants(
            law, params, None, f"published, {source}",
            f"none: the uncertainty of these constants of {law.name} is not published; own runs "
            f"({option}) have one", studied=studied,
        )  # fmt: skip
    logs = np.array([p.logarithmic for p in law.parameters])
    centre = law.vector(params)
    centre = np.where(logs, np.log(np.where(logs, centre, 1.0)), centre)
    normal = np.random.default_rng(seed).standard_normal((n, len(centre)))
    drawn = centre + normal @ np.array(law.spread[source].factor).T
    return Constants(
        law, params, np.where(logs, np.exp(np.where(logs, drawn, 0.0)), drawn), f"published, {source}",
        f"{n} draws of the constants from {law.spread[source].origin}", studied=studied,
    )  # fmt: skip


def given(law: AnyLaw, params: Mapping[str, float], option: str = "the constants") -> Constants:
    """Ones that the user states, without uncertainty. UserError for missing or unknown names, and for values
    that the law does not take."""
    vector = law.vector(params)
    for one, value in zip(law.parameters, vector, strict=True):
        scale = one.logarithmic and one.name != law.floor
        if not (np.isfinite(value) and one.low <= value <= one.high) or (scale and value == 0):
            raise UserError(f"{option}: {one.name} ({one.meaning}) cannot be {value:g}")
    return Constants(law, dict(params), None, f"{law.name} as given", f"none: {option} came without any")


def judge(
    what: Callable[..., Values],
    *constants: Constants,
    far: bool = False,
    where: Callable[[Values], Mapping[str, float] | None] = lambda values: values,
) -> Decision:
    """`what(params, ...)` of each one's parameters, and its interval over their draws; those without draws
    are held. where: the variables of the laws at which the decision lies, of all that it gives (None: the
    caller says himself how far that is). UserError where these lie more than 100 times beyond own runs,
    unless `far`.

    Draws of which a value is infinite (a target out of their reach) count as that, so that an end of the
    interval may be open; draws without a value are left out. The share of either is said.
    """
    values = what(*(one.params for one in constants))
    at = where(values)
    cautions = [
        text for one in constants for text in (*([] if at is None else _beyond(one, at, far)), *one.cautions)
    ]
    basis = "; ".join(one.basis for one in constants)
    if not np.isfinite(list(values.values())).all():
        return Decision(values, {}, basis, "none: there is no such optimum", tuple(cautions))
    unknown = [one for one in constants if one.draws is None]
    if len(unknown) == len(constants):
        return Decision(values, {}, basis, "; ".join(one.spread for one in unknown), tuple(cautions))
    count = min(len(one.draws) for one in constants if one.draws is not None)
    if not count:
        raise UserError(
            "none of the resamples has an optimum, so there are no intervals: these runs do not identify the "
            "parameters; fix some (fixed=), or add runs of other sizes"
        )
    drawn = np.array([list(what(*(_draw(one, i) for one in constants)).values()) for i in range(count)])
    spread = [one.spread for one in constants if one.draws is not None]
    spread += [f"without that of {one.law.name} ({one.spread.removeprefix('none: ')})" for one in unknown]
    ends = {name: _ends(column) for name, column in zip(values, drawn.T, strict=True)}
    return Decision(values, ends, basis, "; ".join(spread), (*_lost(drawn), *cautions))


def _ends(column: Floats) -> tuple[float, float]:
    """Percentiles of the draws; where some are infinite these are values among them, as nothing lies between
    a number and infinity."""
    method = "inverted_cdf" if np.isinf(column).any() else "linear"
    low, high = np.nanpercentile(column, (2.5, 97.5), method=method)
    return float(low), float(high)


def _lost(drawn: Floats) -> list[str]:
    said = []
    if share := float(np.isinf(drawn).any(axis=1).mean()):
        said.append(
            f"{share:.2%} of the draws do not get there at any cost: they count as infinite, and above 2.5 % "
            "of them the interval has no upper end"
        )
    if share := float(np.isnan(drawn).any(axis=1).mean()):
        said.append(f"{share:.2%} of the draws have no such value and are left out of the intervals")
    return said


def _draw(one: Constants, i: int) -> Values:
    return one.params if one.draws is None else one.law.named(one.draws[i])


def decide(
    law: AnyLaw,
    what: Callable[..., Values],
    fit: Fit | None = None,
    *,
    n: int = 500,
    by: Any = None,
    seed: int = 0,
    far: bool = False,
    at: Mapping[str, float] | None = None,
) -> Decision:
    """`what(**params)` at a fit's parameters, or at published constants: see `judge`.

    by: what is resampled, as `Fit.bootstrap` takes it. at: variables of the law that the decision is made at,
    beside those that it gives by their name.
    """
    one = of_publication(law, n=n, seed=seed) if fit is None else own(fit, n=n, by=by, seed=seed)
    return judge(lambda params: what(**params), one, far=far, where=lambda values: values | dict(at or {}))


def _beyond(one: Constants, values: Mapping[str, float], far: bool) -> list[str]:
    """How far beyond the runs a decision lies, in words, where it does."""
    if one.fit is None:
        return _beyond_published(one, values)
    at = {name: value for name, value in values.items() if name in one.fit.arrays and np.isfinite(value)}
    if not at:
        return [
            f"how far this lies from the runs is not known: it does not say at which "
            f"{', '.join(one.fit.arrays)} (at=)"
        ]
    factor = one.fit.reach(at, far)
    return [f"this lies {factor:.3g} times beyond the runs"] if factor > 1 else []


def _beyond_published(one: Constants, values: Mapping[str, float]) -> list[str]:
    at = {name: value for name, value in values.items() if np.isfinite(value)}
    if {"N", "D"} <= set(at):
        at["C"] = 6 * at["N"] * at["D"]
    far = {
        name: max(at[name] / high, low / max(at[name], 1e-300))
        for name, (low, high) in one.studied.items()
        if name in at
    }
    if max(far.values(), default=1.0) <= 1.01:  # the ranges are rounded
        return []
    name = max(far, key=lambda name: far[name])
    low, high = one.studied[name]
    return [
        f"{name} = {at[name]:.3g} lies {far[name]:.3g} times beyond the runs behind these constants of "
        f"{one.law.name} ({low:.2g} to {high:.2g})"
    ]
