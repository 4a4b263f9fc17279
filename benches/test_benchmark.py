"""What is called most, under pytest-benchmark, peers beside us: quantization, codes, scores, a fit, steps.

Run:  make bench        or        pytest benches --benchmark-only

A table a job, one thread, 4 MiB of fp32 for the numbers. For a look, and to compare two commits
(PYTEST_ARGS=--benchmark-autosave, then --benchmark-compare): what is compared does not take turns here, as it
does in the other benches, which have the verdicts (`make bench-numbers`, `bench-scores`, `bench-fits`,
`bench-steps`). Every way is checked to do our work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import dither
import peers
from dither import laws, scores
from measure import Call, X, into, memcpy
from test_bench_fits import START, TRUTH, Peer, made
from test_bench_scores import FIVE, careful_torch, chunked_numpy
from test_bench_step import SHAPES, Step

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


@pytest.mark.parametrize("way", [OURS, COPY, "torch", "ml_dtypes"])
@pytest.mark.parametrize("job", ["encode", "decode"])
def test_codes(benchmark, job, way):
    benchmark.group = f"{job} e4m3"
    codes = dither.encode(x, "e4m3")
    theirs, float8 = codes.view(ml_dtypes.float8_e4m3fn), torch.from_numpy(codes).view(torch.float8_e4m3fn)
    out = np.ones_like(codes if job == "encode" else x)
    ways: dict[str, Call] = {
        "encode": {
            OURS: lambda: dither.encode(x, "e4m3", out=out),
            "torch": lambda: t.to(torch.float8_e4m3fn).view(torch.uint8),
            "ml_dtypes": lambda: x.astype(ml_dtypes.float8_e4m3fn).view(np.uint8),
        },
        "decode": {
            OURS: lambda: dither.decode(codes, "e4m3", out=out),
            "torch": lambda: float8.to(torch.float32),
            "ml_dtypes": lambda: theirs.astype(np.float32),
        },
    }[job]
    if way == COPY:
        benchmark(memcpy(x))
        return
    wanted = codes if job == "encode" else dither.decode(codes, "e4m3")
    assert np.array_equal(measured(benchmark, ways, way), wanted), "it does other work"


@pytest.mark.parametrize("way", [OURS, "torch", "numpy in chunks", "sum of the logits"])
def test_scores(benchmark, way):
    """Loss, confidence, entropy, margin and EL2N of 20,000 examples and 100 classes."""
    benchmark.group = "five scores of 20,000 x 100 logits"
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((20_000, 100), dtype=np.float32), rng.integers(0, 100, 20_000)
    tz, ty = torch.from_numpy(z), torch.from_numpy(y)
    ways: dict[str, Call] = {
        OURS: lambda: scores.logit_scores(z, y, FIVE),
        "torch": lambda: careful_torch(tz, ty),
        "numpy in chunks": lambda: chunked_numpy(z, y),
        "sum of the logits": lambda: z.sum(),
    }
    found = benchmark(ways[way])
    if way == "torch":
        ours = scores.logit_scores(z, y, FIVE)
        for name, theirs in zip(FIVE, found, strict=True):
            np.testing.assert_allclose(theirs.numpy(), ours[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("way", [OURS, "scipy's BFGS, one start near the answer"])
def test_fit(benchmark, way):
    """Ours starts from a grid and ends with a certificate; scipy gets a start near the answer."""
    benchmark.group = "Chinchilla's law of 240 runs, Huber's loss of logarithms"
    data = made("chinchilla", TRUTH, 240)
    peer, rows = Peer(data), np.arange(240)
    if way == OURS:
        fit = benchmark(lambda: laws.fit("chinchilla", data))
        assert fit.value <= peer.fit(START, rows) * (1 + 1e-9)
    else:
        benchmark(lambda: peer.fit(START, rows))


@pytest.mark.parametrize("recipe", ["fp32", "bf16", "mxfp8", "mxfp4", "mxfp4_rht_sr", "nvfp4", "int4"])
def test_training_step(benchmark, recipe):
    """Forward, backward and AdamW of the quickstart's model on 8 x 128 tokens."""
    step = Step(SHAPES["quickstart"], recipe)
    benchmark.group = f"training step of a GPT of {step.parameters / 1e6:.1f}M parameters"
    benchmark(step)
    assert all(p.isfinite().all() for p in step.model.parameters())
