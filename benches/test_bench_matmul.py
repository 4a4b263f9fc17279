"""Emulated products beside torch's fp32 ones of the same shape, on one thread.

Run:  make bench-numbers

Every result is first checked against the fp64 product of the dequantized operands. Two jobs have goals: a
packed MXFP4 matrix times a vector (its point is that it reads an eighth of the memory), and a product of
plain fp32 matrices in the stated order. torch's products of bf16 and of its own int4 weights do other
arithmetic: left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import dither
import goals
from measure import Call, against

VECTOR, MATRIX, SMALL = (1, 8192, 8192), (1024, 1024, 1024), (256, 256, 256)
HOPPER = dither.Accumulator(13)
pytestmark = pytest.mark.usefixtures("one_thread")

# shape (M, K, N), preset of the packed weights (None: plain fp32), accumulator
GOALS = {
    (VECTOR, "mxfp4", "fp32"): goals.GEMV_MXFP4,
    (MATRIX, None, "fp32"): goals.GEMM,
}
OTHERS = [
    (VECTOR, "nvfp4", "fp32"),
    (VECTOR, "int4_g128", "fp32"),
    (VECTOR, "mxfp8_e4m3", "fp32"),
    (VECTOR, None, "fp32"),
    (MATRIX, "mxfp4", "fp32"),
    (MATRIX, "mxfp8_e4m3", "fp32"),
    (SMALL, "mxfp8_e4m3", "fp64"),
    (SMALL, "mxfp8_e4m3", "bf16"),
    (SMALL, "mxfp8_e4m3", HOPPER),
]


def ways(shape: tuple[int, int, int], preset: str | None, how: Any) -> tuple[Call, Call]:
    """Ours and torch's, after a check of ours."""
    m, k, n = shape
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, dtype=np.float32) for s in ((m, k), (n, k)))
    weights = w.T if preset is None else dither.quantize(w, preset).T
    right = w if preset is None else dither.fake_quant(w, preset)
    exact = x.astype(np.float64) @ right.T.astype(np.float64)
    error = np.abs(dither.matmul(x, weights, accumulate=how) - exact)
    assert error.max() < (1e-3 if how in ("fp32", "fp64") else 2) * np.sqrt(k)
    tx, tw = torch.from_numpy(x), torch.from_numpy(w).T
    return lambda: dither.matmul(x, weights, accumulate=how), lambda: tx @ tw


@pytest.mark.parametrize("job", [*GOALS, *OTHERS], ids=str)
def test_products(job):
    (m, k, n), preset, how = job
    name = f"{m} x {k} x {n}, {preset or 'plain fp32'}, {how if isinstance(how, str) else '13 bits'}"
    against("products", "torch's fp32 product / job", name, *ways(*job), GOALS.get(job), rounds=12)
