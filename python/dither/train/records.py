"""The metrics of a run: `metrics.jsonl` while it runs, `metrics.parquet` when it is done.

One row a training step (kind "train") and one a measurement (kind "eval"), with the columns below; a key that
does not apply is absent in JSON and null in Parquet. A checkpoint remembers the length of the file at its
moment; a resumed run cuts the file back to it and writes the same rows again.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from dither.errors import UserError, require
from dither.files import disk_errors, finite, replacing

JSONL, PARQUET = "metrics.jsonl", "metrics.parquet"

# name -> (type, meaning)
COLUMNS = {
    "step": ("int64", "optimizer steps completed"),
    "tokens": ("int64", "training tokens consumed"),
    "kind": ("string", "train or eval"),
    "loss": ("double", "nats per token: of the step's batch before the step, or of the validation tokens"),
    "penalty": ("double", "what the method adds to the loss"),
    "lr": ("double", "learning rate of the step"),
    "grad_norm": ("double", "global gradient norm before clipping"),
    "view": ("string", "eval: full, recipe or cast"),
    "cast": ("string", "eval: quantizer of the cast"),
    "rounding": ("string", "eval: nearest_even or stochastic"),
    "draws": ("int64", "eval: random draws averaged"),
    "loss_sd": ("double", "eval: deviation of the loss between draws"),
    "bits_per_byte": ("double", "eval: bits per byte of validation text"),
    "threads": ("int64", "threads of torch"),
    "seconds": ("double", "time since this process started or resumed the run"),
    "step_seconds": ("double", "time of the step"),
    "tokens_per_s": ("double", "training tokens per second in the step"),
    "rss_mib": ("double", "peak resident memory of the process so far, MiB"),
}
# What may differ between an uninterrupted run and a resumed one.
TIME_COLUMNS = ("seconds", "step_seconds", "tokens_per_s", "rss_mib")


class Records:
    """Append rows to `metrics.jsonl` of a run directory; each row reaches the operating system at once."""

    def __init__(self, run_dir: Path, keep_bytes: int) -> None:
        """Open the file, cut back to `keep_bytes`."""
        self.path = run_dir / JSONL
        self._file = self.path.open("ab", buffering=0)
        self._file.truncate(keep_bytes)

    def write(self, row: dict[str, Any]) -> None:
        unknown = row.keys() - COLUMNS.keys()
        if unknown:
            raise ValueError(f"unknown metric columns {sorted(unknown)}; add them to COLUMNS")
        clean = {key: finite(value) for key, value in row.items() if value is not None}
        with disk_errors(self.path, "Free some space, then resume the run; its last checkpoint is valid."):
            line = memoryview(json.dumps(clean, allow_nan=False).encode() + b"\n")
            while line:  # a write may be short
                line = line[self._file.write(line) :]

    def sync(self) -> int:
        """Make the rows durable and return the length of the file in bytes."""
        os.fsync(self._file.fileno())
        return self.path.stat().st_size

    def close(self) -> None:
        self._file.close()


def read(run_dir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a run, finished or not. A last line that was cut off by a crash is left out."""
    path = Path(run_dir) / JSONL
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"{run_dir} is no run directory: it has no {JSONL}") from None
    return [json.loads(line) for line in lines[:-1] if line]


def last_row(run_dir: Path) -> dict[str, Any] | None:
    """The last whole row of a run, without reading the others; None where there is none yet."""
    try:
        with (run_dir / JSONL).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    return json.loads(lines[-1]) if lines else None


def write_parquet(run_dir: Path) -> None:
    """Write all rows as one table with the columns of COLUMNS."""
    require("pyarrow", "train")
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, (kind, _) in COLUMNS.items()])
    table = pyarrow.Table.from_pylist(read(run_dir), schema=schema)
    path = run_dir / PARQUET
    with disk_errors(path, "Free some space, then resume the run; its last checkpoint is valid."):
        with replacing(path) as aside:
            pyarrow.parquet.write_table(table, aside)


def reset_peak_memory() -> None:
    """Start a new measurement of the peak where the system allows it (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory_mib() -> float:
    """Peak resident memory since `reset_peak_memory` (Linux) or since the process began."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
