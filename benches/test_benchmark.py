"""The main kernels under pytest-benchmark, peers beside us: fake quantization, stochastic rounding, packing.

Run:  make bench-kernels        or        pytest benches --benchmark-only

A table a kernel, 4 MiB of fp32, one thread. For a look, and to compare two commits (`--benchmark-autosave`, then
`--benchmark-compare`): what is compared does not take turns here, as it does in `make bench-numbers`, which has
the verdicts. A way is first checked to do our work: bit for bit, or one of the two neighbours where its bits
are drawn otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import dither
import peers
from measure import Call, X, into, memcpy

pytestmark = pytest.mark.usefixtures("one_thread")

x = X[:1024, :1024].copy()
t = torch.from_numpy(x)
OURS, COPY, COMPILED = "dither", "memcpy of the input", "torch.compile into out="
EAGER = ("torch eager", "numpy + ml_dtypes", peers.TORCHAO, "gfloat")
FAKE = {
    "mxfp8_e4m3": EAGER,
    "mxfp4": EAGER,
    "int4_g128": EAGER[:2],
    "nvfp4": EAGER[:1],
    "fp8_e4m3": EAGER[:1],
}
STOCHASTIC = {"bf16": 16, "mxfp4": 8, "nvfp4": 8}  # bits


def table(rows: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("spec", "way"), [(spec, way) for spec in rows for way in rows[spec]])


def measured(benchmark: Callable[[Call], Any], ways: dict[str, Call], way: str) -> np.ndarray:
    """What the way gives; skips one whose library is not installed."""
    if way not in ways:
        pytest.skip(f"{way} is not installed")
    return np.asarray(benchmark(ways[way]))


@table({preset: (OURS, COPY, COMPILED, *others) for preset, others in FAKE.items()})
def test_fake_quant(benchmark, spec, way):
    benchmark.group = f"fake_quant {spec}"
    if way == COPY:
        benchmark(memcpy(x))
        return
    ways = {OURS: into(spec, x), COMPILED: peers.compiled(spec, x), **peers.eager(spec, x)}
    assert np.array_equal(measured(benchmark, ways, way), dither.fake_quant(x, spec)), "it does other work"


@table({spec: (OURS, COPY, *(peers.STOCHASTIC_BF16 if spec == "bf16" else ())) for spec in STOCHASTIC})
def test_stochastic_rounding(benchmark, spec, way):
    benchmark.group = f"stochastic rounding, {spec}, {STOCHASTIC[spec]} bits"
    if way == COPY:
        benchmark(memcpy(x))
        return
    q = dither.Quantizer(spec, rounding="stochastic", bits=STOCHASTIC[spec])
    ways = {OURS: into(q, x, seed=7)} | ({w: make(x) for w, make in peers.STOCHASTIC_BF16.items()})
    down, up = dither.neighbours(x, q)
    y = measured(benchmark, ways, way)
    assert ((y == down) | (y == up)).all(), "it does other work"


@table(
    {
        "mxfp8_e4m3": (OURS, COPY, peers.TORCHAO),
        "mxfp4": (OURS, COPY, peers.TORCHAO),
        "nvfp4": (OURS, COPY),
        "int4_g128": (OURS, COPY),
    }
)
def test_pack(benchmark, spec, way):
    benchmark.group = f"quantize to packed codes, {spec}"
    calls = {OURS: lambda: dither.quantize(x, spec), COPY: memcpy(x)}
    if (packer := peers.torchao_packer(spec)) is not None:
        calls[peers.TORCHAO] = lambda: packer(t)
    if way not in calls:
        pytest.skip(f"{way} is not installed")
    packed = benchmark(calls[way])
    if way != COPY:
        values = packed.dequantize() if way == OURS else packed.dequantize(torch.float32)
        assert np.array_equal(np.asarray(values), dither.fake_quant(x, spec)), "it does other work"
