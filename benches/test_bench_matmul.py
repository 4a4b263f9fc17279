"""Emulated products beside torch's fp32 ones of the same shape, on one thread.

Run:  pytest benches/test_bench_matmul.py --benchmark-only --benchmark-timer=time.process_time -s

CPU time, interleaved with the peer, minima. Every result is first checked against the fp64 product of the
dequantized operands. The first two jobs have limits: a packed MXFP4 matrix times a vector (its point is that
it reads an eighth of the memory), and a product of plain fp32 matrices in the stated order. The others are
measured beside them. torch's products of bf16 and of its own int4 weights do other arithmetic: left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import dither

VECTOR, MATRIX = (1, 8192, 8192), (1024, 1024, 1024)
HOPPER = dither.Accumulator(13)

# shape (M, K, N), preset of the packed weights (None: plain fp32), accumulator, least ratio to torch
JOBS = [
    (VECTOR, "mxfp4", "fp32", 2.0),
    (MATRIX, None, "fp32", 0.5),
    (VECTOR, "nvfp4", "fp32", None),
    (VECTOR, "int4_g128", "fp32", None),
    (VECTOR, "mxfp8_e4m3", "fp32", None),
    (VECTOR, None, "fp32", None),
    (MATRIX, "mxfp4", "fp32", None),
    (MATRIX, "mxfp8_e4m3", "fp32", None),
    ((256, 256, 256), "mxfp8_e4m3", "fp64", None),
    ((256, 256, 256), "mxfp8_e4m3", "bf16", None),
    ((256, 256, 256), "mxfp8_e4m3", HOPPER, None),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    dither.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    dither.set_num_threads(None)


def ways(
    shape: tuple[int, int, int], preset: str | None, how: Any
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and torch's, after a check of ours."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, dtype=np.float32) for s in ((m, k), (n, k)))
    weights = w.T if preset is None else dither.quantize(w, preset).T
    right = w if preset is None else dither.fake_quant(w, preset)
    error = np.abs(
        dither.matmul(x, weights, accumulate=how) - x.astype(np.float64) @ right.T.astype(np.float64)
    )
    assert error.max() < (1e-3 if how in ("fp32", "fp64") else 2) * np.sqrt(k)
    tx, tw = torch.from_numpy(x), torch.from_numpy(w).T
    return lambda: dither.matmul(x, weights, accumulate=how), lambda: tx @ tw


def cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.parametrize(("shape", "preset", "how", "least"), JOBS, ids=lambda x: str(x).replace(" ", ""))
def test_products(benchmark, shape, preset, how, least):
    ours, torchs = ways(shape, preset, how)
    best = [float("inf"), float("inf")]
    for _ in range(12):
        best = [min(b, cpu_seconds(call)) for b, call in zip(best, (ours, torchs), strict=True)]
    ratio, macs = best[1] / best[0], shape[0] * shape[1] * shape[2]
    benchmark.group = f"product {shape}"
    benchmark.pedantic(ours, rounds=3, warmup_rounds=0)
    benchmark.extra_info.update(ratio_to_torch=round(ratio, 2), GMACs=round(macs / best[0] / 1e9, 1))
    verdict = "" if least is None else f"  least {least}: {'pass' if ratio >= least else 'FAIL'}"
    print(
        f"\n{shape} {preset or 'fp32'} {how}: {1e3 * best[0]:.2f} ms, torch fp32 {1e3 * best[1]:.2f} ms, "
        f"ratio {ratio:.2f}, {macs / best[0] / 1e9:.1f} GMAC/s{verdict}"
    )
    assert least is None or ratio >= least
