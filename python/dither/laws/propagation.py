"""A loss through a map, with the uncertainty of the map, of its floors, and of the law that the loss is from.

Runs are resampled, not pairs: a run that is drawn twice counts twice in the law of x, in that of y, and in
the map, so that errors that these share are not counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.fitting import Fit
from dither.laws.scales import tails
from dither.laws.validation import uncalibrated

if TYPE_CHECKING:
    from dither.laws.loss_to_loss import LossMap

LEAST = 0.5
"""Share of the resamples that must have a map."""

FITTED = 2
"""Numbers of a map, K and kappa: residuals of n pairs are too small by sqrt((n - 2) / n)."""


@dataclass(frozen=True)
class Mapped:
    """The loss of y for one run to come and its interval. parts: the interval with the map alone resampled
    ("map"), and with the law of x alone ("law of x"; empty where the loss of x was measured). failed:
    resamples without a map, left out. why: why the interval is not calibrated, in words.
    """

    value: float
    low: float
    high: float
    parts: dict[str, tuple[float, float]]
    failed: int
    why: str

    def __str__(self) -> str:
        text = f"{self.value:.5g}, 95 % {self.low:.5g} .. {self.high:.5g}"
        text += "".join(f"; {name} alone {a:.5g} .. {b:.5g}" for name, (a, b) in self.parts.items())
        return text + (f"; not calibrated: {self.why}" if self.why else "")


def through(
    one: LossMap,
    loss_x: float | None = None,
    *,
    at: Mapping[str, float] | None = None,
    source: Fit | None = None,
    level: float = 0.95,
    n: int = 300,
    seed: int = 0,
    far: bool = False,
) -> Mapped:
    """See `LossMap.interval`."""
    source = source or one.fit_x
    if (loss_x is None) == (at is None):
        raise UserError("give the measured loss of x, or at={'N': ..., 'D': ...} for the law of x to say it")
    tails(level)
    if n < 1:
        raise UserError(f"an interval needs resamples, not {n}")
    rng = np.random.default_rng(seed)
    runs_x, runs_y = _drawn(one, n, rng)
    if at is None:
        middle, xs, parts, why = float(loss_x), np.full(n, float(loss_x)), {}, ""  # type: ignore[arg-type]
    elif source is None:
        raise UserError("the map was made with a given E_x, so it has no law of x: give source=, a fit")
    else:
        middle = float(source.predict(far=far, **dict(at)))
        own = runs_x if _same_runs(one, source) else drawn_rows(len(source.loss), n, rng)
        where = source.law.arrays(at)
        xs = np.array([float(source.law.curve(v, where)) for v in _values(source, own)])
        parts, why = {"law of x": xs}, uncalibrated(source)
    value = float(one.predict(middle))
    floors = _floors(one.fit_x, runs_x, one.E_x), _floors(one.fit_y, runs_y, one.E_y)
    maps = [_again(one, runs_x[i], float(floors[0][i]), float(floors[1][i])) for i in range(n)]
    rows = len(one.pairs.y)
    residuals = np.log(one.pairs.y / one.predict(one.pairs.x)) * np.sqrt(rows / max(rows - FITTED, 1))
    scatter = np.exp(rng.choice(residuals, n))
    found = _mapped(maps, xs) * scatter
    failed = int(np.sum(~np.isfinite(found)))
    if failed > (1 - LEAST) * n:
        raise UserError(
            f"{failed} of {n} resamples have no map, or a loss of x below its floor; give more pairs, or a "
            "floor (E_x=, E_y=)"
        )

    def ends(values: Floats) -> tuple[float, float]:
        low, high = np.nanpercentile(values, tails(level))
        return float(low), float(high)

    alone = {"map": ends(_mapped(maps, np.full(n, middle)))}
    alone |= {name: ends(_mapped([one] * n, values)) for name, values in parts.items()}
    return Mapped(value, *ends(found), alone, failed, why)


def drawn_rows(rows: int, n: int, rng: np.random.Generator) -> Floats:
    """How often each of n resamples holds each row."""
    return rng.multinomial(rows, np.full(rows, 1 / rows), size=n).astype(np.float64)


def _drawn(one: LossMap, n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Resamples of the runs of x and of y: a pair's two runs are drawn together."""
    pairs = one.pairs
    runs_x = drawn_rows(len(pairs.x) + len(pairs.unmatched_x), n, rng)
    runs_y = np.zeros((n, len(pairs.y) + len(pairs.unmatched_y)))
    runs_y[:, pairs.index_y] = runs_x[:, pairs.index_x]
    if len(pairs.unmatched_y):
        runs_y[:, pairs.unmatched_y] = drawn_rows(len(pairs.unmatched_y), n, rng)
    return runs_x, runs_y


def _same_runs(one: LossMap, source: Fit) -> bool:
    """Whether a law of x was fitted to the runs of the map, in their order."""
    pairs = one.pairs
    rows = len(pairs.x) + len(pairs.unmatched_x)
    return len(source.loss) == rows and bool(np.array_equal(source.loss[pairs.index_x], pairs.x))


def _values(fit: Fit, counts: Floats) -> Floats:
    """Parameters of every resample; those without an optimum are NaN."""
    drawn = fit.bootstrap(weights=counts)
    return np.where(drawn.converged[:, None], drawn.values, np.nan)


def _floors(fit: Fit | None, counts: Floats, given: float) -> Floats:
    if fit is None:
        return np.full(len(counts), given)
    return _values(fit, counts)[:, fit.law.names.index("E")]


def _again(one: LossMap, counts: Floats, e_x: float, e_y: float) -> LossMap | None:
    """The map of resampled pairs at resampled floors; None where there is none."""
    pairs = one.pairs
    at = np.repeat(np.arange(len(pairs.x)), counts[pairs.index_x].astype(int))
    if len(np.unique(at)) < 3 or not np.isfinite([e_x, e_y]).all():
        return None
    drawn = replace(
        pairs, x=pairs.x[at], y=pairs.y[at], keys=pairs.keys[at],
        index_x=pairs.index_x[at], index_y=pairs.index_y[at],
    )  # fmt: skip
    try:
        return one.refit(drawn, e_x, e_y)
    except UserError:  # a loss lies below its floor
        return None


def _mapped(maps: Sequence[LossMap | None], xs: Floats) -> Floats:
    """Losses of y; NaN where there is no map, or x lies below its floor."""
    return np.array(
        [
            float(one.predict(x)) if one is not None and x > one.E_x else np.nan
            for one, x in zip(maps, xs, strict=True)
        ]
    )
