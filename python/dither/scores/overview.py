"""What a table knows at a glance: one row a score, with the reliability of its ranking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dither.errors import UserError
from dither.scores.catalogue import SCORES
from dither.scores.engine import Floats
from dither.scores.reliability import Reliability, reliability
from dither.scores.table import ScoreTable


@dataclass(frozen=True)
class Row:
    """direction: "hard", "easy", "neither", or "?" for a score the catalogue does not know. left_out:
    examples without a value in some run. low, median, high: of the mean over the runs. reliability: None, and
    `why` says so, for one run or a score that is the same for all examples."""

    score: str
    direction: str
    examples: int
    left_out: int
    low: float
    median: float
    high: float
    reliability: Reliability | None
    why: str = ""


def direction(score: str) -> str:
    """What a high value says of an example; "?" where the catalogue does not know the score."""
    if score == "perplexity":
        return "hard"
    return SCORES[score].direction if score in SCORES else "?"


def finite(table: ScoreTable, score: str, dialect: str | None = None) -> tuple[Floats, np.ndarray]:
    """(runs, kept) values of the examples that every run has a value of, and their positions in `ids`.

    Infinity (an example never learned, in the dialect that says so) is a value; NaN is none."""
    values = table.values(score, dialect)
    kept = np.flatnonzero(~np.isnan(values).any(axis=0))
    return values[:, kept], kept


def overview(table: ScoreTable, target: float = 0.95) -> list[Row]:
    """A row for every score that all runs have."""
    return [_row(table, score, target) for score in table.scores]


def _row(table: ScoreTable, score: str, target: float) -> Row:
    values, kept = finite(table, score)
    left_out = len(table.ids) - len(kept)
    if not len(kept):
        return Row(score, direction(score), 0, left_out, np.nan, np.nan, np.nan, None, "no values")
    low, median, high = (float(v) for v in np.quantile(values.mean(axis=0), (0, 0.5, 1)))
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
    return Row(score, direction(score), len(kept), left_out, low, median, high, measured, why)
