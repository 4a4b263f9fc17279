"""Which examples to keep, given any score: the policies of the literature, seeded and documented.

Every function takes scores of (n,), where HIGH IS HARD unless `Score.direction` says otherwise (negate the
easy ones), and returns ascending positions of the examples to keep. Equal scores stand in an order that is
drawn once for every number of examples, not by position: where data are sorted by class, the many examples
that were never forgotten would otherwise be chosen by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats, Ints, floats, integers, reals

TIES = 0
"""The seed of the order of equal scores."""


def _scores(scores: Any) -> Floats:
    s = floats(scores, "scores")
    if np.isnan(s).any():
        raise UserError(
            f"{int(np.isnan(s).sum())} scores are NaN (examples never visited?); choose among the others, "
            f"or give them a value"
        )
    return s


def _finite(scores: Any, use: str) -> Floats:
    """Scores whose range something is made of: the extremes of fp64 have none either."""
    s = _scores(scores)
    if len(s) and not np.abs(s).max() < 1e150:
        raise UserError(
            f"{int((~(np.abs(s) < 1e150)).sum())} scores are infinite or beyond 1e150, and {use}; "
            "rank them (dither.scores.rank, --reduce rank), or choose by order (top, bottom, band, window)"
        )
    return s


def _count(n: int, keep: float | int) -> int:
    """`keep` as a number of examples: a share below 1 (or 1.0), or a count."""
    share, whole = isinstance(keep, Real) and not isinstance(keep, Integral), isinstance(keep, Integral)
    fits = 0 <= keep <= 1 if share else whole and not isinstance(keep, bool) and 0 <= keep <= n
    if not fits:
        raise UserError(f"keep={keep!r} is a share from 0.0 to 1.0 or a count up to {n}")
    return round(float(keep) * n) if share else int(keep)


def _generator(seed: int) -> np.random.Generator:
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise UserError(f"seed={seed!r} is a whole number, not negative")
    return np.random.Generator(np.random.Philox(int(seed)))


def _order(s: Floats) -> Ints:
    """Positions, easiest first; equal scores in an order drawn once for all."""
    drawn = _generator(TIES).permutation(len(s))
    return drawn[np.argsort(s[drawn], kind="stable")]


def _without_hardest(s: Floats, k: int, drop_hardest: float) -> Ints:
    """Positions, easiest first, without that share of the hardest, at least k. UserError where fewer would be
    cut off than asked."""
    n = len(s)
    if not 0 <= drop_hardest < 1:
        raise UserError(f"drop_hardest={drop_hardest} is a share below 1")
    cut = min(round(drop_hardest * n), n - k)
    if drop_hardest * n - cut >= 1:  # what rounding does is no contradiction
        raise UserError(
            f"keeping {k:,} of {n:,} examples leaves {n - k:,} to cut off, and drop_hardest={drop_hardest} "
            f"asks for {round(drop_hardest * n):,}: keep or drop fewer"
        )
    return _order(s)[: n - cut]


def top(scores: Any, keep: float | int) -> Ints:
    """The hardest."""
    s = _scores(scores)
    return np.sort(_order(s)[len(s) - _count(len(s), keep) :])


def bottom(scores: Any, keep: float | int) -> Ints:
    """The easiest."""
    s = _scores(scores)
    return np.sort(_order(s)[: _count(len(s), keep)])


def band(scores: Any, low: float, high: float) -> Ints:
    """Those between two quantiles: band(s, .2, .6) leaves out the easiest 20 % and the hardest 40 %."""
    s = _scores(scores)
    if not 0 <= low <= high <= 1:
        raise UserError(f"a band lies between quantiles 0 <= low <= high <= 1, not {low} and {high}")
    n = len(s)
    return np.sort(_order(s)[round(low * n) : round(high * n)])


def window(scores: Any, keep: float | int, drop_hardest: float = 0.01) -> Ints:
    """The hardest after the very hardest are dropped (data-diet: about 1 %, more under label noise)."""
    s = _scores(scores)
    k = _count(len(s), keep)
    pool = _without_hardest(s, k, drop_hardest)
    return np.sort(pool[len(pool) - k :])


def with_class_floor(scores: Any, labels: Any, keep: float | int, floor: float = 0.5) -> Ints:
    """The hardest, but of every class at least `floor` of its proportional share (2206.14486 keeps 50 %).

    Shares are rounded up. Where that makes more than `keep` (many small classes), those with the smallest
    rest are rounded down.
    """
    s = _scores(scores)
    y = integers(labels, "labels", len(s))
    if not 0 <= floor <= 1:
        raise UserError(f"floor={floor} is a share from 0 to 1")
    k, n = _count(len(s), keep), len(s)
    if k == 0:
        return np.empty(0, np.int64)
    kept = np.zeros(n, bool)
    hardest = _order(s)[::-1]
    classes, counts = np.unique(y, return_counts=True)
    due = floor * k * counts / n
    least = np.floor(due + 1e-9).astype(np.int64)  # .58 of 50 is 29 but for rounding
    rest = due - least
    up = np.argsort(-rest, kind="stable")[: k - int(least.sum())]
    least[up] += rest[up] > 1e-9
    for label, count in zip(classes, least, strict=True):
        kept[hardest[y[hardest] == label][:count]] = True
    rest = hardest[~kept[hardest]]
    kept[rest[: k - int(kept.sum())]] = True
    return np.flatnonzero(kept)


def gumbel_top_k(log_weights: Any, keep: float | int, seed: int = 0) -> Ints:
    """Weighted sampling without replacement: log weights plus Gumbel noise, the greatest k (Vieira 2014).

    -infinity is never drawn; UserError where fewer than k are left, and for infinity.
    """
    w = _scores(log_weights)
    k = _count(len(w), keep)
    if (w == np.inf).any():
        raise UserError("a weight is beyond all others: infinite")
    if k > int((w > -np.inf).sum()):
        raise UserError(
            f"{k} examples are to be kept, but only {int((w > -np.inf).sum())} have a weight above 0"
        )
    noisy = w + _generator(seed).gumbel(size=len(w))
    return np.sort(_order(noisy)[len(w) - k :])


def sample_softmax(scores: Any, keep: float | int, temperature: float = 1.0, seed: int = 0) -> Ints:
    """Without replacement, weights exp(z / temperature) of the standardised scores z (too aggressive on noisy
    data, 2311.16298)."""
    s = _finite(scores, "they have no weights")
    if not temperature >= 1e-100:
        raise UserError(f"temperature={temperature} is above 0 (1e-100 at least)")
    spread = s.std() if len(s) else 0.0
    z = (s - s.mean()) / spread if spread > 0 else np.zeros_like(s)
    return gumbel_top_k(z / temperature, keep, seed)


def sample_linear(scores: Any, keep: float | int, eps: float = 0.01, seed: int = 0) -> Ints:
    """Without replacement, weights linear in the score from `eps` (easiest) to 1 (hardest), as 2311.16298."""
    s = _finite(scores, "they have no weights")
    if not 0 < eps <= 1:
        raise UserError(f"eps={eps} lies above 0 and at most at 1")
    spread = s.max() - s.min() if len(s) else 0.0
    unit = (s - s.min()) / spread if spread > 0 else np.zeros_like(s)
    return gumbel_top_k(np.log(eps + (1 - eps) * unit), keep, seed)


def random(n: int, keep: float | int, seed: int = 0) -> Ints:
    """The baseline that every policy must beat."""
    if n < 0:
        raise UserError(f"n={n} examples")
    return gumbel_top_k(np.zeros(n), keep, seed)


def coverage(
    scores: Any, keep: float | int, drop_hardest: float = 0.1, strata: int = 50, seed: int = 0
) -> Ints:
    """Coverage-centric selection (Zheng et al., 2210.15809): the hardest share is cut, then every stratum of
    the score's range gets an equal budget, small strata first; what they do not use goes to the others."""
    s = _finite(scores, "their range has no strata")
    k = _count(len(s), keep)
    if strata < 1:
        raise UserError(f"strata={strata} is at least 1")
    pool = _without_hardest(s, k, drop_hardest)
    if k == 0:
        return np.empty(0, np.int64)
    edges = np.linspace(s[pool[0]], s[pool[-1]], strata + 1)[1:-1]
    stratum = np.searchsorted(edges, s[pool], side="right")
    groups = sorted((pool[stratum == j] for j in np.unique(stratum)), key=len)
    generator = _generator(seed)
    kept: list[np.ndarray] = []
    left = k
    for i, group in enumerate(groups):
        share = min(len(group), left // (len(groups) - i))
        kept.append(generator.permutation(group)[:share])
        left -= share
    return np.sort(np.concatenate(kept))


def budget_aware(
    scores: Any, keep: float | int, examples_per_parameter: float, threshold: float = 1.0
) -> Ints:
    """Keep hard examples where data are plentiful and easy ones where they are scarce (2206.14486).

    examples_per_parameter: kept examples over model parameters (or any measure of plenty), against
    `threshold`, where the theory's two regimes meet for your data: find it with a retrain comparison.
    """
    if not examples_per_parameter > 0:
        raise UserError(f"examples_per_parameter={examples_per_parameter} is a number above 0")
    return top(scores, keep) if examples_per_parameter >= threshold else bottom(scores, keep)


def repetition_value(utility: float, half_life: float, epochs: int) -> Floats:
    """Utility of a pool in each epoch, b (1/2)^((k - 1) / tau) for k = 1..epochs (2404.07177): what a repeat
    is still worth. UserError for a half-life that is not positive."""
    if not half_life > 0 or epochs < 0:
        raise UserError(f"half_life={half_life} is above 0 and epochs={epochs} not negative")
    return utility * 0.5 ** (np.arange(epochs) / half_life)


def repetition_aware(
    scores: Any, seen: int, utilities: Sequence[float], half_life: float, scale: float = 1e5
) -> Ints:
    """Keep as many of the best strata as pay for a training that sees `seen` examples (2404.07177).

    The scores are cut into as many equal strata as there are utilities, easiest first (negate the scores
    where the hardest are the best). Few strata are repeated often and wear out, many are worse on
    average: of the first 1, 2, ... strata those are kept whose law predicts the least error,

        log error = b_1 log(n_1) + sum_k b_k log(n_k / n_{k-1}),  b_k = mean(b) (1/2)^((k-1) / (m tau)),

    n_k examples seen after epoch k in units of `scale` (1 over the paper's a), m strata, mean over theirs.
    utilities: b < 0 of every stratum, as fitted on your data; half_life: tau in epochs of one stratum.
    UserError for other values, and where a first epoch has fewer than `scale` examples: the laws of all
    strata meet there, and below it a better one predicts more error.
    """
    s, b = _scores(scores), reals(utilities, "utilities")
    if not len(s):
        return np.empty(0, np.int64)
    if b.ndim != 1 or not 1 <= len(b) <= len(s) or not (b < 0).all():
        raise UserError(
            f"utilities= are numbers below 0, one a stratum and at most {len(s)}, not {utilities}"
        )
    if isinstance(seen, bool) or seen < 1 or not half_life > 0 or not scale > 0:
        raise UserError(f"seen={seen}, half_life={half_life} and scale={scale} are above 0")
    order, strata = _order(s), len(b)
    sizes = [round(m * len(s) / strata) for m in range(1, strata + 1)]
    if (least := min(sizes[0], seen)) < scale:
        raise UserError(
            f"a first epoch of {least:,} examples is less than scale={scale:g}, the unit in which the law "
            "counts them, and below one unit better strata predict more error; give the scale= of your fit, "
            f"at most {least:,}"
        )
    errors = [
        _log_error(float(b[:m].mean()), half_life * m, size, seen, scale) for m, size in enumerate(sizes, 1)
    ]
    return np.sort(order[: sizes[int(np.argmin(errors))]])


def _log_error(utility: float, half_life: float, size: int, seen: int, scale: float) -> float:
    """The filtering law for a pool of `size` examples of which `seen` are seen, the last epoch cut short."""
    after = np.minimum(size * np.arange(1, -(-seen // size) + 1), seen) / scale
    worth = repetition_value(utility, half_life, len(after))
    return float(worth[0] * np.log(after[0]) + (worth[1:] * np.diff(np.log(after))).sum())


POLICIES = {
    "top": top,
    "bottom": bottom,
    "band": band,
    "window": window,
    "class_floor": with_class_floor,
    "softmax": sample_softmax,
    "linear": sample_linear,
    "coverage": coverage,
    "budget": budget_aware,
    "repetition": repetition_aware,
    "random": random,
}
"""Every policy by the name `dither select --policy` knows; its parameters are the options it takes."""
