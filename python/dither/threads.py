"""How many threads dither's own loops use."""

from __future__ import annotations

import os
import sys
from functools import lru_cache

from dither.errors import UserError
from dither.scaling import whole

_threads: int | None = None

MAX_THREADS = 256
"""More are never started (rust/quant/src/pool.rs)."""


def set_num_threads(n: int | None) -> None:
    """Use at most `n` threads in dither's own loops (None: torch's setting where torch is loaded, else every
    core). More than 256 count as 256.

    Results never depend on it. It holds for all threads of the process and for processes forked from it; a
    spawned process starts without it.
    """
    global _threads
    given = whole(n)
    if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):
        raise UserError(f"the number of threads is a positive integer or None, not {n!r}")
    _threads = None if given is None else min(given, MAX_THREADS)


def get_num_threads() -> int:
    """Threads that the next call uses at most."""
    if _threads is not None:
        return _threads
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return torch.get_num_threads()
    return _cores()


@lru_cache(maxsize=1)
def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
