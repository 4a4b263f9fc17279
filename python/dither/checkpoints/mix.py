"""The mix of formats with the least error under a budget of bytes: a multiple-choice knapsack, solved
exactly.

Every tensor i takes one option j of b_ij bytes and error e_ij; minimise sum e under sum b <= B.

1. The Lagrangian min_j (e_ij + price b_ij) separates over the tensors. Its best price comes from the convex
   hulls of the options; walking down the hulls in the order of their slopes gives a mix that fits and, by
   duality, a lower bound that no mix can beat (Sinha and Zoltners 1979).
2. A dynamic program over the tensors keeps the states (bytes, error) that no other state beats in both,
   without those that cannot fit or whose Lagrangian bound exceeds the mix of step 1. What it ends with is the
   optimum.

Equal shapes have equal sizes, so that few sums of bytes exist and step 2 takes milliseconds for real models.
Should it need more than `MAX_STATES` states, the mix of step 1 is returned with the gap to its lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MAX_STATES = 1_000_000


@dataclass(frozen=True)
class Mix:
    """`picks[i]` is the option of tensor i. `bound` is a lower bound of the error of any mix that fits; it
    equals `error` where `exact`."""

    picks: list[int]
    nbytes: int
    error: float
    bound: float
    exact: bool


def solve(sizes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget: int) -> Mix | None:
    """The best mix, None where even the smallest options do not fit. Sizes are integers, errors at least
    0."""
    smallest = sum(min(row) for row in sizes)
    if smallest > budget:
        return None
    greedy, price = _walk_hulls(sizes, errors, budget)
    bound = max(0.0, _dual(sizes, errors, budget, price))
    picks = _dynamic_program(sizes, errors, budget, price, _error(errors, greedy))
    chosen = greedy if picks is None else picks
    error = _error(errors, chosen)
    nbytes = sum(row[j] for row, j in zip(sizes, chosen, strict=True))
    return Mix(chosen, nbytes, error, bound if picks is None else error, picks is not None)


def _error(errors: Sequence[Sequence[float]], picks: Sequence[int]) -> float:
    return float(sum(row[j] for row, j in zip(errors, picks, strict=True)))


def hull(sizes: Sequence[int], errors: Sequence[float]) -> list[int]:
    """The options on the lower convex hull, from the smallest to the one of least error."""
    order = sorted(range(len(sizes)), key=lambda j: (sizes[j], errors[j]))
    kept: list[int] = []
    for j in order:
        if kept and (errors[j] >= errors[kept[-1]] or sizes[j] == sizes[kept[-1]]):
            continue
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            left = (errors[a] - errors[b]) * (sizes[j] - sizes[b])
            right = (errors[b] - errors[j]) * (sizes[b] - sizes[a])
            if left > right:  # b lies below the line from a to j
                break
            kept.pop()
        kept.append(j)
    return kept


def _walk_hulls(
    sizes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget: int
) -> tuple[list[int], float]:
    """The mix that the steepest steps of the hulls reach within the budget, and the price of the first step
    that does not fit: the multiplier at which the dual is largest."""
    steps, picks = [], []
    for i, (b, e) in enumerate(zip(sizes, errors, strict=True)):
        corners = hull(b, e)
        picks.append(corners[0])
        for a, c in pairwise(corners):
            steps.append(((e[a] - e[c]) / (b[c] - b[a]), i, c, b[c] - b[a]))
    left, price, stopped = budget - sum(b[j] for b, j in zip(sizes, picks, strict=True)), 0.0, set()
    for slope, i, c, more in sorted(steps, key=lambda step: -step[0]):
        if i in stopped:
            continue
        if more <= left:
            picks[i], left = c, left - more
        else:
            price = max(price, slope)
            stopped.add(i)  # the later steps of this tensor start from the one that did not fit
    return picks, price


def _dual(
    sizes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget: int, price: float
) -> float:
    best = (
        min(e + price * b for b, e in zip(bs, es, strict=True)) for bs, es in zip(sizes, errors, strict=True)
    )
    return float(sum(best) - price * budget)


def _dynamic_program(
    sizes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget: int, price: float, limit: float
) -> list[int] | None:
    """The picks of the optimum, None where there are too many states."""
    n = len(sizes)
    room, rest = np.zeros(n + 1, np.int64), np.zeros(n + 1)  # what the tensors after i need at least
    for i in reversed(range(n)):
        room[i] = room[i + 1] + min(sizes[i])
        rest[i] = rest[i + 1] + min(e + price * b for b, e in zip(sizes[i], errors[i], strict=True))
    slack = 1e-9 * max(limit, 1e-300)  # the sums are rounded: never drop the optimum for its last digits
    used, error = np.zeros(1, np.int64), np.zeros(1)
    history: list[tuple[np.ndarray, np.ndarray]] = []
    for i in range(n):
        options = len(sizes[i])
        all_used = (used[:, None] + np.asarray(sizes[i], np.int64)).reshape(-1)
        all_error = (error[:, None] + np.asarray(errors[i], float)).reshape(-1)
        fits = all_used + room[i + 1] <= budget
        fits &= all_error + price * all_used + rest[i + 1] - price * budget <= limit + slack
        index = np.flatnonzero(fits)
        index = index[np.lexsort((all_error[index], all_used[index]))]
        before = np.minimum.accumulate(np.concatenate([[np.inf], all_error[index][:-1]]))
        index = index[all_error[index] < before]
        if index.size > MAX_STATES:
            return None
        used, error = all_used[index], all_error[index]
        history.append((index // options, index % options))
    at, picks = int(np.argmin(error)), []
    for parent, option in reversed(history):
        picks.append(int(option[at]))
        at = int(parent[at])
    return picks[::-1]
