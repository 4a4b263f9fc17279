"""What a study measures: an estimate with its interval, and the least effect that it could have shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from dither.paired import paired_interval, student_quantile

CONFIDENCE, POWER = 0.95, 0.8


@dataclass(frozen=True)
class Measurement:
    """An estimate with its 95 % interval from `n` seeds (or other independent units). detectable: the least
    distance from the claim's threshold that 80 % of such studies would show."""

    estimate: float
    low: float
    high: float
    n: int
    detectable: float

    def __str__(self) -> str:
        return f"{self.estimate:+.4g} [{self.low:+.4g}, {self.high:+.4g}], n = {self.n}"


def over_seeds(values: Sequence[float], baseline: Sequence[float] | None = None) -> Measurement:
    """The mean of one value a seed, or of paired differences `values - baseline`, with Student's interval.

    Raises ValueError for fewer than 2 seeds, unequal lengths, and values that are not finite.
    """
    base = [0.0] * len(values) if baseline is None else baseline
    if len(values) < 2 or not np.isfinite([*values, *base]).all():
        raise ValueError(f"needs finite values of at least 2 seeds, not {list(values)} and {list(base)}")
    found = paired_interval(values, base, CONFIDENCE)
    assert found.low is not None and found.high is not None and found.sd is not None
    tails = student_quantile(0.5 + CONFIDENCE / 2, found.n - 1) + student_quantile(POWER, found.n - 1)
    return Measurement(found.mean, found.low, found.high, found.n, tails * found.sd / math.sqrt(found.n))


def jackknife(statistic: Callable[[np.ndarray], float], n: int) -> Measurement:
    """The same for a statistic of several seeds together, such as a correlation between runs.

    statistic(kept) is the value from the seeds `kept`, positions out of n. Leave-one-out pseudo-values
    (Tukey) take the place of values of seeds: pairs of runs share runs, and are not independent.
    """
    whole = statistic(np.arange(n))
    without = [statistic(np.delete(np.arange(n), i)) for i in range(n)]
    found = over_seeds([n * whole - (n - 1) * value for value in without])
    half = found.high - found.estimate
    return Measurement(whole, whole - half, whole + half, n, found.detectable)


def resampled(estimate: float, replicates: Sequence[float] | np.ndarray, n: int) -> Measurement:
    """An estimate with the percentile interval of its resamples (a bootstrap's); n: units that were drawn."""
    values = np.asarray(replicates, dtype=np.float64)
    if len(values) < 2 or not np.isfinite([estimate, *values]).all():
        raise ValueError(
            f"needs an estimate and at least 2 resamples that are finite, not {estimate} and {values}"
        )
    low, high = np.percentile(values, (50 - 50 * CONFIDENCE, 50 + 50 * CONFIDENCE))
    tails = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) + NormalDist().inv_cdf(POWER)
    return Measurement(float(estimate), float(low), float(high), n, float(tails * values.std(ddof=1)))


def huber(predicted: Any, loss: Any, delta: float = 1e-3) -> Any:
    """Huber's objective of log residuals, the share of every run: what most papers minimise the sum of."""
    size = np.abs(np.log(predicted) - np.log(loss))
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


def exact(value: float, n: int) -> Measurement:
    """A number that a table of n rows determines, such as the objective at published parameters: no chance is
    in it, so its interval is a point."""
    return Measurement(float(value), float(value), float(value), n, 0.0)


def proportion(share: float, n: int) -> Measurement:
    """A share of n independent trials, with Wilson's interval, which also holds for shares of 0 and 1."""
    z = 1.959964
    centre, width = (share + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n)
    half = width * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Measurement(share, centre - half, centre + half, n, (z + 0.8416) * 0.5 / math.sqrt(n))
