"""One emulated training step against the same step in fp32, and what a recipe costs by our kernels against
what it costs in pure torch, eager and compiled.

Processor time of one thread; steps take turns, and the fastest of each count.

    make bench-steps
"""

from collections.abc import Callable
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dither.nn as dnn
from dither.models.gpt import GPT, GPTConfig
from dither.nn import kernels, ops, scratch, transforms, twin
from goals import COMPILED, EAGER, STEPS, TINY
from measure import cost, interleaved
from table import Row, Times, record

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = {
    "quickstart": GPTConfig(layers=3, width=96, heads=3, context=128),
    "1M": GPTConfig(layers=4, width=128, heads=4, context=256),
    "10M": GPTConfig(layers=6, width=384, heads=6, context=256),
}
TWO_LAYERS = GPTConfig(layers=2, width=384, heads=6, context=256)
BATCH, VOCABULARY = 8, 256
OVER_FP32 = "step under the recipe / step in fp32"


class Step:
    """A GPT, its optimizer and one batch; calling it makes one optimizer step."""

    def __init__(self, config: GPTConfig, recipe: str) -> None:
        generator = torch.Generator().manual_seed(0)
        model = GPT(config, VOCABULARY, generator)
        self.parameters, self.model = model.num_params, dnn.prepare_(model, recipe, steps=1000)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.tokens = torch.randint(0, VOCABULARY, (BATCH, config.context), generator=generator)
        self.count = 0

    def __call__(self) -> None:
        dnn.set_clock_(self.model, self.count)
        self.count += 1
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.tokens).flatten(0, 1), self.tokens.flatten()).backward()
        self.optimizer.step()


@pytest.mark.parametrize("recipe", ["mxfp8", "mxfp4", "mxfp4_rht_sr", "nvfp4", "int4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_step(shape, recipe):
    steps = {name: Step(SHAPES[shape], name) for name in ("fp32", recipe)}
    times = interleaved(dict(steps), rounds=5 if shape == "10M" else 12)
    size = f"GPT {shape}, {steps['fp32'].parameters / 1e6:.1f}M parameters"
    goal = STEPS.get(recipe) if shape == "10M" else None
    cost(size, OVER_FP32, recipe, times[recipe], times["fp32"], goal)


@pytest.mark.parametrize(
    "recipe", [r for r in dnn.Recipe.presets() if r not in ("fp32", "fp8_blockwise_promoted")]
)
def test_recipe(recipe):
    """The cost lines of docs/recipes."""
    times = interleaved({name: Step(TWO_LAYERS, name) for name in ("fp32", recipe)}, rounds=8)
    cost("every recipe, GPT of two layers", OVER_FP32, recipe, times[recipe], times["fp32"])


class Tiny:
    """Three linears 32 wide on 16 rows: what is measured is what a call costs."""

    def __init__(self, recipe: str) -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(32, 32) for _ in range(3)]
        self.model = dnn.prepare_(nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU()))), recipe)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.x = torch.randn(16, 32)

    def __call__(self) -> None:
        for step in range(100):
            dnn.set_clock_(self.model, step)
            self.optimizer.zero_grad()
            self.model(self.x).square().mean().backward()
            self.optimizer.step()


@pytest.mark.parametrize("recipe", ["mxfp8", "int4", "mxfp4_rht_sr", "nvfp4", "fp8_current", "fp8_delayed"])
def test_tiny(recipe):
    times = interleaved({name: Tiny(name) for name in ("fp32", recipe)})
    cost(
        "three linears 32 wide, 100 steps", OVER_FP32, recipe, times[recipe], times["fp32"], TINY.get(recipe)
    )


class Convolutions:
    """Three convolutions of 32 channels and 3 x 3 taps on 8 images of 32 x 32: a forward and a backward."""

    def __init__(self, recipe: str) -> None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(3)]
        self.model = nn.Sequential(*(m for layer in layers for m in (layer, nn.GELU())))
        dnn.prepare_(self.model, recipe)
        self.x = torch.randn(8, 32, 32, 32)

    def __call__(self) -> None:
        self.model(self.x).square().mean().backward()


@pytest.mark.parametrize("recipe", ["int4", "mxfp8"])
def test_convolutions(recipe):
    times = interleaved({name: Convolutions(name) for name in ("fp32", recipe)}, rounds=8)
    cost("three convolutions of 3 x 3 taps", OVER_FP32, recipe, times[recipe], times["fp32"])


@contextmanager
def in_pure_torch():
    """Inside the block every fake quantization and every rotation is the pure-torch twin."""

    def apply(x, spec, axis=-1, rng=None, out_dtype=None, offset=0, random=None):
        return twin.fake_quant(
            x, kernels.parse(spec), axis, rng=rng, offset=offset, random=random, out_dtype=out_dtype
        )

    before = ops.apply, scratch.available, transforms.rotate
    ops.apply, scratch.available, transforms.rotate = apply, lambda x: False, transforms.twin
    try:
        yield
    finally:
        ops.apply, scratch.available, transforms.rotate = before


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


@pytest.mark.parametrize("recipe", ["mxfp8", "mxfp4_rht_sr", "int4"])
def test_overhead_over_pure_torch(recipe):
    """The same recipe by our kernels and by torch's own operations, each over fp32 in the same mode."""
    torch._dynamo.reset()
    runs = {
        "fp32": passed(block("fp32"), False),
        "ours": passed(block(recipe), False),
        "eager": passed(block(recipe), True),
        "fp32 compiled": passed(torch.compile(block("fp32"), fullgraph=True), False),
        "compiled": passed(torch.compile(block(recipe), fullgraph=True), True),
    }
    times = interleaved(runs, rounds=8)
    ours = overhead(times["ours"], times["fp32"])
    for name, base, goal in (("compiled", "fp32 compiled", COMPILED), ("eager", "fp32", EAGER)):
        theirs = overhead(times[name], times[base])
        figures = theirs.least / ours.least, theirs.median / ours.median
        of = "overhead over fp32 of pure torch / ours"
        record(Row("MLP of the 10M model", of, f"{recipe}, {name}", theirs, ours, *figures, goal.here()))


def overhead(times: Times, base: Times) -> Times:
    return Times(times.least - base.least, times.median - base.median)
