"""Errors on runs that a fit did not see: the largest scale held out, rolling origin, each scale left out.

Rows that belong together (the checkpoints of a run) are held out together: where one of them is predicted,
none of the others is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dither.laws.engine import Floats
from dither.laws.scales import called, scales, size

if TYPE_CHECKING:
    from dither.laws.fitting import Fit

SPARE = 2
"""Rows more than free parameters that must be seen at a rolling origin."""

RUNS = 3
"""Runs that must be seen where rows belong together: fewer sizes do not tell an exponent from a floor."""


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
    """Errors on rows that the fit did not see.

    seen, held: numbers of `unit` (rows; runs or groups, where rows belong together). factor: the largest
    compute held out over the largest seen. bias, error: mean signed and mean absolute relative error of the
    loss; reducible: mean absolute error over L - E. last, power: mean absolute relative error of two naive
    predictors: the best loss of the largest scale seen, and a power law of compute alone. over: what stands
    for compute (the first variable, where a law has no N and D).
    """

    seen: int
    held: int
    factor: float
    bias: float
    error: float
    reducible: float
    last: float
    power: float
    unit: str = "rows"
    over: str = "compute"

    def __str__(self) -> str:
        held = self.unit[:-1] if self.held == 1 else self.unit
        return (
            f"{self.seen:>4} {self.unit} -> {self.held:>3} {held} up to {self.factor:>5.2g}x: error "
            f"{100 * self.error:5.2f} % (bias {100 * self.bias:+5.2f} %), "
            f"{100 * self.reducible:5.1f} % of L - E; "
            f"last loss {100 * self.last:5.2f} %, power law of {self.over} {100 * self.power:5.2f} %"
        )


def naive(c: Floats, loss: Floats, c_held: Floats) -> tuple[Floats, Floats]:
    """What predicts losses without a law of size and data, from runs of compute c: the best loss of the
    largest scale, and a power law of compute."""
    slope, level = (
        np.polyfit(np.log(c), np.log(loss), 1) if np.ptp(np.log(c)) > 0 else (0.0, np.log(loss).mean())
    )
    scale = scales({"C": c})
    largest = loss[scale == scale.max()]
    last = np.full(len(c_held), largest.max() if slope > 0 else largest.min())
    return last, np.exp(level + slope * np.log(c_held))


class HoldOuts:
    """All hold-outs of a fit.

    run: a label a row of the table; rows of one label are held out together. unit: what a label is of.
    """

    def __init__(self, fit: Fit, run: Any = None, unit: str = "runs") -> None:
        self.fit, self.scale = fit, scales(fit.arrays)
        self.unit = "rows" if run is None else unit
        labels = np.arange(len(fit.used)) if run is None else np.asarray(run)
        self.label = np.unique(fit.of_rows(labels, f"labels of {unit}"), return_inverse=True)[1]
        self.least = int(np.sum(fit.low < fit.high))

    def without(self, held: Any, seen: Any = True) -> Any:
        """The rows `seen` (booleans of fitted rows) that do not belong to any that is held out."""
        return seen & ~np.isin(self.label, self.label[held])

    def of(self, seen: Any, held: Any) -> HoldOut:
        """Fit to the rows `seen`, predict the rows `held` (booleans of fitted rows)."""
        seen = self.without(held, seen)
        part = subset(self.fit, seen)
        arrays = {name: values[held] for name, values in self.fit.arrays.items()}
        truth = self.fit.loss[held]
        predicted = part.law.curve(part.law.vector(part.params), arrays)
        c, c_held = size(part.arrays), size(arrays)
        relative = predicted / truth - 1
        floor = part.params.get("E", 0.0)
        last, power = naive(c, part.loss, c_held)
        return HoldOut(
            len(np.unique(self.label[seen])),
            len(np.unique(self.label[held])),
            float(c_held.max() / c.max()),
            float(relative.mean()),
            float(np.abs(relative).mean()),
            float(np.mean(np.abs(predicted - truth) / np.maximum(truth - floor, np.finfo(float).tiny))),
            float(np.mean(np.abs(last / truth - 1))),
            float(np.mean(np.abs(power / truth - 1))),
            self.unit,
            called(self.fit.arrays),
        )

    def largest(self) -> HoldOut | None:
        """The largest scale predicted from the others; None where its runs leave too few of them."""
        held = self.scale == self.scale.max()
        return next(iter(self._possible([(~held, held)])), None)

    def rolling(self, *, ahead: int = 2) -> list[HoldOut]:
        """Fit up to each scale that leaves enough rows, predict the next `ahead` scales one by one."""
        top = int(self.scale.max())
        pairs = [(last, last + step) for last in range(2, top) for step in range(1, ahead + 1)]
        parts = [(self.scale <= last, self.scale == at) for last, at in pairs if at <= top]
        return self._possible(parts, SPARE)

    def left_out(self) -> list[HoldOut]:
        """Each scale predicted from all the others, where these are enough."""
        each = [self.scale == one for one in range(int(self.scale.max()) + 1)]
        return self._possible([(~held, held) for held in each])

    def _possible(self, parts: list[tuple[Any, Any]], spare: int = 0) -> list[HoldOut]:
        if self.unit == "rows" and not spare:  # whose refit says what is wrong
            return [self.of(seen, held) for seen, held in parts]
        least, found = self.least + spare, []
        for seen, held in parts:
            left = self.without(held, seen)
            if left.sum() >= least and (self.unit == "rows" or len(np.unique(self.label[left])) >= RUNS):
                found.append(self.of(seen, held))
        return found


def runs_of(fit: Fit, by: Any) -> Any:
    """The labels among `by` (as `Fit.bootstrap` takes it) that name runs of several checkpoints: of one label
    all variables but the tokens D are the same. None where there are none."""
    for level in reversed(by if isinstance(by, tuple) else (by,)):
        if level is None or isinstance(level, str) or "D" not in fit.arrays:
            continue
        label = fit.of_rows(level, "the labels of groups (by)")
        one = [label == name for name in np.unique(label)]
        others = [values for name, values in fit.arrays.items() if name != "D"]
        if len(one) < len(label) and all(np.ptp(values[at]) == 0 for values in others for at in one):
            return level
    return None


def hold_out(fit: Fit, seen: Any, *, run: Any = None) -> HoldOut:
    """Fit to the rows `seen` (booleans, one a row of the table), predict the others. run: a label a row;
    rows of a run that is predicted are not seen."""
    known = np.asarray(fit.of_rows(seen, "what is seen"), dtype=bool)
    return HoldOuts(fit, run).of(known, ~known)


def rolling_origin(fit: Fit, *, ahead: int = 2, run: Any = None) -> list[HoldOut]:
    """Fit up to each scale that leaves enough rows, predict the next `ahead` scales one by one."""
    return HoldOuts(fit, run).rolling(ahead=ahead)
