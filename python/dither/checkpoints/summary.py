"""What became of each tensor of a checkpoint, and who is told while it happens."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """What became of one tensor. `quantizer` is None where it stays, `reason` says why; `sqnr_db` is None
    where nothing was measured."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantizer: str | None
    reason: str | None
    before: int
    after: int
    sqnr_db: float | None = None


@dataclass(frozen=True)
class Summary:
    """All rows in the order of the source, the output, and how many tensors an earlier start had done."""

    rows: list[Row]
    out: Path
    layout: str
    resumed: int = 0

    @property
    def before(self) -> int:
        return sum(row.before for row in self.rows)

    @property
    def after(self) -> int:
        return sum(row.after for row in self.rows)


class Observer:
    """Told what happens; this one is silent."""

    def start(self, tensors: int, nbytes: int) -> None:
        """So many tensors are left to do, with so many bytes in the source."""

    def tensor(self, row: Row) -> None:
        """One tensor was written."""

    def finish(self) -> None:
        """All are written, or an error ended it."""


def describe(summary: Summary) -> dict[str, Any]:
    """The summary as dither.json keeps it beside the weights."""
    return {
        "layout": summary.layout,
        "bytes_before": summary.before,
        "bytes_after": summary.after,
        "tensors": [asdict(row) for row in summary.rows],
    }
