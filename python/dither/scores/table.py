"""ScoreTable: what runs know of examples. Mergeable in any order with the same result, kept as Parquet.

A table holds, for every run, the ids of the examples it saw and columns: sufficient statistics (from which
`dither.scores.dynamics` derives scores) and scores as they were computed. Runs are never summed: they are
kept apart and reduced in the order of their names, so that merging is exact, associative and commutative.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError, require, suggest
from dither.files import make_folder, replacing
from dither.scores import frames
from dither.scores.borrowed import Floats, Ints, to_numpy
from dither.scores.ranks import rank
from dither.scores.runs import (
    RunScores,
    check_same_data,
    checked_column,
    checked_ids,
    checked_provenance,
    join,
    labels_of,
    pick,
    read,
)


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Runs by name, in ascending order. Make one with `Tracker.table` or `of_run`, read one with `load`."""

    runs: Mapping[str, RunScores]
    data: str | None = None
    """What the examples are (a name, a hash): tables of different data do not merge."""

    @classmethod
    def of_run(
        cls,
        run: str,
        columns: Mapping[str, Any],
        *,
        ids: Any = None,
        scores: Iterable[str] = (),
        provenance: Mapping[str, Any] | None = None,
        data: str | None = None,
    ) -> ScoreTable:
        """The table of one run: columns of (n,) numbers, ids (n,) of integers or strings, default 0..n-1.

        scores: names of the dynamics scores that the columns are statistics of. UserError for columns of
        different lengths and for ids that are not unique.
        """
        if isinstance(run, bool) or not isinstance(run, (str, Integral)) or run == "":
            raise UserError(f"a run has a name, not {run!r}")
        arrays = {str(name): to_numpy(values, f"the column {name!r}") for name, values in columns.items()}
        if taken := arrays.keys() & {"run", "id"}:
            raise UserError(f"a table has columns 'run' and 'id' of its own: name {min(taken)!r} otherwise")
        lengths = {name: values.shape for name, values in arrays.items()}
        if not arrays or any(len(s) != 1 for s in lengths.values()) or len(set(lengths.values())) > 1:
            raise UserError(f"columns have one axis and one length, not {lengths}")
        n = len(next(iter(arrays.values())))
        keys = np.arange(n, dtype=np.int64) if ids is None else checked_ids(ids, n)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        if n and (keys[1:] == keys[:-1]).any():
            raise UserError(f"the id {keys[1:][keys[1:] == keys[:-1]].tolist()[0]!r} occurs twice")
        kept = {name: checked_column(name, values)[order] for name, values in arrays.items()}
        named = (scores,) if isinstance(scores, str) else tuple(scores)
        return cls({str(run): RunScores(keys, kept, named, checked_provenance(provenance))}, data)

    def __repr__(self) -> str:
        n, common = len(self.ids_of_any), len(self.ids)
        some = f" ({common} in every run)" if common < n else ""
        names = ", ".join(self.scores) or "none"
        return f"ScoreTable({len(self.runs)} runs, {n} examples{some}, scores: {names})"

    @property
    def ids(self) -> np.ndarray:
        """Ids that every run has, ascending."""
        runs = iter(self.runs.values())
        first = next(runs, None)
        common = np.empty(0, np.int64) if first is None else first.ids
        for run in runs:
            if not np.array_equal(common, run.ids):
                common = np.intersect1d(common, run.ids, assume_unique=True)
        return common

    @property
    def ids_of_any(self) -> np.ndarray:
        """Ids that some run has, ascending."""
        runs = list(self.runs.values())
        if runs and all(np.array_equal(runs[0].ids, run.ids) for run in runs[1:]):
            return runs[0].ids
        return np.unique(np.concatenate([run.ids for run in runs])) if runs else np.empty(0, np.int64)

    @property
    def scores(self) -> tuple[str, ...]:
        """Names that `values` takes: scores that every run has."""
        return tuple(name for name in self.scores_of_any if len(self.having(name).runs) == len(self.runs))

    @property
    def scores_of_any(self) -> tuple[str, ...]:
        """Scores that some run has; `having` gives the table of those runs."""
        return tuple(dict.fromkeys(name for run in self.runs.values() for name in run.names))

    def having(self, score: str) -> ScoreTable:
        """The table of the runs that have a score. UserError where none has."""
        runs = {name: run for name, run in self.runs.items() if score in run.names}
        if not runs:
            known = self.scores_of_any
            raise UserError(
                f"no run has a score {score!r}{suggest(score, known)}; there are {', '.join(known)}"
            )
        return ScoreTable(runs, self.data)

    def with_scores(
        self,
        run: str,
        scores: Mapping[str, Any],
        *,
        ids: Any = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> ScoreTable:
        """The table with more scores of a run (VoG, GraNd, learnability, ...), or with a new run where there
        is none of that name: give scores of several models (agreement, memorization) a run of their own.

        scores: (n,) numbers by name, NaN where there is none; ids: (n,) in the same order, default those of
        the run, ascending (0..n-1 of a new one, where the table has just those). UserError for other ids than
        the run has, and for a score that it has already with different values.
        """
        if run not in self.runs:
            new = ScoreTable.of_run(run, scores, ids=ids, provenance=provenance, data=self.data)
            if ids is None and self.runs and not np.array_equal(self.ids_of_any, new.ids):
                raise UserError(
                    f"run {run!r} is new, and the table's examples are not 0 to {len(new.ids) - 1}: give ids="
                )
            return self.merge(new)
        old = self.runs[run]
        new = ScoreTable.of_run(run, scores, ids=old.ids if ids is None else ids).runs[run]
        if not np.array_equal(old.ids, new.ids):
            raise UserError(
                f"run {run!r} has {len(old.ids)} examples, and the scores are not of the same ids"
            )
        for name, values in new.columns.items():
            if name in old.names or name in old.columns:
                same = name in old.columns and np.array_equal(old.columns[name], values, equal_nan=True)
                if not same:
                    raise UserError(f"run {run!r} has {name} already, with different values")
        about = {**old.provenance, **checked_provenance(provenance)}
        joined = RunScores(old.ids, {**old.columns, **new.columns}, old.scores, about)
        return ScoreTable({**self.runs, run: joined}, self.data)

    def merge(self, *others: ScoreTable) -> ScoreTable:
        """Runs and shards of both. Shards of a run hold different examples; what both hold must be equal.

        An example that a shard never visited is the other's, so that each of several processes may track its
        share of the data by the same ids. The result does not depend on the order. UserError for tables of
        different data (named so, or with other labels of the same ids, or other classes), ids of different
        kinds, or a run that both have with different values.
        """
        merged, data = dict(self.runs), self.data
        for other in others:
            if not isinstance(other, ScoreTable):
                raise TypeError(f"a table merges with tables, not with {type(other).__name__}")
            if data is not None and other.data is not None and data != other.data:
                raise UserError(f"the tables are of different data: {data} and {other.data}")
            data = data if data is not None else other.data
            for name, run in other.runs.items():
                merged[name] = join(name, merged[name], run) if name in merged else run
        kinds = {run.ids.dtype.kind for run in merged.values()}
        if len(kinds) > 1:
            raise UserError("one table has integers as ids, the other strings: they are not of the same data")
        check_same_data(merged)
        return ScoreTable(dict(sorted(merged.items())), data)

    def values(self, score: str, dialect: str | None = None, *, ids: np.ndarray | None = None) -> Floats:
        """One score: (runs, examples), runs by name, examples as `ids`: by default those that every run has;
        of others (`ids_of_any`) a run that has them not has NaN. See `dynamics.derive` for dialects."""
        ids = self.ids if ids is None else ids
        rows = [pick(run, ids, read(name, run, score, dialect)) for name, run in self.runs.items()]
        if not rows:
            raise UserError("the table has no runs")
        return np.stack(rows)

    def mean(self, score: str, dialect: str | None = None) -> Floats:
        """Mean over the runs, summed in the order of their names."""
        return _reduce(self.values(score, dialect))

    def mean_rank(self, score: str, dialect: str | None = None) -> Floats:
        """Mean over the runs of the rank within each run, which no run's scale can dominate."""
        return mean_of_ranks(self.values(score, dialect))

    def labels(self, ids: Any = None) -> Ints:
        """The labels of examples that some run keeps, -1 where none knows one. ids: default those that every
        run has."""
        return labels_of(self.runs.values(), self.ids if ids is None else to_numpy(ids))

    def select(self, keep: Callable[[str], bool] | Iterable[str] | str) -> ScoreTable:
        """The table of some runs, by name or names, or by a function of the name. UserError for a name that
        no run has."""
        if callable(keep):
            wanted = keep
        else:
            names = {keep} if isinstance(keep, str) else set(keep)
            if unknown := [name for name in names if name not in self.runs]:
                near = suggest(unknown[0], self.runs)
                raise UserError(f"no run {unknown[0]!r}{near}; there are {', '.join(self.runs) or 'none'}")
            wanted = names.__contains__
        return ScoreTable({name: run for name, run in self.runs.items() if wanted(name)}, self.data)

    def fingerprint(self) -> str:
        """A hash of everything but the provenance: equal tables have equal ones."""
        digest = hashlib.sha256(repr((frames.VERSION, self.data)).encode())
        for name, run in self.runs.items():
            digest.update(repr((name, run.ids.dtype.kind, sorted(run.columns))).encode())
            for values in (run.ids, *(run.columns[c] for c in sorted(run.columns))):
                plain = values if values.dtype.kind != "U" else np.array("\0".join(values.tolist()))
                digest.update(np.ascontiguousarray(plain).tobytes())
        return digest.hexdigest()

    def to_arrow(self) -> Any:
        """An Arrow table: a row for every run and example; metadata holds provenance."""
        return frames.to_arrow(self.runs, self.data)

    def to_pandas(self) -> Any:
        """A pandas frame with the columns run, id, and every statistic and score. NaN stands both for no
        value and for a column that only other runs have; its `attrs` tell them apart for `from_frame`."""
        return frames.to_pandas(self.runs, self.data)

    def to_polars(self) -> Any:
        """The same as a polars frame."""
        return require("polars", "scores").from_arrow(self.to_arrow())

    @classmethod
    def from_frame(cls, frame: Any) -> ScoreTable:
        """From an Arrow table, a pandas or polars frame, or a mapping of columns.

        Needs a column `id`; `run` is optional (one run). Frames of pandas and polars carry no provenance. A
        column that is empty (null; in pandas NaN) for a whole run and not for others counts as theirs alone,
        but in frames that `to_pandas` made. Raises UserError where columns are missing or lie.
        """
        parts, data = frames.from_frame(frame)
        table = cls({}, data)
        for name, part in parts.items():
            table = table.merge(cls.of_run(name, **part))
        return table

    def save(self, path: str | Path) -> Path:
        """Write a .parquet file; it appears whole or not at all. Runs without examples are not in it."""
        path = Path(path)
        if path.suffix != ".parquet":
            raise UserError(f"a table of scores is a .parquet file, not {path.name}")
        table = self.to_arrow()
        with replacing(path) as aside:
            require("pyarrow.parquet", "scores").write_table(table, aside, compression="zstd")
        return path

    def append(self, folder: str | Path) -> Path:
        """Write the table as one more file of a folder, which `load` merges. Any number of processes may
        append at once: the file's name is the hash of what it holds and of where that comes from, so that
        the same table twice is one file."""
        folder = Path(folder)
        make_folder(folder)
        sources = json.dumps({name: dict(r.provenance) for name, r in self.runs.items()}, sort_keys=True)
        name = hashlib.sha256((self.fingerprint() + sources).encode()).hexdigest()[:24]
        path = folder / f"{name}.parquet"
        return path if path.exists() else self.save(path)

    @classmethod
    def load(cls, path: str | Path) -> ScoreTable:
        """Read a .parquet file, or a folder of them, merged. UserError where there is none or one is
        damaged."""
        path = Path(path)
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not files or not all(f.is_file() for f in files):
            raise UserError(f"{path}: no such file, or a folder without .parquet files")
        table, read = None, require("pyarrow.parquet", "scores").read_table
        for file in files:
            try:
                arrow = read(file)
            except (OSError, ValueError) as error:
                raise UserError(f"{file} is no Parquet file that can be read: {error}") from error
            try:
                one = cls.from_frame(arrow)
            except UserError as error:
                raise UserError(f"{file}: {error}") from error
            table = one if table is None else table.merge(one)
        assert table is not None
        return table


def mean_of_ranks(values: Floats) -> Floats:
    """(runs, n) -> (n,): mean of the ranks within each run, added in the order of the runs."""
    return _reduce(np.atleast_2d(rank(values)))


def _reduce(values: Floats) -> Floats:
    """Mean of rows, added one by one in their order."""
    total = np.zeros(values.shape[1])
    for row in values:
        total += row
    return total / len(values)
