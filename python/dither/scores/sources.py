"""From files of logits to a ScoreTable: .npy, .npz and Parquet, one run or many, one visit or a history.

A file holds the logits of one visit of a run: (n, classes), or (sequences, tokens, vocabulary) of a language
model. A folder holds several, by its layout:

    FOLDER/a.npy  FOLDER/b.npy           two runs, a and b, of one visit each
    FOLDER/a/01.npy  FOLDER/a/02.npy     one run, a, of two visits: scores of training dynamics too

Labels stand in the file itself (`labels` of an .npz, `label` of a Parquet file) or in `labels.npy`, ids in
`ids` / `id` / `ids.npy`, beside the file or in a folder above it. Logits are mapped, not read whole.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError, require
from dither.scores.arrow import view
from dither.scores.borrowed import integers
from dither.scores.pointwise import DEFAULT, LABEL_FREE, NAMES, logit_scores, sequence_scores
from dither.scores.runs import LABEL
from dither.scores.subset_record import FILE, TESTS
from dither.scores.table import ScoreTable
from dither.scores.tracker import DEFAULT as HISTORY
from dither.scores.tracker import Tracker

SUFFIXES = (".npy", ".npz", ".parquet")
ASIDE = ("labels", "ids")


@dataclass(frozen=True)
class Logits:
    """One visit: logits, labels or None, ids or None, and the file they come from."""

    logits: Any
    labels: Any
    ids: Any
    path: Path


def read_logits(path: str | Path, labels: Any = None, ids: Any = None) -> Logits:
    """Read one file of logits; `labels` and `ids` win over what lies in the file or beside it.

    Raises UserError for a file that is none of .npy, .npz, .parquet, that is damaged, or that has no logits.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        found = _READERS[path.suffix](path)
    except KeyError:
        raise UserError(f"{path}: logits are read from {', '.join(SUFFIXES)} files") from None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None
    if "logits" not in found:
        raise UserError(f"{path} holds {', '.join(found) or 'nothing'} and no logits")
    y = labels if labels is not None else found.get("labels", _beside(path, "labels"))
    keys = ids if ids is not None else found.get("ids", _beside(path, "ids"))
    return Logits(_numbers(found["logits"], path), y, keys, path)


def _unreadable(path: Path, error: Exception) -> UserError:
    """numpy advises to unpickle what it cannot read, which this never does."""
    if isinstance(error, UserError):
        return error
    pickled = "pickle" in str(error)
    return UserError(f"{path} cannot be read: {'it is no file of numbers' if pickled else error}")


def _npy(path: Path) -> dict[str, Any]:
    return {"logits": np.load(path, mmap_mode="r", allow_pickle=False)}


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in ("logits", "labels", "ids") if name in archive.files}


def _parquet(path: Path) -> dict[str, Any]:
    """Columns `logits` (lists of one length), `label`, `id`."""
    pa = require("pyarrow", "scores")
    table = require("pyarrow.parquet", "scores").read_table(path)
    found = {}
    for column, name in (("label", "labels"), ("id", "ids")):
        if column in table.column_names:
            found[name] = np.asarray(table.column(column).to_pylist())
    if "logits" in table.column_names and pa.types.is_nested(table.schema.field("logits").type):
        found["logits"] = view(table.column("logits"), f"{path}: the column 'logits'")
    return found


_READERS = {".npy": _npy, ".npz": _npz, ".parquet": _parquet}


def _numbers(logits: np.ndarray, path: Path) -> np.ndarray:
    if logits.dtype.kind not in "fiub":
        hint = " (numpy saves bf16 without its name: save it as float16 or float32)"
        raise UserError(f"{path}: logits are real numbers, not {logits.dtype}{hint}")
    if logits.ndim not in (2, 3):
        raise UserError(
            f"{path}: logits are (n, classes) or (sequences, tokens, vocabulary), not of "
            f"the shape {logits.shape}"
        )
    if len(logits) == 0:
        raise UserError(f"{path} holds no examples: logits of the shape {logits.shape}")
    return logits


def _beside(path: Path, name: str) -> np.ndarray | None:
    """labels.npy or ids.npy in the folder of the file or the one above."""
    for folder in (path.parent, path.parent.parent):
        if (file := folder / f"{name}.npy").is_file() and file != path:
            try:
                return np.load(file, allow_pickle=False)
            except ValueError as error:
                raise _unreadable(file, error) from None
    return None


def score_file(source: Logits, run: str, scores: Sequence[str] | None = None) -> ScoreTable:
    """The table of a run of one visit. UserError where scores need labels or a history."""
    known = (*NAMES, "perplexity") if source.logits.ndim == 3 else NAMES
    for name in scores or ():
        if name not in known:
            raise UserError(
                f"{name} is no score of one visit; from {source.path} there are {', '.join(known)}"
            )
    with _says(source.path):
        if source.logits.ndim == 3:
            if source.labels is None:
                raise UserError("scores of sequences need labels (sequences, tokens)")
            columns = sequence_scores(source.logits, source.labels, scores)
        else:
            names = scores or (DEFAULT if source.labels is not None else LABEL_FREE)
            columns = logit_scores(source.logits, source.labels, names)
            if source.labels is not None:
                columns |= {LABEL: integers(source.labels, "labels")}
        about = {"visits": [source.path.name], "classes": source.logits.shape[-1]}
        return ScoreTable.of_run(run, columns, ids=source.ids, provenance=about)


