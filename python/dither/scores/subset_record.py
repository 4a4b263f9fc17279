"""What runs on random subsets of the data leave behind, and memorization and influence from it.

A run is a folder that holds

    scores.parquet    a ScoreTable of one run: `member` (1 where it trained on the example) and `correct`
                      (whether it is right on it, or on which share of its tokens) of all examples
    tests.parquet     `correct` of test examples, where there are any

whoever wrote it: `dither.scores.subset_runs`, or `dither train` with train.subset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats
from dither.scores.ranks import spearman
from dither.scores.runs import MEMBER, RunScores, check_same_data
from dither.scores.subsets import influence, memorization
from dither.scores.table import ScoreTable

FILE, TESTS = "scores.parquet", "tests.parquet"
BLOCK = 1 << 24
"""Values of influence that are worked out at a time."""


@dataclass(frozen=True, eq=False)
class SubsetRuns:
    """Runs by name, ascending.

    ids: (n,) of the examples; member: (runs, n) booleans; correct: (runs, n) booleans, or shares in fp64;
    test_ids, tests: (m,) and (runs, m), or None. left_out: folders without a finished run.
    """

    names: tuple[str, ...]
    ids: np.ndarray
    member: np.ndarray
    correct: np.ndarray
    test_ids: np.ndarray | None = None
    tests: np.ndarray | None = None
    data: str | None = None
    left_out: tuple[str, ...] = ()

    @classmethod
    def load(cls, paths: str | Path | Iterable[str | Path]) -> SubsetRuns:
        """Read folders of runs, or folders of such folders (in these, what is not finished is left out).

        Raises UserError for a folder without a run, a run that trained on all its data or is not of the same
        examples as the others, two different runs of one name, and runs that all have one subset.
        """
        folders, left_out = _folders(
            [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
        )
        runs: dict[str, RunScores] = {}
        tests: dict[str, RunScores] = {}
        data = None
        for folder in folders:
            name, run, of = _read(folder / FILE, (MEMBER, "correct"))
            if None not in (of, data) and of != data:
                raise UserError(f"{folder} is of other data than the runs before it: {of}, not {data}")
            data = of if data is None else data
            if name in runs and not runs[name].same(run):
                raise UserError(f"{folder}: there is another run of the name {name!r}")
            runs[name] = run
            if (folder / TESTS).is_file():
                tests[name] = _read(folder / TESTS, ("correct",))[1]
        runs = dict(sorted(runs.items()))
        check_same_data(runs)
        ids, (member, correct) = _stack(runs, (MEMBER, "correct"))
        if len(runs) > 1 and (member == member[0]).all():
            raise UserError(
                f"all {len(runs)} runs have the same subset: none of it is held out anywhere; vary the seed"
            )
        if missing := [name for name in runs if tests and name not in tests]:
            raise UserError(f"run {missing[0]!r} has no {TESTS} where others have one")
        test_ids, right = None, None
        if tests:
            test_ids, (right,) = _stack({name: tests[name] for name in runs}, ("correct",))
        return cls(tuple(runs), ids, member.astype(bool), correct, test_ids, right, data, left_out)

    def memorization(self, dialect: str | None = None) -> Floats:
        """(n,): see `dither.scores.memorization`."""
        return memorization(self.member, self.correct, dialect)

    def influence(self, dialect: str | None = None, dtype: Any = np.float64) -> np.ndarray:
        """(n, m): of every example on every test; on the examples themselves where there are no tests.

        Memory: the result in `dtype`, and 2^24 values of fp64 at a time.
        """
        tests = self.correct if self.tests is None else self.tests
        out = np.empty((len(self.ids), tests.shape[1]), dtype)
        step = max(1, BLOCK // max(1, tests.shape[1]))
        for start in range(0, len(out), step):
            rows = slice(start, start + step)
            out[rows] = influence(self.member[:, rows], tests, dialect)
        return out

    def agreement(self) -> float | None:
        """Spearman correlation of the memorization by one half of the runs with that by the other; None where
        it cannot be told."""
        if len(self.names) < 4:
            return None
        halves = np.stack([memorization(self.member[k::2], self.correct[k::2]) for k in (0, 1)])
        values = halves[:, np.isfinite(halves).all(axis=0)]
        if values.shape[1] < 3 or (values.min(axis=1) == values.max(axis=1)).any():
            return None
        return float(spearman(values)[0, 1])

    def table(self, run: str = "subsets", dialect: str | None = None) -> ScoreTable:
        """`memorization` as the table of one run, to merge, save and select by."""
        about: dict[str, Any] = {
            "runs": len(self.names),
            "share": float(self.member.mean()),
            "dialect": dialect,
        }
        values = {"memorization": self.memorization(dialect)}
        return ScoreTable.of_run(run, values, ids=self.ids, provenance=about, data=self.data)

    def __str__(self) -> str:
        share = self.member.mean()
        right = [self.correct[side].mean() for side in (self.member, ~self.member)]
        error = np.sqrt((0.25 / (len(self.names) * np.array([share, 1 - share]))).sum())
        agreement = self.agreement()
        halves = "" if agreement is None else f"; two halves of the runs agree to {agreement:.3f} in rank"
        return (
            f"{len(self.names)} runs on {share:.0%} of {len(self.ids):,} examples: right on {right[0]:.1%} "
            f"of what they trained on and {right[1]:.1%} of the rest; an estimate has a standard error of "
            f"at most {error:.2g}{halves}"
        )


def _folders(given: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """Folders of runs, and those in a given one that have none."""
    found, left_out = [], []
    for path in given:
        if (path / FILE).is_file():
            found.append(path)
            continue
        inner = sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != ".") if path.is_dir() else []
        ended = [p for p in inner if (p / FILE).is_file()]
        if not ended:
            raise UserError(
                f"{path} is no folder of a finished run on a subset (of dither.scores.subset_runs, or with "
                f"train.subset), nor of such folders: there is no {FILE}"
            )
        found += ended
        left_out += [str(p) for p in inner if p not in ended]
    if not found:
        raise UserError("name at least one folder of runs")
    return found, tuple(left_out)


def _read(file: Path, columns: Sequence[str]) -> tuple[str, RunScores, str | None]:
    """The run of a table: name, columns, data."""
    table = ScoreTable.load(file)
    if len(table.runs) != 1:
        raise UserError(f"{file} holds {len(table.runs)} runs where one is expected")
    ((name, run),) = table.runs.items()
    if missing := [c for c in columns if c not in run.columns]:
        raise UserError(
            f"{file} has no column {missing[0]!r}: it is of no run on a subset of its data "
            "(dither.scores.subset_runs, or train.subset of dither train)"
        )
    for column in columns:
        values = run.columns[column]
        if not ((values >= 0) & (values <= 1)).all():
            raise UserError(f"{file}: the column {column!r} holds 0, 1 or shares between")
    return name, run, table.data


def _stack(runs: dict[str, RunScores], columns: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
    """ids, and (runs, n) of every column: booleans where all are whole."""
    first, ids = next((name, run.ids) for name, run in runs.items())
    for name, run in runs.items():
        if not np.array_equal(run.ids, ids):
            raise UserError(
                f"run {name!r} is not of the same examples as {first!r} ({len(run.ids):,} and {len(ids):,})"
            )
    arrays = []
    for column in columns:
        shares = any(run.columns[column].dtype.kind == "f" for run in runs.values())
        kind = np.float64 if shares else bool
        arrays.append(np.stack([run.columns[column].astype(kind) for run in runs.values()]))
    return ids, arrays
