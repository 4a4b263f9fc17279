"""Published tables of runs, read where they lie: below the folder that `DITHER_LAW_TABLES` names.

Nothing is downloaded, and none of these tables is in the package. A study asks `missing` first; what it says
is the reason why a claim about published runs cannot be tested. What can be shown on simulated runs still is.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from dither.errors import UserError
from dither.laws import table
from dither.laws.engine import Floats

VARIABLE = "DITHER_LAW_TABLES"

Frame = dict[str, np.ndarray]
"""Columns of text, as a CSV file has them."""


def missing(*names: str) -> str:
    """Why those tables ("chinchilla-epoch/svg_extracted_data.csv") cannot be read and what to set; empty
    where all of them are there."""
    folder = os.environ.get(VARIABLE, "")
    asked = f"set {VARIABLE} to a folder that holds {' and '.join(names)}"
    if not folder:
        return f"the published table is not here: {asked}"
    absent = [name for name in names if not (Path(folder) / name).is_file()]
    return f"{VARIABLE}={folder} has no {' and no '.join(absent)}: {asked}" if absent else ""


def read(name: str) -> Frame:
    """The columns of a table as text, read-only. UserError where `missing` has something to say."""
    path = _path(name)
    return dict(_columns(path, path.stat().st_mtime_ns))


@lru_cache(maxsize=8)
def _columns(path: Path, changed: int) -> Frame:
    """Studies read the same table for every curve and corpus; a table that has changed is read anew."""
    found = {key: np.array(cells, dtype=str) for key, cells in table.read(path).items()}
    for cells in found.values():
        cells.flags.writeable = False
    return found


def digest(name: str) -> str:
    """Twelve letters that change with the table: a setting of parts that read it."""
    return hashlib.sha256(_path(name).read_bytes()).hexdigest()[:12]


def _path(name: str) -> Path:
    if why := missing(name):
        raise UserError(why)
    return Path(os.environ[VARIABLE]) / name


def where(frame: Frame, **equal: str) -> Frame:
    """The rows whose cells equal those texts, in the table's order."""
    kept = np.ones(len(next(iter(frame.values()))), dtype=bool)
    for column, text in equal.items():
        kept &= frame[column] == text
    return rows(frame, kept)


def rows(frame: Frame, kept: np.ndarray) -> Frame:
    """Those rows (booleans or positions) of every column."""
    return {key: cells[kept] for key, cells in frame.items()}


def numbers(frame: Frame, column: str) -> Floats:
    """A column as fp64, empty cells as NaN. UserError where it is missing or holds text."""
    return table.column({key: cells.tolist() for key, cells in frame.items()}, column)
