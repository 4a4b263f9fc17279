"""Paired differences with Student intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """Mean of n paired differences, their deviation, and the two-sided interval of `confidence` (None for n =
    1)."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    confidence: float = 0.95


def paired_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Interval:
    """The interval of the mean of a_i - b_i. Raises ValueError for empty or unequal lengths."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    n = len(differences)
    if n == 0:
        raise ValueError("a paired interval needs at least one pair")
    mean = math.fsum(differences) / n
    if n == 1:
        return Interval(1, mean, None, None, None, confidence)
    sd = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    half = student_quantile(0.5 + confidence / 2, n - 1) * sd / math.sqrt(n)
    return Interval(n, mean, sd, mean - half, mean + half, confidence)


def student_quantile(p: float, freedom: int) -> float:
    """The p-quantile of Student's t with a whole number of degrees of freedom, by bisection of its
    distribution."""
    if not 0 < p < 1 or freedom < 1:
        raise ValueError(
            f"needs 0 < p < 1 and at least one degree of freedom, not p = {p}, freedom = {freedom}"
        )
    if p < 0.5:
        return -student_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t): the finite sums for whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    theta = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    if freedom % 2:
        term, total = cosine, (cosine if freedom > 1 else 0.0)
        for k in range(3, freedom - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        inside = 2 / math.pi * (theta + sine * total)
    else:
        term = total = 1.0
        for k in range(2, freedom - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        inside = sine * total
    return 0.5 + 0.5 * inside
