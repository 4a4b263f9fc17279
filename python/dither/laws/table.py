"""Columns of a user's table: a mapping, a pandas / polars / Arrow frame, or a CSV, JSONL or Parquet file."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError, require, suggest
from dither.laws.engine import Floats


def read(path: str | Path) -> dict[str, list[Any]]:
    """The columns of a .csv, .jsonl or .parquet file. UserError where it cannot be read and where it has no
    rows."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: a table is a .csv, .jsonl or .parquet file")
    try:
        return reader(path)
    except UserError:
        raise
    except (ValueError, csv.Error) as error:  # pyarrow's are ValueErrors
        raise UserError(f"{path}: {error}") from error


def _parquet(path: Path) -> dict[str, list[Any]]:
    table = require("pyarrow.parquet", "laws").read_table(path)
    _refuse_empty(path, len(table), table.column_names)
    return table.to_pydict()


def _csv(path: Path) -> dict[str, list[Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        header, rows = list(reader.fieldnames or ()), []
        for row in reader:
            if None in row:
                cells = len(header) + len(row[None])
                raise UserError(
                    f"{path}, line {reader.line_num}: {cells} cells, but the header has {len(header)}"
                )
            rows.append(row)
    _refuse_empty(path, len(rows), header)
    if len(header) == 1 and (mark := next((m for m in ";\t|" if m in header[0]), None)):
        name = "a tab" if mark == "\t" else repr(mark)
        raise UserError(
            f"{path}: the header is separated by {name}; the columns of a .csv are separated by commas"
        )
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise UserError(f"{path}: the header names {', '.join(twice)} more than once: which one counts?")
    return {name: [row[name] for row in rows] for name in header}


def _jsonl(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig") as file:
        rows = [_object(path, at, line) for at, line in enumerate(file, start=1) if line.strip()]
    _refuse_empty(path, len(rows), ())
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _object(path: Path, at: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}, line {at}: {error}") from error
    if not isinstance(row, dict):
        raise UserError(
            f"{path}, line {at}: a row is an object with the names of its columns, not {line[:40]!r}"
        )
    return row


READERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}


def _refuse_empty(path: Path, rows: int, header: Sequence[str]) -> None:
    if rows == 0:
        has = f"has a header ({', '.join(header)}) and no rows" if header else "is empty"
        raise UserError(f"{path} {has}")


def listed(rows: Any) -> str:
    """Rows counted from 1; of many, the first five."""
    return ", ".join(str(i + 1) for i in list(rows[:5])) + ("" if len(rows) <= 5 else ", ...")


def columns(data: Any) -> list[str]:
    """The names of a frame's columns."""
    if isinstance(data, Mapping):
        return [str(name) for name in data]
    names = getattr(data, "column_names", None)  # Arrow
    return [str(name) for name in (names if names is not None else getattr(data, "columns", []))]


def column(data: Any, name: str) -> Floats:
    """One column as fp64; empty cells are NaN. UserError where it is missing or not a number."""
    known = columns(data)
    if name not in known:
        raise UserError(
            f"the table has no column {name!r}{suggest(name, known)}; it has {', '.join(known) or 'none'}"
        )
    values = data[name]
    values = values.to_numpy() if hasattr(values, "to_numpy") else values
    cells = (
        [np.nan if v is None or v == "" else v for v in values]
        if isinstance(values, (list, tuple))
        else values
    )
    try:
        found = np.asarray(cells)
        found = found.astype(np.float64, casting="same_kind" if found.dtype.kind == "c" else "unsafe")
    except (TypeError, ValueError) as error:
        raise UserError(f"column {name!r} is not a column of numbers: {error}") from error
    if found.ndim != 1:
        raise UserError(f"column {name!r} is no column: it has the shape {found.shape}")
    return found


def select(data: Any, names: Mapping[str, str]) -> dict[str, Floats]:
    """Columns by the names a law gives them: `names` is law's name -> table's name. `data` may be a path."""
    frame = read(data) if isinstance(data, (str, Path)) else data
    taken = {ours: column(frame, theirs) for ours, theirs in names.items()}
    lengths = {theirs: len(taken[ours]) for ours, theirs in names.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"columns of different lengths: {lengths}")
    return taken
