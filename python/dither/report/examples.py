"""The examples behind scores: their pictures or texts, found by id.

Images: a .npy of (n, height, width), (n, height, width, 1 or 3), (n, 1 or 3, height, width), or (n, d) of
squares, integers of 0 to 255 or any floats (scaled to their range); row i belongs to the id i. Texts: a .txt
with a line for each id, a .jsonl or .parquet with `id` and `text`, or the directory of a language model's
run, whose ids are places in its training tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError, require


class Images:
    """`of(id)` is (height, width) or (height, width, 3) of numbers between 0 and 1."""

    def __init__(self, array: np.ndarray, where: str = "images") -> None:
        x = np.asarray(array)
        if x.dtype.kind not in "uif" or x.ndim not in (2, 3, 4) or not len(x):
            raise UserError(f"{where}: images are (n, height, width[, 3]) numbers, not {x.dtype} {x.shape}")
        if x.ndim == 2:
            side = round(x.shape[1] ** 0.5)
            if side * side != x.shape[1]:
                raise UserError(
                    f"{where}: rows of {x.shape[1]} numbers are no squares; give height and width"
                )
            x = x.reshape(len(x), side, side)
        if x.ndim == 4:
            x = _channels_last(x, where)
        self.array, self.where = x, where
        sample = np.asarray(x[:: max(1, len(x) // 4096)], np.float64)
        self.low, self.high = (
            (0.0, 255.0) if x.dtype == np.uint8 else (float(sample.min()), float(sample.max()))
        )
        if not np.isfinite([self.low, self.high]).all():
            raise UserError(f"{where} holds NaN or infinity")

    @classmethod
    def read(cls, path: str | Path) -> Images:
        path = Path(path)
        if not path.is_file() or path.suffix != ".npy":
            raise UserError(f"{path}: images are read from a .npy file")
        try:
            return cls(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
        except UserError:
            raise
        except (ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None

    def of(self, example: Any) -> np.ndarray:
        if isinstance(example, str) or not 0 <= example < len(self.array):
            raise UserError(f"{self.where} has {len(self.array)} images and none of the id {example!r}")
        spread = self.high - self.low
        return np.clip((np.asarray(self.array[example], np.float64) - self.low) / (spread or 1.0), 0, 1)


def _channels_last(x: np.ndarray, where: str) -> np.ndarray:
    """(n, height, width) of one channel, (n, height, width, 3) of three."""
    if x.shape[-1] not in (1, 3):
        if x.shape[1] not in (1, 3):
            raise UserError(f"{where}: images have 1 or 3 channels, not the shape {x.shape}")
        x = np.moveaxis(x, 1, -1)
    return x[..., 0] if x.shape[-1] == 1 else x


def read_texts(path: str | Path, ids: Iterable[Any]) -> dict[Any, str]:
    """The texts of those ids. UserError where the file cannot be read or lacks one."""
    path, wanted = Path(path), list(ids)
    if path.is_dir():
        require("torch", "train")
        from dither.train.scoring import window_texts

        return window_texts(path, wanted)
    if not path.is_file() or path.suffix not in (".txt", ".jsonl", ".parquet"):
        raise UserError(f"{path}: texts are read from .txt, .jsonl and .parquet files, or of a run directory")
    try:
        known = _texts(path)
    except UserError:
        raise
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
    missing = [i for i in wanted if i not in known]
    if missing:
        raise UserError(f"{path} has no text of {len(missing):,} examples, {missing[0]!r} among them")
    return {i: known[i] for i in wanted}


def _texts(path: Path) -> dict[Any, str]:
    if path.suffix == ".txt":
        return dict(enumerate(path.read_text(encoding="utf-8").splitlines()))
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for place, row in enumerate(rows):
            if not isinstance(row, dict) or not {"id", "text"} <= row.keys():
                raise UserError(
                    f'{path}, row {place}: each row is {{"id": ..., "text": ...}}; a .txt file needs no ids'
                )
        return {row["id"]: str(row["text"]) for row in rows}
    table = require("pyarrow.parquet", "scores").read_table(path, columns=["id", "text"])
    return dict(zip(table["id"].to_pylist(), map(str, table["text"].to_pylist()), strict=True))
