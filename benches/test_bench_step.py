"""One emulated training step of a small GPT against the same step in fp32, alternating in one process.

An MXFP8 step may cost at most 1.5x the fp32 step. `extra_info` holds the ratio of the fastest steps. What
else runs on the machine slows both; with two threads on two busy cores the ratio means nothing.

    pytest benches/test_bench_step.py --benchmark-only
"""

import time

import pytest
import torch
from torch.nn import functional as F

import dither.nn as dnn
from dither.models.gpt import GPT, GPTConfig

LIMIT = 1.5
SHAPES = {
    "quickstart": GPTConfig(layers=3, width=96, heads=3, context=128),
    "1M": GPTConfig(layers=4, width=128, heads=4, context=256),
    "3M": GPTConfig(layers=4, width=256, heads=4),
}
BATCH, VOCABULARY = 16, 256


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


def fastest(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Seconds of each one's fastest step, taken in turns so that a disturbance meets all of them."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n}-threads")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("recipe", ["mxfp8", "mxfp4", "nvfp4", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_step(benchmark, threads, shape, recipe):
    steps = {name: Step(SHAPES[shape], name) for name in ("fp32", recipe)}
    fastest(steps, rounds=1)
    best = fastest(steps, rounds=10)
    benchmark.group = f"step {shape} {threads} threads"
    benchmark.extra_info["fp32_ms"] = round(best["fp32"] * 1e3, 1)
    benchmark.extra_info[f"{recipe}_ms"] = round(best[recipe] * 1e3, 1)
    benchmark.extra_info["ratio"] = ratio = round(best[recipe] / best["fp32"], 3)
    benchmark.pedantic(steps[recipe], rounds=3)
    if recipe == "mxfp8":
        assert ratio <= LIMIT, f"an MXFP8 step costs {ratio}x the fp32 step; the limit is {LIMIT}x"
