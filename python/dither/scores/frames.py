"""Tables of scores as Arrow tables, pandas and polars frames: a row for every run and example.

What is no column (data, provenance, the dynamics scores that a run tracked) stands as JSON in the metadata of
the Arrow schema, which Parquet keeps and frames of pandas and polars lose; the scores are then told from the
columns. A score that a run has and that is NaN for all its examples is told from one that it has not by NaN
and null in Arrow and polars; pandas knows one of them, so its frames say in `attrs` which columns a run has.
A run without examples has no row, and is in none of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.errors import UserError, require
from dither.scores.dynamics import derivable
from dither.scores.runs import LABEL, MEMBER

VERSION = 1
METADATA = b"dither.scores"
ATTRIBUTE = "dither.scores.columns"


def to_arrow(runs: Mapping[str, Any], data: str | None) -> Any:
    """runs: RunScores by name."""
    pa = require("pyarrow", "scores")
    kinds = {c: pa.array(v[:0]).type for run in runs.values() for c, v in run.columns.items()}
    parts = []
    for name, run in runs.items():
        n = len(run.ids)
        columns = {"run": pa.array([name] * n, pa.string()), "id": pa.array(run.ids)}
        for c, kind in kinds.items():
            columns[c] = pa.array(run.columns[c]) if c in run.columns else pa.nulls(n, kind)
        parts.append(pa.table(columns))
    empty = pa.table({"run": pa.array([], pa.string()), "id": pa.array([], pa.int64())})
    table = pa.concat_tables(parts, promote_options="permissive") if parts else empty
    about = {
        "version": VERSION,
        "data": data,
        "runs": {
            name: {"scores": list(r.scores), "columns": list(r.columns), "provenance": dict(r.provenance)}
            for name, r in runs.items()
        },
    }
    return table.replace_schema_metadata({METADATA: json.dumps(about, sort_keys=True).encode()})


def to_pandas(runs: Mapping[str, Any], data: str | None) -> Any:
    """The same as a pandas frame."""
    require("pandas", "scores")
    frame = to_arrow(runs, data).to_pandas()
    frame.attrs[ATTRIBUTE] = {name: list(run.columns) for name, run in runs.items()}
    return frame


def from_frame(frame: Any) -> tuple[dict[str, dict[str, Any]], str | None]:
    """The arguments of `ScoreTable.of_run` by run, and what the data are."""
    pa = require("pyarrow", "scores")
    table = _arrow(frame, pa)
    if "id" not in table.column_names:
        raise UserError(f"a table of scores has a column 'id'; this one has {', '.join(table.column_names)}")
    about = _about(table.schema.metadata)
    if "run" not in table.column_names:
        table = table.append_column("run", pa.array(["run"] * len(table), pa.string()))
    attributes = getattr(frame, "attrs", {}).get(ATTRIBUTE, {})
    names = np.asarray(table.column("run").to_pylist(), dtype=object)
    if any(name is None for name in names):
        raise UserError("the column 'run' has empty cells")
    present = [c for c in table.column_names if c not in ("run", "id")]
    nowhere = {c for c in present if pa.types.is_floating(table.column(c).type)} - _filled(table)
    named = {column for run in about.get("runs", {}).values() for column in run["columns"]}
    added = set(present) - named if named else set()
    parts = {}
    for name in sorted(set(names.tolist())):
        rows = table.filter(pa.array(names == name))
        said = about.get("runs", {}).get(name)
        if said is None:
            # A column that is empty for the whole run belongs to other runs, but where the frame says that it
            # is the run's, or no run has a value of it.
            kept = _filled(rows) | set(attributes.get(name, nowhere))
            wanted = [c for c in present if c in kept]
            said = {"columns": wanted, "scores": derivable(wanted)}
        elif mine := added & _filled(rows):  # to an Arrow table after it was written
            said = {**said, "columns": [*said["columns"], *(c for c in present if c in mine)]}
        if missing := sorted(set(said["columns"]) - set(present)):
            raise UserError(f"run {name!r} lacks the columns {', '.join(missing)}")
        parts[name] = {
            "columns": {c: _values(c, rows.column(c)) for c in said["columns"]},
            "ids": np.asarray(rows.column("id").to_pylist()),
            "scores": said.get("scores", ()),
            "provenance": said.get("provenance"),
        }
    return parts, about.get("data")


def _filled(table: Any) -> set[str]:
    """Columns that are not empty in every row."""
    return {c for c in table.column_names if table.column(c).null_count < len(table)}


def _values(name: str, column: Any) -> np.ndarray:
    """A column as numpy. Counts are integers, also where pandas made them fp64 for the empty cells of other
    runs."""
    values = column.to_numpy(zero_copy_only=False)
    counts = name in ("visits", LABEL, MEMBER) or name.startswith("sum_")
    if counts and values.dtype.kind == "f" and (np.abs(values) < 1 << 53).all() and (values % 1 == 0).all():
        return values.astype(np.int64)
    return values


def _arrow(frame: Any, pa: Any) -> Any:
    if isinstance(frame, pa.RecordBatch):
        return pa.Table.from_batches([frame])
    if isinstance(frame, pa.Table):
        return frame
    if hasattr(frame, "collect"):  # lazy frames of polars
        frame = frame.collect()
    if hasattr(frame, "to_arrow"):  # polars
        return frame.to_arrow()
    if type(frame).__module__.partition(".")[0] == "pandas":
        named = {"run", "id"} & set(frame.index.names)
        return pa.Table.from_pandas(frame.reset_index(list(named)) if named else frame, preserve_index=False)
    if not isinstance(frame, Mapping):
        raise UserError(
            "a table of scores comes from an Arrow, pandas or polars frame, or from columns by name, not "
            f"from {type(frame).__name__}"
        )
    try:
        return pa.table(dict(frame))
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"these columns make no table: {error}") from None


def _about(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    if not metadata or METADATA not in metadata:
        return {}
    try:
        about = json.loads(metadata[METADATA])
        if about["version"] > VERSION:
            raise UserError(f"the table was written by a later version of dither (format {about['version']})")
        return about
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the table's metadata are damaged: {error}") from error
