"""What one run knows of its examples, and when two of them belong together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.scores.borrowed import Floats, Ints, integers, to_numpy
from dither.scores.dialects import rescale
from dither.scores.dynamics import DERIVED, derive

LABEL = "label"
"""The column of the examples' labels. It is no score; it tells data apart."""

SHARDS = "shards"
"""The key of the provenance under which a run of several shards keeps theirs."""

MEMBER = "member"
"""The column of runs on subsets: 1 for an example that the run trained on, 0 for one it did not. No score."""

_NO_SCORES = ("visits", "tokens", LABEL, MEMBER)


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
        return tuple(n for n in known if (n in self.columns or n in DERIVED) and n not in _NO_SCORES)

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


def checked_ids(ids: Any, n: int) -> np.ndarray:
    """UserError for what are no n integers or strings."""
    array = to_numpy(ids)
    if array.dtype == object:
        items = array.tolist()
        if any(i is None or i != i for i in items):
            raise UserError("ids have empty cells: every example needs one")
        array = np.asarray([str(i) for i in items])
    if array.ndim != 1 or len(array) != n or array.dtype.kind not in "iuU":
        raise UserError(f"ids are {n} integers or strings, not {array.dtype} of the shape {array.shape}")
    return array if array.dtype.kind == "U" else integers(array, "the ids (give them as strings)")


def checked_provenance(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """As a file gives it back; numbers of numpy are numbers. UserError for what no file holds, and for a key
    that merging needs."""
    try:
        about = json.loads(json.dumps(dict(given or {}), allow_nan=False, default=lambda value: value.item()))
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"provenance= holds texts, finite numbers, lists and mappings: {error}") from None
    shards = about.get(SHARDS, [])
    if not isinstance(shards, list) or not all(isinstance(shard, dict) for shard in shards):
        raise UserError(
            f"provenance= has {SHARDS!r}: {shards!r}, the key under which merged shards keep theirs; "
            "name yours otherwise"
        )
    return about


def checked_column(name: str, values: np.ndarray) -> np.ndarray:
    """fp64 or int64. UserError for what are no numbers, or do not fit."""
    kind = "f" if values.dtype.name == "bfloat16" else values.dtype.kind
    if kind not in "fiub":
        raise UserError(f"the column {name!r} holds numbers, not {values.dtype}; leave it out")
    if kind != "f":
        return integers(values, f"the column {name!r}")
    numbers = values.astype(np.float64)
    numbers += 0.0  # -0 becomes 0: shards that agree have equal bits
    return numbers


def labels_of(runs: Iterable[RunScores], ids: np.ndarray) -> Ints:
    """The labels that runs keep of these examples; -1 where none knows one."""
    known = np.full(len(ids), -1, np.int64)
    for run in runs:
        if LABEL in run.columns and len(run.ids):
            place = np.minimum(np.searchsorted(run.ids, ids), len(run.ids) - 1)
            found = np.where(run.ids[place] == ids, run.columns[LABEL][place], -1)
            known = np.where(known >= 0, known, found)
    return known


def read(name: str, run: RunScores, score: str, dialect: str | None) -> Floats:
    """A score of a run of that name, stored or derived. UserError where it has none."""
    if score in run.columns:
        return rescale(score, run.columns[score].astype(np.float64), dialect)
    if score in DERIVED:
        return derive(run.columns, score, dialect)
    known = [*run.columns, *run.scores]
    raise UserError(f"run {name!r} has no score {score!r}{suggest(score, known)}; it has {', '.join(known)}")


def pick(run: RunScores, ids: np.ndarray, values: Floats) -> Floats:
    """Values of the examples `ids`; NaN of those that the run has not."""
    if np.array_equal(ids, run.ids):
        return values
    if not len(run.ids):
        return np.full(len(ids), np.nan)
    place = np.minimum(np.searchsorted(run.ids, ids), len(run.ids) - 1)
    return np.where(run.ids[place] == ids, values[place], np.nan)


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
    equal, only_in_a, only_in_b = _compare_rows(a.columns, of_a, b.columns, of_b)
    if not (equal | only_in_a | only_in_b).all():
        apart = both[~(equal | only_in_a | only_in_b)]
        raise UserError(
            f"both tables have run {name!r} with different values for {len(apart)} examples, "
            f"{apart.tolist()[0]!r} among them; give the runs different names"
        )
    # Of an example that both have the row of b is taken where a only holds a place for it, else that of a.
    from_a, from_b = np.ones(len(a.ids), bool), np.ones(len(b.ids), bool)
    from_a[of_a] = equal | only_in_a
    from_b[of_b] = ~from_a[of_a]
    ids = np.concatenate([a.ids[from_a], b.ids[from_b]])
    order = np.argsort(ids, kind="stable")
    columns = {
        c: np.concatenate([a.columns[c][from_a], b.columns[c][from_b]])[order] for c in sorted(a.columns)
    }
    return RunScores(ids[order], columns, scores, _provenance(a, b))


def _compare_rows(
    a: Mapping[str, np.ndarray], of_a: np.ndarray, b: Mapping[str, np.ndarray], of_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows of the same examples, which are equal to the last bit; and which the other shard, or the first,
    only holds a place for: it never visited the example, and has no number of it but what the row has too."""
    equal = np.ones(len(of_a), bool)
    only_in_a, only_in_b = (
        columns["visits"][rows] == 0 if "visits" in columns else np.zeros(len(rows), bool)
        for columns, rows in ((b, of_b), (a, of_a))
    )
    for c, values in a.items():
        x, y = values[of_a], b[c][of_b]
        same = (x == y) | ((x != x) & (y != y))  # NaN is NaN
        equal &= same
        only_in_a &= same | _nothing(c, y)
        only_in_b &= same | _nothing(c, x)
    return equal, only_in_a, only_in_b


def _nothing(column: str, values: np.ndarray) -> np.ndarray:
    """Where a tracker that never visited an example leaves a column empty; numbers of others are never
    that."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if column == LABEL:
        return values == -1
    return values == 0 if column == "visits" or column.startswith("sum_") else np.zeros(len(values), bool)


def _provenance(a: RunScores, b: RunScores) -> dict[str, Any]:
    """Of a run of several shards: every different one once, in an order of their own; an empty one is no
    more than unknown (frames of pandas carry none)."""
    different = {json.dumps(p, sort_keys=True): p for p in (*_shards(a), *_shards(b)) if p}
    found = [different[key] for key in sorted(different)]
    return {SHARDS: found} if len(found) > 1 else found[0] if found else {}


def _shards(run: RunScores) -> list[dict[str, Any]]:
    """What each shard says; what was said of the whole run since (`with_scores`) is so of each."""
    rest = {key: value for key, value in run.provenance.items() if key != SHARDS}
    return [{**shard, **rest} for shard in run.provenance.get(SHARDS) or [{}]]


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
