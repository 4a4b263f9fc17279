"""Columns of a user's table: a mapping, a pandas / polars / Arrow frame, or a CSV, JSONL or Parquet file."""

from __future__ import annotations

import csv
import json
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
    kind = path.suffix.lower()
    if kind == ".parquet":
        table = require("pyarrow.parquet", "laws").read_table(path)
        _refuse_empty(path, len(table), table.column_names)
        return table.to_pydict()
    if kind not in (".csv", ".jsonl"):
        raise UserError(f"{path}: a table is a .csv, .jsonl or .parquet file")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if kind == ".csv":
                reader = csv.DictReader(file)
                records, header = list(reader), reader.fieldnames or ()
            else:
                records, header = [json.loads(line) for line in file if line.strip()], ()
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: {error}") from error
    _refuse_empty(path, len(records), header)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _refuse_empty(path: Path, rows: int, header: Sequence[str]) -> None:
    if rows == 0:
        has = f"has a header ({', '.join(header)}) and no rows" if header else "is empty"
        raise UserError(f"{path} {has}")


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
        return np.asarray(cells, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"column {name!r} is not a column of numbers: {error}") from error


def select(data: Any, names: Mapping[str, str]) -> dict[str, Floats]:
    """Columns by the names a law gives them: `names` is law's name -> table's name. `data` may be a path."""
    frame = read(data) if isinstance(data, (str, Path)) else data
    taken = {ours: column(frame, theirs) for ours, theirs in names.items()}
    lengths = {theirs: len(taken[ours]) for ours, theirs in names.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"columns of different lengths: {lengths}")
    return taken
