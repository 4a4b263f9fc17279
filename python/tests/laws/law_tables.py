"""Published tables to hold reproductions against; tests skip where `DITHER_LAW_TABLES` has none of them."""

from typing import Any

import numpy as np
import pytest

from dither.studies import tables
from dither.studies.papers import chinchilla_replication, loss_to_loss

CORPORA = loss_to_loss.CORPORA


def needs(*names: str) -> None:
    """Skips the test where one of those tables is not there."""
    if why := tables.missing(*names):
        pytest.skip(why)


def read(name: str) -> list[dict[str, str]]:
    """Rows of a table."""
    needs(name)
    frame = {key: cells.tolist() for key, cells in tables.read(name).items()}
    return [dict(zip(frame, row, strict=True)) for row in zip(*frame.values(), strict=True)]


def numbers(rows: list[dict[str, str]], column: str) -> np.ndarray:
    return np.array([float(row[column]) for row in rows])


def chinchilla(dropped: int = 5) -> dict[str, np.ndarray]:
    """Hoffmann et al.'s figure 4, digitised by Epoch; without the highest losses."""
    needs(chinchilla_replication.TABLE)
    return chinchilla_replication.runs(dropped)


def corpus(name: str, loss: str = "val_loss", file: str = "sweep") -> dict[str, Any]:
    """The runs of one corpus of 2411.12925."""
    needs(f"loss-to-loss/{file}.csv")
    return loss_to_loss.corpus(name, loss, f"loss-to-loss/{file}.csv")
