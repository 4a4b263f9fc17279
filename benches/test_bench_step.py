"""One emulated training step of a GPT against the same step in fp32, alternating in one process, and what a
recipe costs by our kernels against what it costs in pure torch, eager and compiled.

Processor seconds of one thread; `extra_info` holds the ratio of the fastest steps and the median of the
ratios of neighbouring ones. What else runs on the machine slows both.

    pytest benches/test_bench_step.py --benchmark-only
"""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dither.nn as dnn
from dither.models.gpt import GPT, GPTConfig
from dither.nn import kernels, ops, scratch, twin

LIMITS = {"mxfp8": 1.15, "mxfp4_rht_sr": 1.35, "int4": 1.05}
"""Of the step of 10M parameters."""
SHAPES = {
    "quickstart": GPTConfig(layers=3, width=96, heads=3, context=128),
    "1M": GPTConfig(layers=4, width=128, heads=4, context=256),
    "10M": GPTConfig(layers=6, width=384, heads=6, context=256),
}
BATCH, VOCABULARY = 8, 256
TIMES_LESS = {"compiled": 4, "eager": 8}
"""Overheads of pure torch over ours, at least."""


class Step:
    """A model, its optimizer and one batch; calling it makes one optimizer step."""

    def __init__(self, config: GPTConfig, recipe: str) -> None:
        generator = torch.Generator().manual_seed(0)
        self.model = dnn.prepare_(GPT(config, VOCABULARY, generator), recipe)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.tokens = torch.randint(0, VOCABULARY, (BATCH, config.context), generator=generator)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.tokens).flatten(0, 1), self.tokens.flatten()).backward()
        self.optimizer.step()


def timed(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each one's steps, taken in turns so that a disturbance meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return times


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("recipe", ["mxfp8", "mxfp4", "mxfp4_rht_sr", "nvfp4", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_step(benchmark, shape, recipe):
    steps = {name: Step(SHAPES[shape], name) for name in ("fp32", recipe)}
    timed(steps, rounds=1)
    times = timed(steps, rounds=4 if shape == "10M" else 10)
    benchmark.group = f"step {shape}"
    ratio = round(min(times[recipe]) / min(times["fp32"]), 3)
    each = [b / a for a, b in zip(times["fp32"], times[recipe], strict=True)]
    benchmark.extra_info.update({f"{name}_ms": round(min(t) * 1e3, 1) for name, t in times.items()})
    benchmark.extra_info |= {"ratio": ratio, "median_ratio": round(statistics.median(each), 3)}
    benchmark.extra_info["parameters"] = steps["fp32"].model.num_params
    benchmark.pedantic(steps[recipe], rounds=1)
    if shape == "10M" and recipe in LIMITS:
        assert ratio <= LIMITS[recipe], f"a step under {recipe} costs {ratio}x the fp32 step"


@contextmanager
def in_pure_torch():
    """Inside the block every fake quantization is the pure-torch twin."""

    def apply(x, spec, axis=-1, rng=None, out_dtype=None, offset=0, random=None):
        return twin.fake_quant(
            x, kernels.parse(spec), axis, rng=rng, offset=offset, random=random, out_dtype=out_dtype
        )

    before = ops.apply, scratch.available
    ops.apply, scratch.available = apply, lambda x: False
    try:
        yield
    finally:
        ops.apply, scratch.available = before


def block(recipe: str) -> nn.Module:
    """The MLP of a block of the model of 10M parameters."""
    torch.manual_seed(0)
    return dnn.prepare_(nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384)), recipe)


def passed(model: Callable[[torch.Tensor], torch.Tensor], pure: bool) -> Callable[[], None]:
    """A forward and a backward over 2048 tokens."""
    x = torch.randn(BATCH, 256, 384, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def run() -> None:
        if not pure:
            model(x).square().mean().backward()
            return
        with in_pure_torch():
            model(x).square().mean().backward()

    return run


@pytest.mark.parametrize("recipe", ["mxfp8", "int4"])
def test_overhead_over_pure_torch(benchmark, recipe):
    """The same recipe by our kernels and by torch's own operations, each over fp32 in the same mode."""
    torch._dynamo.reset()
    runs = {
        "fp32": passed(block("fp32"), False),
        "ours": passed(block(recipe), False),
        "eager": passed(block(recipe), True),
        "fp32 compiled": passed(torch.compile(block("fp32"), fullgraph=True), False),
        "compiled": passed(torch.compile(block(recipe), fullgraph=True), True),
    }
    timed(runs, rounds=2)
    best = {name: min(times) for name, times in timed(runs, rounds=5).items()}
    ours = best["ours"] - best["fp32"]
    times = {
        "compiled": (best["compiled"] - best["fp32 compiled"]) / ours,
        "eager": (best["eager"] - best["fp32"]) / ours,
    }
    benchmark.group = "overhead of a recipe, pure torch over ours"
    benchmark.extra_info.update({f"{name}_ms": round(1e3 * t, 2) for name, t in best.items()})
    benchmark.extra_info.update({f"{name}/ours": round(value, 2) for name, value in times.items()})
    benchmark.pedantic(runs["ours"], rounds=1)
    for name, least in TIMES_LESS.items():
        assert times[name] >= least, (
            f"{name} torch costs {times[name]:.2f} times ours; at least {least} is meant"
        )
