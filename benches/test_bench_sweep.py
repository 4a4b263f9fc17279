"""Sizes from 4 KiB to 1 GiB: ordinary stores, stores past the caches, a fresh result, each alone and with the
matrix product that reads the result next (what a training step does).

Run:  make bench-numbers

The rule of rust/quant/src/stream.rs (past the caches from `_core.stream_threshold()` bytes of output on) may
not be slower than the other choice by more than `goals.STREAMING` at any size, in the sum of both uses: this
table is where the threshold comes from.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import dither
import goals
from dither import _core
from measure import Call, interleaved, memcpy, ratio
from table import Times

SIZES = sorted([1 << k for k in range(12, 31, 2)] + [32 << 20, 128 << 20])
COLUMNS = 16
"""Columns of the product's other operand: few, so that reading the result weighs."""
BATCH = 1 << 20
"""Bytes a measurement takes at least, in as many calls as that needs: the clock is coarse."""
WORK = 512 << 20
"""Bytes all rounds of a job take together."""

pytestmark = pytest.mark.usefixtures("one_thread")


def name_of(size: int) -> str:
    return f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"


def calls_for(x: np.ndarray, thresholds: dict[str, int]) -> dict[str, Call]:
    """Every way alone and with the product; all of them set the threshold they go by."""
    q, out, other = dither.Quantizer("mxfp8_e4m3"), np.ones_like(x), torch.ones(x.shape[1], COLUMNS)

    def quantized(threshold: int, out: np.ndarray | None) -> np.ndarray:
        _core.stream_threshold(threshold)
        return dither.fake_quant(x, q, out=out)

    calls: dict[str, Call] = {"memcpy": memcpy(x)}
    for way, threshold in thresholds.items():
        into = None if way == "fresh" else out
        calls[way] = lambda t=threshold, o=into: quantized(t, o)
        calls[f"{way} + product"] = lambda t=threshold, o=into: torch.from_numpy(quantized(t, o)) @ other
    return calls


def repeated(call: Call, times: int) -> Call:
    def batch() -> None:
        for _ in range(times):
            call()

    return batch


def total(*parts: Times) -> Times:
    return Times(sum(p.least for p in parts), sum(p.median for p in parts))


@pytest.mark.parametrize("size", SIZES, ids=name_of)
def test_sweep(size):
    own = _core.stream_threshold(0)  # asks the processor for its caches: not to be done while time is taken
    width = min(1024, size // 16)
    x = np.random.default_rng(0).standard_normal((size // 4 // width, width), dtype=np.float32)
    thresholds = {"ordinary": sys.maxsize, "streamed": 1, "by the rule": own, "fresh": own}
    each = max(1, BATCH // size)
    calls = {name: repeated(call, each) for name, call in calls_for(x, thresholds).items()}
    try:
        times = interleaved(calls, rounds=max(3, min(60, WORK // (size * each))))
    finally:
        _core.stream_threshold(0)
    times = {name: Times(t.least / each, t.median / each) for name, t in times.items()}
    for way in ("by the rule", "fresh", "by the rule + product", "fresh + product"):
        of = "memcpy of the same bytes / job"
        ratio("sweep", of, f"{name_of(size)}: {way}", times[way], times["memcpy"])
    streams = size >= own
    chosen, other = ("streamed", "ordinary") if streams else ("ordinary", "streamed")
    chosen_both, other_both = (total(times[w], times[f"{w} + product"]) for w in (chosen, other))
    gains = ", ".join(
        f"{times[other + use].least / times[chosen + use].least:.2f} {label}"
        for use, label in (("", "alone"), (" + product", "with the product"))
    )
    of = "stores not chosen / chosen, alone and with a product"
    ratio("the rule", of, f"{name_of(size)}: {chosen}", chosen_both, other_both, goals.STREAMING, gains)
