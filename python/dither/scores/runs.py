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
    """Two shards of a run, or the same twice. UserError where they contradict each other."""
    if a.same(b):
        return a
    if a.ids.dtype.kind != b.ids.dtype.kind:
        raise UserError(f"run {name!r} has integers as ids in one table and strings in the other")
    both = np.intersect1d(a.ids, b.ids, assume_unique=True)
    if len(both):
        raise UserError(
            f"both tables have run {name!r} with different values for {len(both)} examples, "
            f"{both.tolist()[0]!r} among them; give the runs different names"
        )
    if set(a.columns) != set(b.columns):
        raise UserError(
            f"the shards of run {name!r} have different columns: {sorted(a.columns)} and {sorted(b.columns)}"
        )
    ids = np.concatenate([a.ids, b.ids])
    order = np.argsort(ids, kind="stable")
    columns = {c: np.concatenate([a.columns[c], b.columns[c]])[order] for c in sorted(a.columns)}
    provenance = (
        dict(a.provenance)
        if a.provenance == b.provenance
        else {"shards": sorted((_shards(a) + _shards(b)), key=lambda p: json.dumps(p, sort_keys=True))}
    )
    return RunScores(ids[order], columns, tuple(sorted({*a.scores, *b.scores})), provenance)


def _shards(run: RunScores) -> list[Any]:
    return list(run.provenance["shards"]) if "shards" in run.provenance else [dict(run.provenance)]


def check_same_data(runs: Mapping[str, RunScores]) -> None:
    """UserError where two runs have other labels of an example, or other numbers of classes."""
    counted = {name: run.provenance["classes"] for name, run in runs.items() if run.provenance.get("classes")}
    for name, classes in counted.items():
        first = next(iter(counted))
        if classes != counted[first]:
            raise UserError(
                f"runs {first!r} and {name!r} have {counted[first]} and {classes} classes: they are not of "
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
