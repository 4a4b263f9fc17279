"""What the tests of training share beside fixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dither.train import Progress, read
from dither.train.records import COLUMNS, TIME_COLUMNS


class Silent(Progress):
    """Collects what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [{key: row.get(key) for key in COLUMNS if key not in TIME_COLUMNS} for row in read(run)]
