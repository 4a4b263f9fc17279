"""What a fresh result costs beyond `out=`: page faults, on 64 MiB of fp32, MXFP8, one thread.

Run:  pytest benches/test_bench_fresh.py --benchmark-only --benchmark-timer=time.process_time -s

CPU time, because page faults are paid in the kernel; compare minima. A fresh numpy or torch result may cost
at most LIMIT more than the same call with `out=`. `torch.empty` without the request for huge pages stands
beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dither

LIMIT = 12e-3
"""Seconds a fresh 64 MiB may cost more than `out=`; the goal is half of it."""

X = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
Q = dither.Quantizer("mxfp8_e4m3")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    dither.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    dither.set_num_threads(None)


def ways(library: str) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """The call with a fresh result, and what it is compared with."""
    if library == "numpy":
        out = np.empty_like(X)
        return lambda: dither.fake_quant(X, Q), {"out=": lambda: dither.fake_quant(X, Q, out=out)}
    x = torch.from_numpy(X)
    out_t = torch.empty_like(x)
    return lambda: dither.fake_quant(x, Q), {
        "out=": lambda: dither.fake_quant(x, Q, out=out_t),
        "torch.empty": lambda: dither.fake_quant(x, Q, out=torch.empty_like(x)),
    }


def cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_fresh_result_costs_little_more_than_out(benchmark, library):
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("the kernel offers no huge pages")
    fresh, others = ways(library)
    best = dict.fromkeys(["fresh", *others], float("inf"))
    for _ in range(60):  # interleaved, so that a slow moment of the machine meets all of them
        for name, call in {"fresh": fresh, **others}.items():
            best[name] = min(best[name], cpu_seconds(call))
    benchmark.group = "fresh 64 MiB, MXFP8"
    benchmark.pedantic(fresh, rounds=10, warmup_rounds=1)
    extra = {f"ms more than {name}": round(1e3 * (best["fresh"] - best[name]), 1) for name in others}
    benchmark.extra_info.update(extra)
    print(f"\n{library}: a fresh 64 MiB costs {extra} (limit over out=: {1e3 * LIMIT:.0f} ms)")
    assert best["fresh"] - best["out="] <= LIMIT
