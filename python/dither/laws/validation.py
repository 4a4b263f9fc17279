"""Does a fit predict? Errors on runs that it did not see, and nested laws; with trends of residuals and
sensitivities all that speaks against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.scales import distinct, scales, size, tied
from dither.laws.sensitivity import lines, sensitivities
from dither.laws.trends import Trend, alike, residual_trend
from dither.laws.units import mixed

if TYPE_CHECKING:
    from dither.laws.fitting import Fit

NESTED: dict[str, tuple[tuple[str, dict[str, float] | str], ...]] = {
    "chinchilla": (("E = 0", {"E": 0.0}), ("alpha = beta", "chinchilla_tied")),
    "gamma": (("gamma = 1", {"gamma": 1.0}), ("q = 1", {"q": 1.0})),
    "saturation": (("E = 0", {"E": 0.0}),),
    "kaplan_e": (("E = 0", {"E": 0.0}),),
}
"""law: simpler ones inside it, as fixed parameters or as another law's name."""


def subset(fit: Fit, kept: Any) -> Fit:
    """The same fit to a part of its runs."""
    from dither.laws.fitting import fit_arrays

    at = np.flatnonzero(kept) if np.asarray(kept).dtype == bool else np.asarray(kept)
    return fit_arrays(
        fit.law,
        {name: values[at] for name, values in fit.arrays.items()},
        fit.loss[at],
        fit.objective,
        None if fit.weights is None else fit.weights[at],
        *fit.settings,
    )


@dataclass(frozen=True)
class HoldOut:
    """Errors on runs that the fit did not see.

    factor: their largest compute over that of the runs seen. bias, error: mean signed and mean absolute
    relative error of the loss; reducible: mean absolute error over L - E. last, power: mean absolute relative
    error of two naive predictors: the loss of the largest run seen, and a power law of compute alone.
    """

    seen: int
    held: int
    factor: float
    bias: float
    error: float
    reducible: float
    last: float
    power: float

    def __str__(self) -> str:
        return (
            f"{self.seen:>4} runs -> {self.held:>3} runs up to {self.factor:>5.2g}x: error "
            f"{100 * self.error:5.2f} % (bias {100 * self.bias:+5.2f} %), "
            f"{100 * self.reducible:5.1f} % of L - E; "
            f"last loss {100 * self.last:5.2f} %, power law of C {100 * self.power:5.2f} %"
        )


def naive(c: Floats, loss: Floats, c_held: Floats) -> dict[str, Floats]:
    """What predicts losses without a law of size and data, from runs of compute c: the loss of the largest,
    and a power law of compute."""
    slope, level = (
        np.polyfit(np.log(c), np.log(loss), 1) if np.ptp(np.log(c)) > 0 else (0.0, np.log(loss).mean())
    )
    last = np.full(len(c_held), loss[np.argmax(c)])
    return {"last loss": last, "power law of C": np.exp(level + slope * np.log(c_held))}


def hold_out(fit: Fit, seen: Any) -> HoldOut:
    """Fit to the runs `seen` (booleans), predict the others."""
    seen = np.asarray(seen, dtype=bool)
    part = subset(fit, seen)
    held = {name: values[~seen] for name, values in fit.arrays.items()}
    truth = fit.loss[~seen]
    predicted = part.law.curve(part.law.vector(part.params), held)
    c, c_held = size(part.arrays), size(held)
    relative = predicted / truth - 1
    floor = part.params.get("E", 0.0)
    last, power = naive(c, part.loss, c_held).values()
    return HoldOut(
        int(seen.sum()),
        int((~seen).sum()),
        float(c_held.max() / c.max()),
        float(relative.mean()),
        float(np.abs(relative).mean()),
        float(np.mean(np.abs(predicted - truth) / np.maximum(truth - floor, np.finfo(float).tiny))),
        float(np.mean(np.abs(last / truth - 1))),
        float(np.mean(np.abs(power / truth - 1))),
    )


def rolling_origin(fit: Fit, *, ahead: int = 2) -> list[HoldOut]:
    """Fit up to each scale that leaves enough runs, predict the next `ahead` scales one by one."""
    scale = scales(fit.arrays)
    free = int(np.sum(fit.low < fit.high))
    result = []
    for last in range(2, int(scale.max())):
        if np.sum(scale <= last) < free + 2:
            continue
        for step in range(1, ahead + 1):
            if last + step <= scale.max():
                pick = (scale <= last) | (scale == last + step)
                result.append(hold_out(restricted(fit, pick), (scale <= last)[pick]))
    return result


