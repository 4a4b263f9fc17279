"""What speaks against a fit: nested laws, and why its intervals may not be trusted; with errors on runs that
it did not see, trends of residuals and sensitivities all of it at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dither.errors import UserError
from dither.laws.holdout import HoldOut, HoldOuts, runs_of
from dither.laws.scales import called, distinct, scales, tied
from dither.laws.sensitivity import lines, sensitivities
from dither.laws.trends import Trend, alike, residual_trend
from dither.laws.units import mixed

if TYPE_CHECKING:
    from dither.laws.fitting import Fit

NESTED: dict[str, tuple[tuple[str, dict[str, float | str]], ...]] = {
    "chinchilla": (("E = 0", {"E": 0.0}), ("alpha = beta", {"beta": "alpha"})),
    "gamma": (("gamma = 1", {"gamma": 1.0}), ("q = 1", {"q": 1.0})),
    "saturation": (("E = 0", {"E": 0.0}),),
    "kaplan_e": (("E = 0", {"E": 0.0}),),
}
"""law: simpler ones inside it, as what a parameter is there: a value, or another parameter."""

TIED = {"chinchilla": "chinchilla_tied"}
"""The law in which two parameters of another are one."""


@dataclass(frozen=True)
class Nested:
    """A simpler law inside the fitted one. worse: its objective over the fitted one's, less 1. rejected:
    worse than chance allows at 95 %.
    """

    name: str
    worse: float
    rejected: bool


def nested(fit: Fit) -> list[Nested]:
    """Tests of the simpler laws inside this one, within its bounds, by the likelihood ratio of M-estimates.

    Left out are those that its bounds and fixed parameters exclude, or in which as many are free.
    """
    from dither.laws.profiles import rise

    free, result = int(np.sum(fit.low < fit.high)), []
    for name, how in NESTED.get(fit.law.name, ()):
        simple = _simpler(fit, *next(iter(how.items())))
        if simple is not None and int(np.sum(simple.low < simple.high)) < free:
            rises = simple.value - fit.value
            result.append(Nested(name, simple.value / fit.value - 1, bool(rises > rise(fit, 0.95))))
    return result


def _simpler(fit: Fit, name: str, what: float | str) -> Fit | None:
    """The fit with a parameter at a value, or the same as another; None where its bounds exclude that."""
    from dither.laws.fitting import fit_arrays, get

    _, bounds, fixed, threads = fit.settings
    given = {**{key: (value, value) for key, value in fixed.items()}, **bounds}
    low, high = given.pop(name, (-np.inf, np.inf))
    law, other = (get(TIED[fit.law.name]), what) if isinstance(what, str) else (fit.law, name)
    least, most = given.get(other, (-np.inf, np.inf)) if isinstance(what, str) else (what, what)
    low, high = max(low, least), min(high, most)
    if low > high:
        return None
    own = {**given, other: (low, high)}
    return fit_arrays(law, fit.arrays, fit.loss, fit.objective, fit.weights, "project", own, {}, threads)


def uncalibrated(fit: Fit, by: Any = None) -> str:
    """Why intervals of this fit cannot be trusted, in words; empty where nothing speaks against them.

    by: what is resampled for them, as `Fit.bootstrap` takes it.
    """
    for name in ("N", "D"):
        if name in fit.arrays and (levels := distinct(fit.arrays[name])) < 3:
            return f"{name} has {levels} value{'s' * (levels > 1)} only"
    if together := tied(fit.arrays):
        return together
    count = int(scales(fit.arrays).max()) + 1
    if count < 4:
        return f"the runs have {count} scale{'s' * (count > 1)} of {called(fit.arrays)} only"
    if not fit.certificate.is_minimum:
        return "the optimum is no certified minimum"
    if mixed(fit):
        return "the losses are in two units"
    free = int(np.sum(fit.low < fit.high))
    if len(fit.loss) < 3 * free:
        return f"{len(fit.loss)} rows for {free} parameters"
    p = residual_trend(fit).p
    if p < 0.01:
        return (
            f"residuals still depend on {called(fit.arrays)} (p = {p:.3f}): the law is wrong for these runs"
        )
    if by is None and (p := alike(fit)) < 0.01:
        return (
            f"the residuals of one scale are alike (p = {p:.3f}), so its runs are no independent evidence: "
            "resample scales and the runs inside them (by='scale/row', --by scale/row)"
        )
    return ""


@dataclass(frozen=True)
class Validation:
    """All that speaks against a fit, or for it. largest: None where rows that belong together leave too few
    others for the law."""

    largest: HoldOut | None
    rolling: tuple[HoldOut, ...]
    left_out: tuple[HoldOut, ...]
    trend: Trend
    sensitivity: dict[str, Fit]
    nested: tuple[Nested, ...]
    not_calibrated: str

    def card(self) -> dict[str, Any]:
        """As JSON takes it: of the sensitivity, the parameters."""
        params = {name: fit.params for name, fit in self.sensitivity.items()}
        return asdict(replace(self, sensitivity={})) | {"sensitivity": params}

    def __str__(self) -> str:
        t, none = self.trend, "not possible: without its runs too few are left"
        said = ["largest scale held out:", f"  {self.largest or none}", "rolling origin:"]
        said += [f"  {one}" for one in self.rolling]
        said += ["each scale left out:", *(f"  {one}" for one in self.left_out)]
        said.append("mean residual by scale (%): " + " ".join(f"{100 * m:+.2f}" for m in t.means))
        said.append(
            f"  trend with {t.over}: p = {t.p:.3f}" + (" (they should not depend on it)" * (t.p < 0.05))
        )
        said += [
            f"{one.name}: {'' if one.rejected else 'not '}rejected (objective {100 * one.worse:+.2f} %)"
            for one in self.nested
        ]
        said += lines(self.sensitivity)
        if self.not_calibrated:
            said.append(f"intervals are not calibrated: {self.not_calibrated}")
        return "\n".join(said)


def validate(
    fit: Fit,
    *,
    by: Any = None,
    run: Any = None,
    other_N: Mapping[str, Any] | None = None,
    checkpoints: Any = None,
) -> Validation:
    """All checks of a fit.

    by: what intervals resample, as `Fit.bootstrap` takes it. run: a label a row, where several rows are of
    one run (its checkpoints): these are held out together; default: the labels of `by`, if all rows of one
    differ in tokens alone. other_N, checkpoints: as `sensitivities` takes them. UserError where the rows have
    fewer than three scales.
    """
    scale = scales(fit.arrays)
    if scale.max() < 2:
        raise UserError(
            f"validation needs three scales of {called(fit.arrays)}; the rows have {int(scale.max()) + 1}: "
            "add others"
        )
    try:
        return _validated(fit, by, run, other_N, checkpoints)
    except UserError as error:
        raise UserError(f"validation refits the law with runs left out: {error}") from error


def _validated(
    fit: Fit, by: Any, run: Any, other_N: Mapping[str, Any] | None, checkpoints: Any
) -> Validation:
    held = HoldOuts(fit, run) if run is not None else HoldOuts(fit, runs_of(fit, by), "groups")
    return Validation(
        held.largest(),
        tuple(held.rolling()),
        tuple(held.left_out()),
        residual_trend(fit),
        sensitivities(fit, other_N=other_N, checkpoints=checkpoints),
        tuple(nested(fit)),
        uncalibrated(fit, by),
    )
