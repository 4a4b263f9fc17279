"""Run as a program: train, and die by SIGKILL at one exact point.

    python killed_run.py CONFIG.json RUN_DIR POINT

POINT: `row:N` after the Nth metrics row; `tensors:N` in the middle of writing the tensors of the Nth
checkpoint; `header:N` after its tensors are in place and before its JSON is; `parquet` before metrics.parquet
is in place; `summary` before summary.json is; `none` lives.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dither.train import checkpoint, records, train


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Replace the function that passes the point by one that dies there."""
    name, _, number = point.partition(":")
    left = [int(number or 1)]

    def now() -> bool:
        left[0] -= 1
        return left[0] == 0

    if name == "row":
        write = records.Records.write

        def write_row(self: records.Records, row: dict[str, Any]) -> None:
            write(self, row)
            if now():
                die()

        records.Records.write = write_row  # type: ignore[method-assign]
    elif name == "tensors":

        def save_half(tensors: dict[str, Any], path: Path) -> None:
            save_file(tensors, path)
            if now():
                os.truncate(path, os.path.getsize(path) // 2)
                die()

        setattr(checkpoint, "save_file", save_half)  # noqa: B010
    elif name != "none":
        replace = os.replace
        suffix = {"header": ".json", "parquet": "metrics.parquet", "summary": "summary.json"}[name]
        folder = checkpoint.FOLDER if name == "header" else ""

        def replace_or_die(source: Path, target: Path) -> None:
            if str(target).endswith(suffix) and folder in str(target) and now():
                die()
            replace(source, target)

        setattr(os, "replace", replace_or_die)  # noqa: B010


if __name__ == "__main__":
    config, run_dir, point = sys.argv[1:]
    arm(point)
    train(json.loads(Path(config).read_text()), run_dir, resume=Path(run_dir).exists())