def restricted(fit: Fit, pick: Any) -> Fit:
    """The fit with a part of its table, not fitted again: what a hold-out starts from."""
    return replace(
        fit,
        arrays={name: values[pick] for name, values in fit.arrays.items()},
        loss=fit.loss[pick],
        weights=None if fit.weights is None else fit.weights[pick],
    )


def leave_scale_out(fit: Fit) -> list[HoldOut]:
    """Each scale predicted from all the others."""
    scale = scales(fit.arrays)
    return [hold_out(fit, scale != one) for one in range(int(scale.max()) + 1)]


@dataclass(frozen=True)
class Nested:
    """A simpler law inside the fitted one. worse: its objective over the fitted one's, less 1. rejected:
    worse than chance allows at 95 %.
    """

    name: str
    worse: float
    rejected: bool


def nested(fit: Fit) -> list[Nested]:
    """Tests of the simpler laws inside this one, by the likelihood ratio of M-estimates."""
    from dither.laws.fitting import fit_arrays, get
    from dither.laws.profiles import rise

    result = []
    for name, how in NESTED.get(fit.law.name, ()):
        law = get(how) if isinstance(how, str) else fit.law
        _, _, fixed, threads = fit.settings
        fixed = fixed if isinstance(how, str) else {**fixed, **how}
        if isinstance(how, str) and set(fixed) - set(law.names):
            continue
        simple = fit_arrays(
            law, fit.arrays, fit.loss, fit.objective, fit.weights, "project", {}, fixed, threads
        )
        result.append(
            Nested(name, simple.value / fit.value - 1, bool(simple.value - fit.value > rise(fit, 0.95)))
        )
    return result


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
        return f"the runs have {count} scale{'s' * (count > 1)} of compute only"
    if not fit.certificate.is_minimum:
        return "the optimum is no certified minimum"
    if mixed(fit):
        return "the losses are in two units"
    free = int(np.sum(fit.low < fit.high))
    if len(fit.loss) < 3 * free:
        return f"{len(fit.loss)} runs for {free} parameters"
    p = residual_trend(fit).p
    if p < 0.01:
        return f"residuals still depend on compute (p = {p:.3f}): the law is wrong for these runs"
    if by is None and (p := alike(fit)) < 0.01:
        return (
            f"the residuals of one scale are alike (p = {p:.3f}), so its runs are no independent evidence: "
            "resample scales and the runs inside them (by='scale/row', --by scale/row)"
        )
    return ""


@dataclass(frozen=True)
class Validation:
    """Everything of this file at once."""

    largest: HoldOut
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
        t = self.trend
        said = ["largest scale held out:", f"  {self.largest}", "rolling origin:"]
        said += [f"  {one}" for one in self.rolling]
        said += ["each scale left out:", *(f"  {one}" for one in self.left_out)]
        said.append("mean residual by scale (%): " + " ".join(f"{100 * m:+.2f}" for m in t.means))
        said.append(
            f"  trend with compute: p = {t.p:.3f}" + (" (they should not depend on it)" * (t.p < 0.05))
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
    fit: Fit, *, by: Any = None, other_N: Mapping[str, Any] | None = None, checkpoints: Any = None
) -> Validation:
    """All checks of a fit. by: what intervals resample, as `Fit.bootstrap` takes it; other_N, checkpoints: as
    `sensitivities` takes them. UserError where the runs have fewer than three scales.
    """
    scale = scales(fit.arrays)
    if scale.max() < 2:
        raise UserError(
            f"validation needs three scales of compute; the runs have {int(scale.max()) + 1}: add other "
            "budgets"
        )
    try:
        return _validated(fit, scale, by, other_N, checkpoints)
    except UserError as error:
        raise UserError(f"validation refits the law with runs left out: {error}") from error


def _validated(
    fit: Fit, scale: Any, by: Any, other_N: Mapping[str, Any] | None, checkpoints: Any
) -> Validation:
    return Validation(
        hold_out(fit, scale < scale.max()),
        tuple(rolling_origin(fit)),
        tuple(leave_scale_out(fit)),
        residual_trend(fit),
        sensitivities(fit, other_N=other_N, checkpoints=checkpoints),
        tuple(nested(fit)),
        uncalibrated(fit, by),
    )
