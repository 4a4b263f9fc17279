"""Scales of runs: by compute C = 6 N D, or by the law's first variable where it has no N and D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats

GROUP = 0.15
"""Runs whose ln C differs by less than this from their neighbour's belong to one scale."""

WIDEST = 3.0
"""The compute of one scale spans at most this factor, however densely it is filled."""


def size(arrays: Mapping[str, Floats]) -> Floats:
    """What orders the runs."""
    if {"N", "D"} <= set(arrays):
        return arrays["N"] * arrays["D"] * 6
    first = next(iter(arrays.values()))
    least = first[first > 0].min(initial=first.max())
    return np.where(first > 0, first, 0.1 * least)  # of shares: 0 has no logarithm


def called(arrays: Mapping[str, Floats]) -> str:
    """What orders the runs, in a word."""
    first = next(iter(arrays))
    return "compute" if {"N", "D"} <= set(arrays) or first == "C" else first


def scales(arrays: Mapping[str, Floats]) -> Any:
    """The scale of every run, counted from 0, smallest first."""
    c = np.log(size(arrays))
    order = np.argsort(c)
    result = np.empty(len(c), dtype=np.int64)
    scale, first, last = 0, c[order[0]], c[order[0]]
    for i in order:
        if c[i] - last > GROUP or c[i] - first > np.log(WIDEST):
            scale, first = scale + 1, c[i]
        last, result[i] = c[i], scale
    return result


def tied(arrays: Mapping[str, Floats]) -> str:
    """That size and tokens grow together, in words; empty where they do not."""
    if not {"N", "D"} <= set(arrays) or distinct(arrays["N"]) < 2:
        return ""
    ratio = arrays["D"] / arrays["N"]
    return f"D/N is {np.median(ratio):.3g} in all runs" if ratio.max() < 1.05 * ratio.min() else ""


def tails(level: float) -> tuple[float, float]:
    """The percentiles between which a share `level` lies. UserError where it is none."""
    if not 0 < level < 1:
        raise UserError(f"the level of an interval lies between 0 and 1, as .95: not {level:g}")
    return 50 * (1 - level), 50 * (1 + level)


def distinct(values: Floats) -> int:
    """How many values a variable has, up to a percent."""
    return len(np.unique(np.round(np.log(values), 2)))
