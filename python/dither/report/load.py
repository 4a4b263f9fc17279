"""Read a run directory, finished or not. What its files hold: dither.train.rundir and .records."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.train import records
from dither.train.rundir import CONFIG, RUN, read_summary

Row = Mapping[str, Any]


def label(row: Row) -> str:
    """The way of evaluation: `full precision`, `own recipe`, `int4_g32 nearest`, `int4_g32 randomized`."""
    if row["view"] != "cast":
        return {"full": "full precision", "recipe": "own recipe"}[row["view"]]
    return f"{row['cast']} {'nearest' if row['rounding'] == 'nearest_even' else 'randomized'}"


@dataclass(frozen=True)
class Run:
    """One run: its configuration, what it stood on (run.json), its rows, and the summary once it is done."""

    path: Path
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    rows: tuple[Row, ...]
    summary: Mapping[str, Any] | None

    @property
    def train_rows(self) -> list[Row]:
        return [row for row in self.rows if row["kind"] == "train"]

    @property
    def last_step(self) -> int:
        return max((row["step"] for row in self.train_rows), default=0)

    @property
    def final(self) -> list[Row]:
        """The evaluations of the end; while the run is not done, the newest there are."""
        if self.summary is not None:
            return list(self.summary["final"])
        rows = [row for row in self.rows if row["kind"] == "eval"]
        newest = max((row["step"] for row in rows), default=0)
        return [row for row in rows if row["step"] == newest]

    def train_loss(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and losses (nats per token; NaN where the row has none)."""
        return _columns(self.train_rows)

    def validation_loss(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """For each way of evaluation its steps and losses."""
        rows = [row for row in self.rows if row["kind"] == "eval"]
        names = dict.fromkeys(label(row) for row in rows)
        return {name: _columns(row for row in rows if label(row) == name) for name in names}

    def step_seconds(self) -> float:
        """Median time of a step, in seconds; the first tenth (caches, compilers) does not count."""
        times = [row["step_seconds"] for row in self.train_rows if row.get("step_seconds") is not None]
        return median(times[len(times) // 10 :]) if times else float("nan")

    def tokens_per_second(self) -> float:
        train, model = self.config["train"], self.config["model"]
        return train["batch"] * model["context"] / self.step_seconds()

    def peak_mib(self) -> float:
        return max(
            (row["rss_mib"] for row in self.rows if row.get("rss_mib") is not None), default=float("nan")
        )


def _columns(rows: Iterable[Row]) -> tuple[np.ndarray, np.ndarray]:
    found = [(row["step"], row.get("loss")) for row in rows]
    steps = np.array([step for step, _ in found], dtype=np.int64)
    return steps, np.array([np.nan if loss is None else loss for _, loss in found], dtype=np.float64)


def is_run(directory: Path) -> bool:
    return (directory / CONFIG).is_file() and (directory / records.JSONL).is_file()


def load_run(directory: Path) -> Run:
    """Read a run directory. Raises UserError when it is none or has not begun."""
    if not is_run(directory):
        raise UserError(f"{directory} is no run directory: it has no {CONFIG} with {records.JSONL} beside it")
    config = tomllib.loads((directory / CONFIG).read_text(encoding="utf-8"))
    try:
        info = json.loads((directory / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} has not begun to train (no {RUN}); resume it first") from None
    return Run(directory, config, info, tuple(records.read(directory)), read_summary(directory))
