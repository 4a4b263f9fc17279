"""`train.tensorboard = true`: events for TensorBoard in the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from dither.train.sinks import scalars


class TensorBoard:
    """Scalars of the rows as TensorBoard events in `run_dir`/tensorboard; those after step `done` of an
    earlier process are purged."""

    def __init__(self, run_dir: Path, done: int) -> None:
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=done + 1 if done else None)

    def write(self, row: dict[str, Any]) -> None:
        for name, value in scalars(row):
            self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()
