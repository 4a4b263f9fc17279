"""Published tables to hold reproductions against; tests that use one skip where the folder is not set."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

CORPORA = {
    "FineWeb": "fineweb-100b",
    "Edu": "fineweb-edu-100b",
    "PP2": "proof-pile-2",
    "Slim": "slimpajama-chunk1",
    "Smol": "smollm-corpus",
    "Star": "starcoder",
}


def read(name: str) -> list[dict[str, str]]:
    """Rows of a table below $DITHER_LAW_TABLES; skips the test where it is not there."""
    folder = os.environ.get("DITHER_LAW_TABLES")
    if not folder:
        pytest.skip("DITHER_LAW_TABLES names no folder of published tables")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def numbers(rows: list[dict[str, str]], column: str) -> np.ndarray:
    return np.array([float(row[column]) for row in rows])


def chinchilla(dropped: int = 5) -> dict[str, np.ndarray]:
    """Hoffmann et al.'s figure 4, digitised by Epoch; without the highest losses."""
    rows = read("chinchilla-epoch/svg_extracted_data.csv")
    n, c, loss = (numbers(rows, key) for key in ("Model Size", "Training FLOP", "loss"))
    kept = loss < np.sort(loss)[-dropped] if dropped else np.ones(len(loss), dtype=bool)
    return {"N": n[kept], "D": (c / (6 * n))[kept], "loss": loss[kept]}


def corpus(name: str, loss: str = "val_loss", file: str = "sweep") -> dict[str, np.ndarray]:
    """The runs of one corpus of 2411.12925."""
    rows = [row for row in read(f"loss-to-loss/{file}.csv") if row["data"] == CORPORA[name]]
    return {"N": numbers(rows, "params"), "D": numbers(rows, "tokens"), "loss": numbers(rows, loss)}
