"""The one way the benches of numbers measure: what is compared takes turns, and the fastest of each counts.

Machines are shared. What runs beside us disturbs neighbours in a round alike, and minima find quiet moments.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

import dither
from goals import Goal
from table import Row, Times, record

Call = Callable[[], Any]

ROUNDS = 30
SIZE = (4096, 4096)
X = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
"""64 MiB, which every job of the table works on unless its row says something else."""

TO_MEMCPY = "memcpy of the same 64 MiB / job"


def interleaved(
    calls: dict[str, Call], rounds: int = ROUNDS, clock: Callable[[], float] = time.process_time
) -> dict[str, Times]:
    """Every call once a round, after a round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if k > 0:
                seconds[name].append(clock() - start)
    return {name: Times(min(s), median(s)) for name, s in seconds.items()}


def memcpy(x: np.ndarray) -> Call:
    """libc's own, from `x` to an array that is kept."""
    copy = ctypes.CDLL(None).memcpy
    copy.restype = ctypes.c_void_p
    copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    out = np.ones_like(x)
    return lambda: copy(out.ctypes.data, x.ctypes.data, out.nbytes)


def in_numpys_memory(x: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor of two bytes an element in numpy's memory, which asks for huge pages as X does
    (torch's does not: a third of the time)."""
    return torch.from_numpy(x.view(torch.int16).numpy().copy()).view(x.dtype)


def into(q: str | dither.Quantizer, x: Any = X, axis: int = -1, **options: Any) -> Call:
    """Our fake quantization into a preallocated output."""
    q = dither.Quantizer(q) if isinstance(q, str) else q
    out = in_numpys_memory(x) if isinstance(x, torch.Tensor) else np.ones_like(x)
    return lambda: dither.fake_quant(x, q, axis=axis, out=out, **options)


def ratio(
    group: str, of: str, job: str, times: Times, base: Times, goal: Goal | None = None, note: str = ""
) -> Row:
    """Enter how many times as fast as its base a job is."""
    figures = base.least / times.least, base.median / times.median
    return record(Row(group, of, job, times, base, *figures, goal and goal.here(), note))


def cost(group: str, of: str, job: str, times: Times, base: Times, goal: Goal | None = None) -> Row:
    """Enter how many times as long as its base a job takes."""
    figures = times.least / base.least, times.median / base.median
    return record(Row(group, of, job, times, base, *figures, goal and goal.here()))


def against(
    group: str, of: str, job: str, call: Call, base: Call, goal: Goal | None = None, rounds: int = ROUNDS
) -> Row:
    """Measure a job beside another, and enter the ratio."""
    times = interleaved({"base": base, "job": call}, rounds)
    return ratio(group, of, job, times["job"], times["base"], goal)


def against_memcpy(
    group: str, job: str, call: Call, goal: Goal | None = None, note: str = "", rounds: int = ROUNDS
) -> Row:
    """Measure a job beside memcpy of `X`, and enter the ratio."""
    times = interleaved({"memcpy": memcpy(X), "job": call}, rounds)
    return ratio(group, TO_MEMCPY, job, times["job"], times["memcpy"], goal, note)
