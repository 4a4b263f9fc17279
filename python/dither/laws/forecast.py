"""A prediction with an interval that holds the spread over competing laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.fitting import Fit, fit_arrays, get
from dither.laws.scales import tails
from dither.laws.validation import uncalibrated

RIVALS = {
    "chinchilla": ("kaplan_e", "gamma", "chinchilla_tied"),
    "kaplan_e": ("chinchilla", "gamma"),
    "gamma": ("chinchilla", "kaplan_e"),
    "over_training": ("chinchilla", "kaplan_e"),
    "chinchilla_tied": ("chinchilla", "kaplan_e"),
}
"""law: competing families of the same variables."""


@dataclass(frozen=True)
class Prediction:
    """A prediction with its interval: the fit's own (bootstrap), and widened to the competing families.

    rivals: law -> its prediction. left_out: rivals without a certified optimum on these runs. factor: how far
    beyond the data. calibrated: False where intervals of such a design were measured not to cover (see
    `why`).
    """

    value: float
    low: float
    high: float
    family_low: float
    family_high: float
    rivals: dict[str, float]
    left_out: tuple[str, ...]
    factor: float
    calibrated: bool
    why: str

    def __str__(self) -> str:
        text = (
            f"{self.value:.5g}, 95 % {self.low:.5g} .. {self.high:.5g}; with competing laws "
            f"{self.family_low:.5g} .. {self.family_high:.5g}; {self.factor:.3g}x beyond the data"
        )
        if self.left_out:
            text += f"; without {', '.join(self.left_out)}, whose optimum is not certified on these runs"
        return text if self.calibrated else f"{text}; not calibrated: {self.why}"


def predict_interval(
    fit: Fit,
    at: Mapping[str, float],
    *,
    level: float = 0.95,
    n: int = 500,
    by: Any = None,
    seed: int = 0,
    far: bool = False,
    rivals: Sequence[str] | None = None,
) -> Prediction:
    """The loss of one run to come, its interval from resampled runs and the spread over rival laws.

    at: variable -> value. by: a group for each run of the fit, which are resampled together. rivals: names of
    laws (default: the usual ones).
    """
    if any(np.size(one) != 1 for one in at.values()):
        raise UserError("at= is one run to come: give a number for each of " + ", ".join(fit.law.variables))
    value = float(fit.predict(far=far, **dict(at)))
    arrays = fit.law.arrays(at)
    kept = fit.bootstrap(n, by=by, seed=seed).kept
    curves = np.array([float(fit.law.curve(v, arrays)) for v in kept])
    # A new run scatters about the curve as the runs of the fit do, which their own fit draws nearer to it.
    rows, free = len(fit.loss), int(np.sum(fit.low < fit.high))
    nearer = np.sqrt(rows / max(1, rows - free))
    noise = np.random.default_rng(seed + 1).choice(nearer * fit.residuals, len(curves))
    low, high = (float(v) for v in np.percentile(curves * np.exp(noise), tails(level)))
    others, left_out = {}, []
    for name in RIVALS.get(fit.law.name, ()) if rivals is None else rivals:
        law = get(name)
        if set(law.variables) != set(fit.arrays):
            raise UserError(
                f"{name} is no rival of {fit.law.name}: it is a law of {', '.join(law.variables)}"
            )
        rival = fit_arrays(law, fit.arrays, fit.loss, fit.objective, fit.weights, "project", {}, {})
        if not rival.certificate.is_minimum:
            left_out.append(name)
            continue
        others[name] = float(rival.law.curve(rival.law.vector(rival.params), arrays))
    values = [value, *others.values()]
    why = uncalibrated(fit, by)
    return Prediction(
        value,
        low,
        high,
        min(low, low + min(values) - value),
        max(high, high + max(values) - value),
        others,
        tuple(left_out),
        fit.extrapolation(arrays),
        not why,
        why,
    )
