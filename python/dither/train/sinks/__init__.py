"""Where the rows of a run go besides its own metrics.jsonl: TensorBoard and Weights & Biases, one file each.

A sink has `write(row)` for every training and evaluation row, with the columns of dither.train.records, and
`close()`. A resumed run writes the rows after its checkpoint again, equal to those of before. Another service
is a file with such a class and a line in `make_sinks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dither.errors import require
from dither.train.config import RunConfig


class Sink(Protocol):
    def write(self, row: dict[str, Any]) -> None:
        """A row was recorded."""

    def close(self) -> None:
        """The run ended, by itself or by an error."""


def check_sinks(config: RunConfig) -> None:
    """MissingExtraError where a sink's package is not installed; before anything is trained."""
    if config.train.tensorboard:
        require("tensorboard", "tensorboard")
    if config.train.wandb:
        require("wandb", "wandb")


def make_sinks(config: RunConfig, run_dir: Path, done: int) -> Iterator[Sink]:
    """The sinks that the configuration names, one after the other as they are taken, for a run in `run_dir`
    that goes on after step `done`. Who takes them closes them, also where a later one cannot be made."""
    if config.train.wandb:  # first: it may refuse
        from dither.train.sinks.wandb import Wandb

        yield Wandb(config, run_dir)
    if config.train.tensorboard:
        from dither.train.sinks.tensorboard import TensorBoard

        yield TensorBoard(run_dir, done)


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The names and values of a row: train/loss, ..., validation/full, validation/cast/<cast>/<rounding>."""
    if row["kind"] == "train":
        for key in ("loss", "penalty", "lr", "grad_norm", "tokens_per_s"):
            if row.get(key) is not None:
                yield f"train/{key}", row[key]
    else:
        name = "/".join(str(row[key]) for key in ("view", "cast", "rounding") if row.get(key))
        yield f"validation/{name}", row["loss"]