def score_visits(
    files: Sequence[Path], run: str, scores: Sequence[str] | None, labels: Any = None, ids: Any = None
) -> ScoreTable:
    """The table of a run from files of its visits, in their order."""
    tracker = table_ids = None
    for step, path in enumerate(files):
        visit = read_logits(path, labels, ids)
        with _says(path):
            if visit.logits.ndim != 2 or visit.labels is None:
                raise UserError("scores of training dynamics need logits (n, classes) and labels")
            if tracker is None:
                tracker, table_ids = Tracker(len(visit.logits), scores or HISTORY), visit.ids
            elif not _same(table_ids, visit.ids):
                raise UserError(f"its ids differ from those of {files[0]}")
            elif len(visit.logits) != len(tracker):
                raise UserError(f"it has {len(visit.logits)} rows where {files[0]} has {len(tracker)}")
            tracker.update(np.arange(len(tracker)), visit.logits, visit.labels, step=step)
    assert tracker is not None
    with _says(files[0]):
        return tracker.table(run, ids=table_ids, provenance={"visits": [path.name for path in files]})


def _same(a: Any, b: Any) -> bool:
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))


class _says:
    """Errors name the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (UserError, TypeError)):
            raise UserError(f"{self.path}: {error}") from error


def _visits_order(path: Path) -> list[Any]:
    """Numbers in names count as numbers: epoch-2 before epoch-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def _files(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.suffix in SUFFIXES and p.stem not in ASIDE and p.is_file()]
    if folder / FILE in found:  # a run on a subset: its tests are other examples
        found = [p for p in found if p.name != TESTS]
    return sorted(found, key=_visits_order)


def _is_table(path: Path) -> bool:
    """A Parquet file without logits is a ScoreTable that was saved before."""
    if path.suffix != ".parquet":
        return False
    try:
        names = require("pyarrow.parquet", "scores").read_schema(path).names
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return "logits" not in names and "id" in names


def _tables(
    path: Path, scores: Sequence[str] | None, visits: bool, labels: Any, ids: Any
) -> Iterator[ScoreTable]:
    if path.is_file():
        if _is_table(path):
            table = ScoreTable.load(path)
            for name in scores or ():
                with _says(path):
                    table.having(name)
            yield table
        else:
            yield score_file(read_logits(path, labels, ids), path.stem, scores)
        return
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    files = _files(path)
    folders = [f for f in sorted(path.iterdir()) if f.is_dir() and _files(f)]
    if not files and not folders:
        raise UserError(f"{path} holds no logits: no {', '.join(SUFFIXES)} file, nor a folder of them")
    if visits and files:
        yield score_visits(files, path.resolve().name, scores, labels, ids)
    else:
        for file in files:
            yield from _tables(file, scores, visits, labels, ids)
    for folder in folders:
        yield score_visits(_files(folder), folder.name, scores, labels, ids)


def score_paths(
    paths: Iterable[str | Path],
    scores: Sequence[str] | None = None,
    *,
    visits: bool = False,
    labels: Any = None,
    ids: Any = None,
) -> ScoreTable:
    """The merged table of files and folders of logits, as the module says; Parquet files that are tables
    already are merged in.

    scores: default the pointwise ones (label-free without labels), or those of the tracker where a run has
    several visits. visits: the files of a named folder are visits of one run, in the order of their names.
    UserError for what cannot be read, and for two files that give one run different values.
    """
    table = ScoreTable({})
    for path in paths:
        for one in _tables(Path(path), scores, visits, labels, ids):
            table = table.merge(one)
    if not table.runs:
        raise UserError("name at least one file or folder of logits")
    return table


def read_column(path: str | Path, column: str) -> np.ndarray:
    """A .npy file, or the column of that name of a .parquet file. UserError where there is none."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".parquet":
            table = require("pyarrow.parquet", "scores").read_table(path)
            if column in table.column_names:
                return np.asarray(table.column(column).to_pylist())
            raise UserError(f"{path} has no column {column!r}; it has {', '.join(table.column_names)}")
    except (ValueError, OSError, EOFError) as error:
        raise _unreadable(path, error) from None
    raise UserError(f"{path}: a .npy or .parquet file is needed")


def labels_of(path: str | Path, ids: np.ndarray) -> np.ndarray:
    """Labels of the examples `ids`: a .npy file that integer ids index, or a .parquet file of id and label.

    UserError where an example has none."""
    labels = read_column(path, "label")
    if Path(path).suffix == ".npy":
        if ids.dtype.kind != "i":
            raise UserError(
                f"{path}: ids that are strings need a .parquet file with the columns id and label"
            )
        if ids.min() < 0 or ids.max() >= len(labels):
            raise UserError(f"{path} has {len(labels)} labels and none for the id {ids.max()}")
        return labels[ids]
    known = dict(zip(read_column(path, "id").tolist(), labels.tolist(), strict=True))
    missing = [i for i in ids.tolist() if i not in known]
    if missing:
        raise UserError(f"{path} has no label of {len(missing):,} examples, {missing[0]!r} among them")
    return np.asarray([known[i] for i in ids.tolist()])
