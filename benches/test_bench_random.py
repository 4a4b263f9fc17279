"""Stochastic rounding of a 4096 x 4096 fp32 array on one thread, against libc's memcpy of the same array.

Run:  make bench-numbers

Philox4x32-10, addressed bits, `out=` preallocated. The peers draw other bits of the same distribution: each
is first checked to return one of the two neighbours of every element. Figures of AVX2 are the same kernels
forced to it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import dither
from dither import _core
from table import Row, interleaved, memcpy, record

SIZE = (4096, 4096)
X = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
Q = dither.Quantizer
pytestmark = pytest.mark.usefixtures("one_thread")


def stochastic(spec: str, bits: int) -> dither.Quantizer:
    return Q(spec, rounding="stochastic", bits=bits)


JOBS = {
    "bf16, 16 bits": (stochastic("bf16", 16), 1.3, 0.9),
    "cast to e4m3, 8 bits": (Q(format="e4m3", rounding="stochastic", bits=8), 1.25, 0.9),
    "mxfp4, 8 bits": (stochastic("mxfp4", 8), 1.0, 0.75),
    "cast to e4m3, 32 bits": (Q(format="e4m3", rounding="stochastic", bits=32), 0.57, 0.4),
}
OTHERS = {
    "nvfp4, 8 bits": stochastic("nvfp4", 8),
    "int4_g128, 8 bits": stochastic("int4_g128", 8),
    "mxfp8_e4m3, 8 bits": stochastic("mxfp8_e4m3", 8),
    "mxfp4, 32 bits": stochastic("mxfp4", 32),
    "mxfp4, 5 bits": stochastic("mxfp4", 5),
}


def into(q: dither.Quantizer, axis: int = -1, offset: int = 0) -> Callable[[], object]:
    out = np.ones_like(X)
    return lambda: dither.fake_quant(X, q, axis=axis, seed=7, offset=offset, out=out)


def measure(
    job: str, call: Callable[[], object], goal: float | None = None, fail: float | None = None, note: str = ""
) -> Row:
    times = interleaved({"copy": memcpy(X), "job": call}, rounds=20)
    ratio = times["copy"][0] / times["job"][0]
    return record(Row("stochastic rounding", job, ratio, "memcpy / job", times["job"], goal, fail, note))


@pytest.mark.parametrize("job", JOBS)
def test_stochastic(job):
    q, goal, fail = JOBS[job]
    row = measure(job, into(q), goal, fail)
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("job", JOBS)
def test_stochastic_forced_to_avx2(job):
    q, goal, fail = JOBS[job]
    before = _core.simd_level()
    if _core.simd_level("avx2") != "avx2":
        pytest.skip("no AVX2 here")
    try:
        row = measure(f"{job}, AVX2", into(q), 0.7 * goal, 0.7 * fail)
    finally:
        _core.simd_level(before)
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("job", OTHERS)
def test_other_formats_and_widths(job):
    measure(job, into(OTHERS[job]))


def test_first_axis_and_offsets():
    q = JOBS["mxfp4, 8 bits"][0]
    measure("mxfp4, 8 bits, axis 0", into(q, axis=0))
    measure("mxfp4, 8 bits, offset within a tile", into(q, offset=5))


def numpy_bf16(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add 16 random bits and cut off: the recipe users write."""
    bits = generator.integers(0, 1 << 16, x.shape, np.uint16)
    return ((x.view(np.uint32) + bits) & np.uint32(0xFFFF0000)).view(np.float32)


def torch_bf16(x: torch.Tensor) -> torch.Tensor:
    bits = torch.randint(0, 1 << 16, x.shape, dtype=torch.int32)
    return ((x.view(torch.int32) + bits) & -65536).view(torch.float32)


def test_peers():
    generator = np.random.Generator(np.random.Philox(1))
    compiled = torch.compile(lambda a, o: o.copy_(torch_bf16(a)))
    t, out = torch.from_numpy(X), torch.empty(SIZE)
    ways: dict[str, Callable[[], object]] = {
        "bf16, 16 bits: numpy, its Philox": lambda: numpy_bf16(X, generator),
        "bf16, 16 bits: torch eager": lambda: torch_bf16(t),
        "bf16, 16 bits: torch.compile into out=": lambda: compiled(t, out),
    }
    down, up = dither.neighbours(X, "bf16")
    for name, way in ways.items():
        y = np.asarray(way())
        assert ((y == down) | (y == up)).all(), f"{name} does different work"
        assert 0.4 < (y == up)[down < up].mean() < 0.6, name
        measure(name, way, note="draws other bits")
