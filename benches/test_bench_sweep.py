"""Sizes from 4 KiB to 1 GiB: ordinary stores, stores past the caches, a fresh result, each alone and with the
matrix product that reads the result next (what a training step does).

Run:  make bench-numbers

The rule of rust/quant/src/stream.rs (past the caches from `_core.stream_threshold()` bytes of output on) must
not be slower than the other choice by more than TOLERANCE at any size, in the sum of both uses: this table is
where the threshold comes from.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

import dither
from dither import _core
from table import Row, interleaved, memcpy, record

SIZES = [1 << k for k in range(12, 31, 2)] + [32 << 20, 128 << 20]
COLUMNS = 16
"""Columns of the product's other operand: few, so that reading the result weighs."""
TOLERANCE = 1.3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", sorted(SIZES), ids=lambda s: f"{s >> 10} KiB")
def test_sweep(size):
    width = min(1024, size // 16)
    x = np.random.default_rng(0).standard_normal((size // 4 // width, width), dtype=np.float32)
    q, out, other = dither.Quantizer("mxfp8_e4m3"), np.ones_like(x), torch.ones(width, COLUMNS)

    def quantized(threshold: int) -> np.ndarray:
        _core.stream_threshold(threshold)
        return dither.fake_quant(x, q, out=out)

    def product(y: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(y) @ other

    ordinary, streamed = sys.maxsize, 1
    calls = {
        "memcpy": memcpy(x),
        "ordinary": lambda: quantized(ordinary),
        "streamed": lambda: quantized(streamed),
        "by the rule": lambda: quantized(0),
        "fresh": lambda: dither.fake_quant(x, q),
        "ordinary + product": lambda: product(quantized(ordinary)),
        "streamed + product": lambda: product(quantized(streamed)),
    }
    rounds = max(7, min(300, (256 << 20) // size))
    try:
        times = interleaved(calls, rounds)
    finally:
        own = _core.stream_threshold(0)
    name = f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB"
    for job, seconds in times.items():
        record(Row(f"sweep, {name}", job, times["memcpy"][0] / seconds[0], "memcpy / job", seconds))
    chosen, other_way = ("streamed", "ordinary") if size >= own else ("ordinary", "streamed")
    both = {way: times[way][0] + times[f"{way} + product"][0] for way in (chosen, other_way)}
    assert both[chosen] <= TOLERANCE * both[other_way], both
