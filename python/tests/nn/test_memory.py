"""What a recipe costs in memory: at most one copy of one layer's operands beside what a plain model holds."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither.nn import scratch

TOKENS, NARROW, WIDE = 512, 128, 256
OPERANDS = 4 * (TOKENS * NARROW + TOKENS * WIDE + NARROW * WIDE)
"""Bytes of the input, the output's gradient and the weight of every layer."""


def peak(step) -> int:
    """The most bytes that were allocated at a time, above those before."""
    scratch._memory.__init__()  # what earlier tests have left does not count as being there
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        step()
    profiler: Any = profile.profiler
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def stepped(recipe: str) -> int:
    """The peak of a forward and a backward through four layers; gradients are there already."""
    torch.manual_seed(0)
    widths = (NARROW, WIDE, NARROW, WIDE, NARROW)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    model = nn.Sequential(*(m for layer in layers for m in (layer, nn.GELU())))
    dnn.prepare_(model, recipe, steps=10)
    x = torch.randn(TOKENS, NARROW, requires_grad=True)

    def step() -> None:
        model(x).square().mean().backward()

    step()
    return peak(step)


@pytest.fixture(scope="module")
def plain() -> int:
    return stepped("fp32")


RECIPES = ("mxfp8", "mxfp4_rht_sr", "int4", "int4_w4a4", "fp8_current", "fp8_delayed", "fp8_blockwise",
           "nvfp4_pretraining", "tetrajet", "quartet", "quartet2")  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_copy_of_a_layers_operands_at_a_time(recipe, plain):
    extra = stepped(recipe) - plain
    assert 0 < extra <= OPERANDS, extra / OPERANDS


def test_weights_alone_cost_a_weight(plain):
    """And not the weights of all layers, though the backward multiplies by what the forward did."""
    assert stepped("int4") - plain <= 4 * NARROW * WIDE + 4096


def convolved(recipe: str, layers: int) -> int:
    """The peak of a forward and a backward through convolutions of 3 x 3 taps."""
    torch.manual_seed(0)
    found = [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False) for _ in range(layers)]
    model = nn.Sequential(*(m for layer in found for m in (layer, nn.GELU())))
    dnn.prepare_(model, recipe, steps=10)
    x = torch.randn(2, CHANNELS, SIDE, SIDE, requires_grad=True)

    def step() -> None:
        model(x).square().mean().backward()

    step()
    return peak(step)


CHANNELS, SIDE = 32, 24
X, W = 4 * 2 * CHANNELS * SIDE**2, 4 * 9 * CHANNELS**2
UNFOLDED = 9 * X + X + W
"""Bytes of the operands of the product: what lies under the kernel, the output's gradient and the weight."""


@pytest.mark.parametrize("recipe", ["mxfp8", "mxfp4_rht_sr", "int4_w4a4", "quartet", "int4"])
def test_convolutions_unfold_one_layer_at_a_time(recipe):
    """However deep the model is; beside the operands the gradient of what was unfolded, and Quartet's mask of
    a byte an element. For the weight alone: a weight."""
    shallow, deep = (convolved(recipe, n) - convolved("fp32", n) for n in (2, 5))
    assert deep - shallow < X / 2
    mask = 9 * X // 4 if recipe == "quartet" else 0
    assert 0 < deep <= (W + 4096 if recipe == "int4" else UNFOLDED + 9 * X + mask), deep / UNFOLDED
