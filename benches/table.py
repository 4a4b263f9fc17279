"""What the benches of numbers share: interleaved timing, and the table `make bench-numbers` ends with.

A bench file measures with `interleaved` and calls `record`; `conftest.py` prints the rows.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

ROUNDS = 40


@dataclass(frozen=True)
class Row:
    """`figure` is a ratio (`of` says of what to what). It fails below `fail`; None: it is only shown."""

    group: str
    job: str
    figure: float
    of: str
    seconds: tuple[float, float]
    goal: float | None = None
    fail: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.fail is None:
            return ""
        if self.figure < self.fail:
            return "FAIL"
        return "pass" if self.goal is None or self.figure >= self.goal else "pass, below the goal"


ROWS: list[Row] = []


def record(row: Row) -> Row:
    """Put a row into the table; the test that measured it then asserts `row.verdict != "FAIL"`."""
    ROWS.append(row)
    return row


def interleaved(
    calls: dict[str, Callable[[], object]],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, tuple[float, float]]:
    """Minimum and median seconds of each call, all of them once a round, after a round that is not counted.

    Machines are shared: what runs beside us disturbs neighbours in a round alike, minima find quiet moments.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if k > 0:
                times[name].append(clock() - start)
    return {name: (min(t), median(t)) for name, t in times.items()}


def memcpy(x: np.ndarray) -> Callable[[], object]:
    """libc's own, from `x` to an array that is kept."""
    copy = ctypes.CDLL(None).memcpy
    copy.restype = ctypes.c_void_p
    copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    out = np.ones_like(x)
    return lambda: copy(out.ctypes.data, x.ctypes.data, out.nbytes)


def text(rows: list[Row]) -> str:
    """The table as text."""
    lines = [f"{'job':<44}{'min ms':>10}{'median':>10}{'figure':>9}  {'goal':>6}{'fails':>7}  verdict"]
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(f"-- {group} ({row.of})")
        goal = "" if row.goal is None else f"{row.goal:.2f}"
        fail = "" if row.fail is None else f"{row.fail:.2f}"
        low, middle = (1e3 * s for s in row.seconds)
        lines.append(
            f"{row.job:<44}{low:>10.3f}{middle:>10.3f}{row.figure:>9.2f}  {goal:>6}{fail:>7}  {row.verdict}"
            + (f"  ({row.note})" if row.note else "")
        )
    return "\n".join(lines)
