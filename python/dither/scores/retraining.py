"""Is a selection better than random? Train on it and on random examples of the same number, over seeds.

Most scores lose to random without care (2311.16298), and one training of each tells nothing. Here every seed
trains a pair, on the selection and on a random choice of as many examples; the differences get an interval,
and a difference that could not have been seen is said to be that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.paired import Interval, paired_interval, student_quantile
from dither.scores.borrowed import Ints, integers
from dither.scores.selection import random
from dither.scores.trainings import Train, trainings

Choice = Any  # (k,) positions, or a function of the seed that gives them
BASELINE = 1 << 32
"""The baseline of seed s is random(n, k, seed=s + 2^32): no policy's own seed."""
POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """One selection against random examples of the same number.

    results, baseline: what training gave, by seed. interval: of their paired differences, selection minus
    random.
    detectable: the least true difference that so many seeds, with this spread, show in 80 % of such
    comparisons."""

    name: str
    kept: int
    results: tuple[float, ...]
    baseline: tuple[float, ...]
    interval: Interval
    detectable: float
    higher_is_better: bool

    @property
    def verdict(self) -> str:
        """One of "better", "worse", "not told apart", and "no verdict" where every seed gives the same
        difference: an interval of no width tells nothing of other seeds."""
        low, high = self.interval.low, self.interval.high
        assert low is not None and high is not None
        if self._same_for_every_seed and abs(self.interval.mean) > self._rounding:
            return "no verdict"
        if self._same_for_every_seed or low <= 0 <= high:
            return "not told apart"
        return "better" if (low > 0) == self.higher_is_better else "worse"

    @property
    def _rounding(self) -> float:
        return 1e-12 * max(map(abs, (*self.results, *self.baseline)))

    @property
    def _same_for_every_seed(self) -> bool:
        assert self.interval.sd is not None
        return self.interval.sd <= self._rounding

    def __str__(self) -> str:
        found = self.interval
        means = f"{np.mean(self.results):.4g} against {np.mean(self.baseline):.4g}"
        text = (
            f"{self.name}, {self.kept:,} examples: {means}, "
            f"difference {found.mean:+.4g} [{found.low:+.4g}, {found.high:+.4g}] over {found.n} seeds: "
        )
        if self._same_for_every_seed:
            return text + f"{self.verdict}: every seed gives the same difference"
        if self.verdict == "not told apart":
            return text + f"not told apart from random (a difference of {self.detectable:.2g} would be seen)"
        return text + f"{self.verdict} than random"


@dataclass(frozen=True)
class Retraining:
    """Every selection's comparison by name; `full`: training on everything, by seed, where asked for."""

    comparisons: Mapping[str, Comparison]
    full: tuple[float, ...]
    confidence: float

    def __str__(self) -> str:
        lines = [str(comparison) for comparison in self.comparisons.values()]
        if self.full:
            lines.append(f"all examples: {np.mean(self.full):.4g}")
        m = len(self.comparisons)
        told = f"{self.confidence:.0%} intervals of paired differences"
        return "\n".join([*lines, told + (f", for all {m} at once" if m > 1 else "")])


def retrain(
    train: Train,
    selections: Mapping[str, Choice],
    n: int,
    *,
    seeds: int | np.integer | Iterable[int] = 5,
    higher_is_better: bool = True,
    full: bool = False,
    confidence: float = 0.95,
    record: str | Path | None = None,
    tag: str | None = None,
) -> Retraining:
    """Train on every selection and on random examples, for every seed, and compare.

    train: (positions, seed) -> a number, such as the accuracy on held-out data; the seed should fix
        initialisation and order, so that the pair shares them.
    selections: name -> positions of the examples kept out of n, or a function of the seed that gives them.
    seeds: how many, or which. full: train on all n as well.
    confidence: of the intervals together (Bonferroni over the selections).
    record: a .jsonl file that gets a line for every training that ends; the same call goes on from it. What a
        `train` of other code, or with other arrays, left there is not taken.
    tag: what stands for `train` in the record, in place of its code and arrays: name there what these do not
        show, such as files and settings in a dict that it reads.

    Selections of one size share their random partners. Raises UserError for fewer than 2 seeds, positions
    that are no examples or repeated, a result that is not finite, and a record that another process writes.
    """
    chosen = tuple(range(int(seeds)) if isinstance(seeds, (int, np.integer)) else seeds)
    if len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise UserError(f"a comparison needs at least 2 different seeds, not {list(chosen)}")
    if not selections or not isinstance(selections, Mapping):
        raise UserError("there is no selection by name to compare")
    if any(isinstance(s, bool) or not isinstance(s, Integral) or s < 0 for s in chosen):
        raise UserError(f"seeds are whole numbers, not negative: {list(chosen)}")
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence} lies between 0 and 1")
    kept = {
        name: [_positions(name, choice(s) if callable(choice) else choice, n) for s in chosen]
        for name, choice in selections.items()
    }
    for name, positions in kept.items():
        if len({len(p) for p in positions}) > 1:
            sizes = [len(p) for p in positions]
            raise UserError(f"the selection {name!r} keeps as many examples for every seed, not {sizes}")
    each = 1 - (1 - confidence) / len(kept)
    found = {}
    with trainings(train, record, tag) as runs:
        for name, positions in kept.items():
            results = [runs.result(p, s) for p, s in zip(positions, chosen, strict=True)]
            partners = [random(n, len(p), seed=s + BASELINE) for p, s in zip(positions, chosen, strict=True)]
            baseline = [runs.result(p, s) for p, s in zip(partners, chosen, strict=True)]
            interval = paired_interval(results, baseline, each)
            found[name] = Comparison(
                name, len(positions[0]), tuple(results), tuple(baseline), interval, _detectable(interval),
                higher_is_better,
            )  # fmt: skip
        everything = tuple(runs.result(np.arange(n), s) for s in chosen) if full else ()
    return Retraining(found, everything, confidence)


def _detectable(interval: Interval) -> float:
    """(t_{1 - alpha/2} + t_{power}) standard errors of the mean difference."""
    assert interval.sd is not None
    tails = student_quantile(0.5 + interval.confidence / 2, interval.n - 1)
    return (tails + student_quantile(POWER, interval.n - 1)) * interval.sd / math.sqrt(interval.n)


def _positions(name: str, positions: Any, n: int) -> Ints:
    found = np.sort(integers(positions, f"the selection {name}", masks=False))
    if not len(found) or found[0] < 0 or found[-1] >= n or (np.diff(found) == 0).any():
        raise UserError(f"the selection {name!r} holds different positions of {n} examples, at least one")
    return found
