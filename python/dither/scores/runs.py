"""What one run knows of its examples, and when two of them belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Ints
from dither.scores.dynamics import DERIVED

LABEL = "label"
"""The column of the examples' labels. It is no score; it tells data apart."""


@dataclass(frozen=True, eq=False)
class RunScores:
    """One run: ids in ascending order, columns beside them, and where they come from (JSON values)."""

    ids: np.ndarray
    columns: Mapping[str, np.ndarray]
    scores: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Scores that can be read, stored or derived."""
        stored = (c for c in self.columns if not c.startswith(("sum_", "mean_", "squares_")))
        known = dict.fromkeys((*self.scores, *stored))
        return tuple(
            n for n in known if (n in self.columns or n in DERIVED) and n not in ("visits", "tokens", LABEL)
        )

    def same(self, other: RunScores) -> bool:
        """Equal to the last bit."""
        return (
            np.array_equal(self.ids, other.ids)
            and set(self.columns) == set(other.columns)
            and all(
                np.array_equal(v, other.columns[k], equal_nan=v.dtype.kind == "f")
                for k, v in self.columns.items()
            )
        )


def labels_of(runs: Iterable[RunScores], ids: np.ndarray) -> Ints:
    """The labels that runs keep of these examples; -1 where none knows one."""
    known = np.full(len(ids), -1, np.int64)
    for run in runs:
        if LABEL in run.columns and len(run.ids):
            place = np.minimum(np.searchsorted(run.ids, ids), len(run.ids) - 1)
            found = np.where(run.ids[place] == ids, run.columns[LABEL][place], -1)
            known = np.where(known >= 0, known, found)
    return known


def join(name: str, a: RunScores, b: RunScores) -> RunScores:
    """Two shards of a run, or the same twice: examples that one of them never visited are those of the other.
    UserError where they contradict each other."""
    scores = a.scores if a.scores == b.scores else tuple(sorted({*a.scores, *b.scores}))
    if a.same(b):
        return RunScores(a.ids, a.columns, scores, _provenance(a, b))
    if a.ids.dtype.kind != b.ids.dtype.kind:
        raise UserError(f"run {name!r} has integers as ids in one table and strings in the other")
    if set(a.columns) != set(b.columns):
        raise UserError(
            f"the shards of run {name!r} have different columns: {sorted(a.columns)} and {sorted(b.columns)}"
        )
    both, of_a, of_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    equal = _equal_rows(a.columns, of_a, b.columns, of_b)
    unseen_by_a, unseen_by_b = _unseen(a.columns, of_a), _unseen(b.columns, of_b)
    if not (equal | unseen_by_a | unseen_by_b).all():
        apart = both[~(equal | unseen_by_a | unseen_by_b)]
        raise UserError(
            f"both tables have run {name!r} with different values for {len(apart)} examples, "
            f"{apart.tolist()[0]!r} among them; give the runs different names"
        )
    from_a, from_b = np.ones(len(a.ids), bool), np.ones(len(b.ids), bool)
    from_a[of_a] = ~unseen_by_a | unseen_by_b
    from_b[of_b] = ~from_a[of_a]
    ids = np.concatenate([a.ids[from_a], b.ids[from_b]])
    order = np.argsort(ids, kind="stable")
    columns = {
        c: np.concatenate([a.columns[c][from_a], b.columns[c][from_b]])[order] for c in sorted(a.columns)
    }
    return RunScores(ids[order], columns, scores, _provenance(a, b))


def _equal_rows(
    a: Mapping[str, np.ndarray], of_a: np.ndarray, b: Mapping[str, np.ndarray], of_b: np.ndarray
) -> np.ndarray:
    """Which rows `of_a` of one shard are those `of_b` of another, to the last bit."""
    equal = np.ones(len(of_a), bool)
    for c, values in a.items():
        x, y = values[of_a], b[c][of_b]
        equal &= (x == y) | ((x != x) & (y != y))  # NaN is NaN
    return equal


def _unseen(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Which of these rows the shard only holds a place for: no visit, and no number but counts."""
    if "visits" not in columns:
        return np.zeros(len(rows), bool)
    empty = columns["visits"][rows] == 0
    for values in columns.values():
        if values.dtype.kind == "f":
            empty &= np.isnan(values[rows])
    return empty


def _provenance(a: RunScores, b: RunScores) -> dict[str, Any]:
    """Of a run of several shards: every different one once, in an order of their own; an empty one is no
    more than unknown (frames of pandas carry none)."""
    different = {json.dumps(p, sort_keys=True): p for p in (*_shards(a), *_shards(b)) if p}
    found = [different[key] for key in sorted(different)]
    return {"shards": found} if len(found) > 1 else found[0] if found else {}


def _shards(run: RunScores) -> list[dict[str, Any]]:
    return list(run.provenance["shards"]) if "shards" in run.provenance else [dict(run.provenance)]


def check_same_data(runs: Mapping[str, RunScores]) -> None:
    """UserError where two runs have other labels of an example, or other numbers of classes."""
    counted = [(n, p["classes"]) for n, run in runs.items() for p in _shards(run) if p.get("classes")]
    for name, classes in counted:
        first, expected = counted[0]
        if classes != expected:
            raise UserError(
                f"runs {first!r} and {name!r} have {expected} and {classes} classes: they are not of "
                f"the same data; keep them in two tables"
            )
    labelled = {name: run for name, run in runs.items() if LABEL in run.columns}
    ids = labels = None
    for name, run in labelled.items():
        mine = run.columns[LABEL]
        if ids is None or labels is None:
            ids, labels = run.ids, mine
        elif np.array_equal(ids, run.ids):
            _compare(name, ids, labels, mine)
            labels = np.where(labels >= 0, labels, mine)
        else:
            common, before, now = np.intersect1d(ids, run.ids, assume_unique=True, return_indices=True)
            _compare(name, common, labels[before], mine[now])
            keep = np.ones(len(run.ids), bool)
            keep[now] = labels[before] < 0
            drop = np.zeros(len(ids), bool)
            drop[before] = labels[before] < 0
            ids, labels = np.r_[ids[~drop], run.ids[keep]], np.r_[labels[~drop], mine[keep]]


def _compare(name: str, ids: np.ndarray, before: np.ndarray, now: np.ndarray) -> None:
    wrong = np.flatnonzero((before != now) & (before >= 0) & (now >= 0))  # -1: never seen
    if len(wrong):
        k = wrong[0]
        raise UserError(
            f"run {name!r} has other labels than the runs before it for {len(wrong):,} examples, "
            f"{ids.tolist()[k]!r} among them ({int(now[k])}, was {int(before[k])}): they are not of the same "
            f"data; keep them in two tables"
        )
