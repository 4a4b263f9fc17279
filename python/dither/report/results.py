"""The results of a comparison as tables of text: for the terminal, the page, and a README.

comparison.json (dither.train.compare) has one record for each arm and seed; a table has one row for each arm,
with the mean over the seeds and, from two seeds on, their standard deviation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dither.errors import UserError

RECORD = "comparison.json"
Record = Mapping[str, Any]
Read = Callable[[Record], float | None]


@dataclass(frozen=True)
class Column:
    """A heading (a line break where it may fold), how to read the value from a record, and its decimals."""

    heading: str
    read: Read
    digits: int
    unit: str = ""

    def value(self, records: Sequence[Record]) -> float:
        """The mean over the seeds; NaN when a seed lacks the value."""
        values = [self.read(record) for record in records]
        return mean(v for v in values if v is not None) if None not in values else math.nan

    def text(self, records: Sequence[Record]) -> str:
        value = self.value(records)
        if math.isnan(value):
            return "-"
        text = f"{value:,.{self.digits}f}{self.unit}"
        spread = [v for record in records if (v := self.read(record)) is not None]
        return text if len(spread) < 2 else f"{text} ± {stdev(spread):,.{self.digits}f}"


def load(directory: Path) -> Record:
    """The record of a finished comparison. Raises UserError where there is none."""
    try:
        return json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{directory} holds no finished comparison (no {RECORD}); start `dither compare` with the same "
            "configuration and --out again: it goes on where it stopped"
        ) from None


def arms(comparison: Record) -> dict[str, list[Record]]:
    """The records of each arm, one a seed, in the order of the configuration."""
    found: dict[str, list[Record]] = {}
    for record in comparison["arms"]:
        found.setdefault(record["name"], []).append(record)
    return found


def measure(*path: str) -> Read:
    """Read record[path[0]][path[1]]..., None where one of them is missing."""

    def read(record: Record) -> float | None:
        value: Any = record
        for key in path:
            value = None if value is None else value.get(key)
        return value

    return read


def losses(comparison: Record, key: str = "loss", digits: int = 4) -> list[Column]:
    """The columns of validation losses that any arm has; key "loss" or "bits_per_byte"."""
    records = comparison["arms"]
    columns = [Column("full\nprecision", measure("full", key), digits)]
    if any(record["own_recipe"] for record in records):
        columns.append(Column("own\nrecipe", measure("own_recipe", key), digits))
    for way in ("nearest", "randomized"):
        casts = dict.fromkeys(cast for record in records for cast in record[way])
        columns += [Column(f"{cast}\n{way}", measure(way, cast, key), digits) for cast in casts]
    return columns


SLOW_DOWN = Column("slow-\ndown", measure("slow_down"), 2, "x")
SPEEDS = (
    Column("tokens\nper second", measure("tokens_per_s"), 0),
    SLOW_DOWN,
    Column("peak\nMiB", measure("peak_rss_mib"), 0),
)


def table(comparison: Record, columns: Iterable[Column]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the arm, what it is, and the columns; an arm that diverged says so."""
    columns = list(columns)
    rows = []
    for name, records in arms(comparison).items():
        failed = [record["status"] for record in records if record["status"] != "done"]
        if failed:
            rows.append([name, failed[0], *["-"] * len(columns)])
        else:
            rows.append([name, what(records[0]), *(column.text(records) for column in columns)])
    return ["arm", "what", *(column.heading for column in columns)], rows


def what(record: Record) -> str:
    """What an arm is: its recipe or its method, and whose training it shares."""
    method = "" if record["method"] == "none" else record["method"].split()[0].upper()
    words = method or record["recipe"]
    return f"{words} of {record['same_as']}" if record["same_as"] else words


def view(difference: Record) -> str:
    """Of which loss a difference is: `full precision`, `int4_g32 nearest`, ..."""
    return "full precision" if difference["view"] == "full" else f"{difference['cast']} {difference['view']}"


def differences(comparison: Record) -> tuple[list[str], list[list[str]]]:
    """The paired differences: first minus second, so that a negative number favours the first."""
    headings = ["difference", "of", "mean", "interval", "seeds"]
    rows = []
    for item in comparison["differences"]:
        found = item["interval"]
        bounds = "-"
        if found["low"] is not None:
            bounds = f"{found['low']:+.4f} to {found['high']:+.4f} ({found['confidence']:.0%})"
        rows.append(
            [
                f"{item['first']} - {item['second']}",
                view(item),
                f"{found['mean']:+.4f}",
                bounds,
                str(found["n"]),
            ]
        )
    return headings, rows


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int = 2) -> str:
    """The table as Markdown, the first `words` columns left-aligned."""
    lines = [[heading.replace("-\n", "-").replace("\n", " ") for heading in headings]]
    lines.append(["---" if i < words else "---:" for i in range(len(headings))])
    return "".join(f"| {' | '.join(line)} |\n" for line in [*lines, *rows])
