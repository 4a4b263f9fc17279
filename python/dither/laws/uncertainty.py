"""Intervals from resampled rows or groups: percentile and BCa."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from dither.errors import UserError
from dither.laws import corner, search
from dither.laws.engine import Floats, Rows
from dither.laws.scales import scales, tails

if TYPE_CHECKING:
    from dither.laws.fitting import Fit

Derived = Callable[..., Any]

FEW = 100
"""Resamples of which a 95 % interval has two or three on either side."""


@dataclass(frozen=True)
class Bootstrap:
    """Refits to resampled rows.

    values: (replicates, params) in the law's order; failed: replicates that did not converge (left out of
    intervals); groups: units that were resampled, one label a row (of the outer level where there are two).
    """

    fit: Fit = field(repr=False)
    values: Floats = field(repr=False)
    converged: Any = field(repr=False)
    counts: Floats = field(repr=False)
    labels: Any = field(repr=False)

    @property
    def groups(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def failed(self) -> int:
        return int(np.sum(~self.converged))

    @property
    def kept(self) -> Floats:
        """The values of the replicates that converged. UserError where there is none."""
        if not self.converged.any():
            raise UserError(
                f"none of the {len(self.values)} resamples has an optimum, so there are no intervals: these "
                "runs do not identify the parameters; fix some (fixed=), or add runs of other sizes"
            )
        return self.values[self.converged]

    @property
    def cautions(self) -> tuple[str, ...]:
        """What speaks against its intervals, in words."""
        n, kept = len(self.values), int(np.sum(self.converged))
        if 2 * kept < n:
            lost = f"{n - kept} of {n} resamples have no optimum"
            return (f"{lost}: the intervals are of the others alone, and too narrow",)
        if kept < FEW:
            return (f"{kept} resamples make rough intervals: draw {FEW} or more",)
        return ()

    def of(self, derived: Derived) -> Floats:
        """`derived(**params)` of every converged replicate. UserError where there is none."""
        names = self.fit.law.names
        return np.array([derived(**dict(zip(names, v, strict=True))) for v in self.kept])

    def standard_errors(self) -> dict[str, float]:
        return self.fit.law.named(self.kept.std(axis=0))

    def interval(self, level: float = 0.95, derived: Derived | None = None, *, far: bool = False) -> Any:
        """Percentile intervals: of every parameter, or (low, high) of `derived(**params)`; far: as
        `Fit.profile` takes it."""
        if derived is not None:
            self.fit.reach_of(derived, far)
            low, high = np.percentile(self.of(derived), tails(level), axis=0)
            return low, high
        table = np.percentile(self.kept, tails(level), axis=0)
        return {n: (float(a), float(b)) for n, a, b in zip(self.fit.law.names, *table, strict=True)}

    def bca(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Bias-corrected and accelerated intervals (Efron 1987); the acceleration by leaving groups out."""
        normal = NormalDist()
        values = self.kept
        jackknife = _jackknife(self.fit, self.labels)
        result = {}
        for i, (name, estimate) in enumerate(self.fit.params.items()):
            below = np.clip(np.mean(values[:, i] < estimate), 1e-6, 1 - 1e-6)
            bias = normal.inv_cdf(float(below))
            spread = jackknife[:, i].mean() - jackknife[:, i]
            square = np.sum(spread**2)
            speed = float(np.sum(spread**3) / (6 * square**1.5)) if square > 0 else 0.0
            ends = []
            for tail in tails(level):
                z = bias + normal.inv_cdf(tail / 100)
                ends.append(100 * normal.cdf(bias + z / (1 - speed * z)))
            low, high = np.percentile(values[:, i], ends)
            result[name] = (float(low), float(high))
        return result


def groups(fit: Fit, by: Any) -> tuple[Any, Any]:
    """Labels from 0 of the units that are resampled, one a row; and of those inside them, or None.

    by: None (rows), labels, "scale", or two of them, outer first: a pair, or "scale/row".
    """
    if isinstance(by, str):
        by = tuple(by.split("/"))
        if len(by) > 2:
            raise UserError(f"by has two levels at most, not {'/'.join(by)}")
    levels = by if isinstance(by, tuple) and 1 <= len(by) <= 2 and len(fit.loss) > 2 else (by,)
    found = [_labels(fit, level) for level in levels]
    return found[0], found[1] if len(found) == 2 else None


def _labels(fit: Fit, by: Any) -> Any:
    if by is None or (isinstance(by, str) and by == "row"):
        return np.arange(len(fit.loss))
    if isinstance(by, str):
        if by != "scale":
            raise UserError(f"by={by!r}: give 'scale', 'row', 'scale/row', or a label for each row")
        return scales(fit.arrays)
    return np.unique(fit.of_rows(by, "the labels of groups (by)"), return_inverse=True)[1]


def drawn(outer: Any, inner: Any, n: int, rng: np.random.Generator) -> Floats:
    """How often each of `n` resamples holds each row: (n, rows).

    Groups are drawn with replacement; with `inner` labels, the groups inside each drawn one as well (Davison
    and Hinkley 1997, section 3.8): a group that was drawn m times gives m times as many as it has.
    """
    size = int(outer.max()) + 1
    often = rng.multinomial(size, np.full(size, 1 / size), size=n)
    if inner is None:
        return often[:, outer].astype(np.float64)
    counts = np.empty((n, len(outer)))
    for one in range(size):
        mine = np.flatnonzero(outer == one)
        _, within = np.unique(inner[mine], return_inverse=True)
        parts = int(within.max()) + 1
        counts[:, mine] = rng.multinomial(often[:, one] * parts, np.full(parts, 1 / parts))[:, within]
    return counts


def bootstrap(fit: Fit, n: int, *, by: Any, weights: Any, seed: int, threads: int) -> Bootstrap:
    """See `Fit.bootstrap`."""
    if weights is not None:
        counts = np.asarray(weights, dtype=np.float64)
        if counts.ndim != 2 or counts.shape[1] != len(fit.used) or not (counts >= 0).all():
            raise UserError(f"weights of resamples must be (replicates, {len(fit.used)}) and not negative")
        counts = counts[:, fit.used]
        outer = np.unique(counts, axis=1, return_inverse=True)[1].ravel()  # rows always drawn together
    else:
        outer, inner = groups(fit, by)
        if n < 1 or n != int(n):
            raise UserError(f"a bootstrap needs at least one replicate, and a whole number, not {n}")
        if outer.max() < 1:
            raise UserError("there is one group only; nothing can be resampled")
        counts = drawn(outer, inner, n, np.random.default_rng(seed))
    theta, converged = _refits(fit, counts, threads)
    return Bootstrap(fit, fit.law.from_theta(theta), converged, counts, outer)


def _jackknife(fit: Fit, group: Any) -> Floats:
    """Parameters with each group of rows left out."""
    kept = (np.arange(group.max() + 1)[:, None] != group).astype(np.float64)
    return fit.law.from_theta(_refits(fit, kept)[0])


def _refits(fit: Fit, counts: Floats, threads: int = 1) -> tuple[Floats, Any]:
    """theta of the fit to rows that count so often, (refits, params), and which of them are optima."""
    own = counts if fit.weights is None else counts * fit.weights
    rows = Rows.of(fit.rows.x, fit.rows.y, own)
    optima = search.minimise(fit.law, rows, fit.theta[None], fit.objective, fit.low, fit.high, threads)
    theta, _, which = optima.best()
    if fit.objective.name == "lad":
        return corner.settle_each(fit.law, rows, theta, fit.objective, fit.low, fit.high)
    return theta, optima.ending[np.arange(len(theta)), which] == 0
