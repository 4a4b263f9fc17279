"""What a table knows at a glance: one row a score, with the reliability of its ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats
from dither.scores.catalogue import SCORES
from dither.scores.reliability import Reliability, reliability
from dither.scores.table import ScoreTable


@dataclass(frozen=True)
class Row:
    """direction: "hard", "easy", "neither", or "?" for a score the catalogue does not know. runs: those that
    have it. left_out: examples without a value in some of them. low, median, high: of the mean over the runs.
    reliability: None, and `why` says so, for one run or a score that is the same for all examples."""

    score: str
    direction: str
    runs: int
    examples: int
    left_out: int
    low: float
    median: float
    high: float
    reliability: Reliability | None
    why: str = ""


def direction(score: str, dialect: str | None = None) -> str:
    """What a high value says of an example; "?" where the catalogue does not know the score."""
    return SCORES[score].direction_in(dialect) if score in SCORES else "?"


def scored(table: ScoreTable, score: str) -> tuple[tuple[str, ...], np.ndarray, Floats]:
    """Runs that have the score, ids of the examples that all of those have a value of, and values (runs, n).

    Infinity (an example never learned, in the dialect that says so) is a value; NaN is none."""
    table = table.having(score)
    ids = table.ids_of_any
    values = table.values(score, ids=ids)
    known = ~np.isnan(values).any(axis=0)
    return tuple(table.runs), ids[known], values[:, known]


def _extremes(values: Floats) -> tuple[float, float, float]:
    """Least, median and greatest of the means over the runs, which may be infinite; NaN for a mean of both
    infinities."""
    with np.errstate(invalid="ignore"):
        means = np.sort(values.mean(axis=0))
    lower, upper = float(means[(len(means) - 1) // 2]), float(means[len(means) // 2])
    median = lower if lower == upper else (lower + upper) / 2
    return float(means[0]), median, float(means[-1])


def overview(table: ScoreTable, target: float = 0.95) -> list[Row]:
    """A row for every score that some run has, of those runs."""
    return [_row(table, score, target) for score in table.scores_of_any]


def _row(table: ScoreTable, score: str, target: float) -> Row:
    runs, ids, values = scored(table, score)
    left_out = len(table.having(score).ids_of_any) - len(ids)
    if not len(ids):
        return Row(score, direction(score), len(runs), 0, left_out, np.nan, np.nan, np.nan, None, "no values")
    low, median, high = _extremes(values)
    measured, why = None, ""
    if len(values) < 2:
        why = "one run"
    elif (values.min(axis=1) == values.max(axis=1)).any():
        why = "the same for all examples of a run"
    else:
        try:
            measured = reliability(values, target=target)
        except UserError as error:
            why = str(error)
    return Row(score, direction(score), len(runs), len(ids), left_out, low, median, high, measured, why)
