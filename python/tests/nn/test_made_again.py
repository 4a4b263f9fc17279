"""What the backward makes again of the forward's operands, and the memory in which it does."""

from typing import Any

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither.nn import scratch

ROTATED_AGAIN = dnn.Recipe(
    fprop_x="mxfp4",
    fprop_w="mxfp4",
    dgrad_w=dnn.Operand("mxfp4", again=True),
    wgrad_x=dnn.Operand("mxfp4", again=True),
    dgrad_hadamard=dnn.Hadamard(64),
    wgrad_hadamard=dnn.Hadamard(16),
    name="rotated_again",
)
MASKED = dnn.Recipe(  # the mask of a factor whose memory wgrad has used for other values
    fprop_x=dnn.Operand("mxfp4", rule="quest"), dgrad_w="mxfp4", wgrad_x="mxfp4", name="masked"
)
PRECISIONS = [
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, None),
    (torch.float16, None),
    (torch.float32, None),
]


def linears() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 256)), torch.randn(4, 32, 256)


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    """Of 128 columns, as long as the longest rotation, and of groups; 144 rows and 50."""
    first, second = nn.Conv2d(32, 16, 2, padding=1), nn.Conv2d(16, 8, 3, stride=2, padding=1, groups=2)
    return nn.Sequential(first, nn.GELU(), second), torch.randn(2, 32, 8, 8)


def gradients(make: Any, recipe: Any, dtype: torch.dtype, autocast: torch.dtype | None) -> list[torch.Tensor]:
    """Of the input and the parameters of two layers, after one step."""
    torch.manual_seed(0)
    model, x = make()
    model, x = model.to(dtype), x.to(dtype).requires_grad_()
    dnn.prepare_(model, recipe, seed=3, steps=10)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        y = model(x)
    (y.float() * torch.linspace(-1, 1, y.shape[-1])).sum().backward()
    leaves: list[Any] = [x, *model.parameters()]
    return [leaf.grad for leaf in leaves]


@pytest.mark.filterwarnings("ignore:.*exact")
@pytest.mark.parametrize("dtype, autocast", PRECISIONS)
@pytest.mark.parametrize(
    "recipe",
    [*dnn.Recipe.presets(), ROTATED_AGAIN, MASKED],
    ids=lambda recipe: getattr(recipe, "name", recipe),
)
@pytest.mark.parametrize("make", [linears, convolutions], ids=lambda make: make.__name__)
def test_memory_that_is_used_again_changes_no_bit(make, recipe, dtype, autocast, monkeypatch):
    """Factors of two bytes an element are rotated in fp32, which must not lie where they lie."""
    ours = gradients(make, recipe, dtype, autocast)
    monkeypatch.setattr(scratch, "available", lambda x: False)
    for mine, apart in zip(ours, gradients(make, recipe, dtype, autocast), strict=True):
        assert mine.isfinite().all()
        assert torch.equal(mine, apart)


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
@pytest.mark.parametrize("block", ["16x16", "32", "row", "tensor"])
@pytest.mark.parametrize("shape", [(2, 24, 64), (3, 5, 7, 64), (24, 64), (64,)], ids=str)
def test_the_backward_multiplies_by_what_the_forward_multiplied_by(shape, block, rounding, monkeypatch):
    """24 rows are one and a half tiles: flattened, a tile would reach into the next sequence. Stochastic
    rounding draws the same bits."""
    multiplied = []
    plain = torch.nn.functional.linear
    monkeypatch.setattr(
        torch.nn.functional,
        "linear",
        lambda x, w, b=None: multiplied.append((x.clone(), w.clone())) or plain(x, w, b),
    )
    torch.manual_seed(0)
    quantizer = f"format=e2m1,block={block},scale_format=fp32,scale_rule=absmax,rounding={rounding}"
    layer: Any = nn.Linear(64, 40, bias=False)
    recipe = dnn.Recipe(fprop_x=quantizer, fprop_w=quantizer, dgrad_w="fprop", wgrad_x="fprop")
    dnn.prepare_(layer, recipe, seed=4, rank=3)
    x: Any = torch.randn(shape, requires_grad=True)
    g = torch.randn(*shape[:-1], 40)
    layer(x).backward(g)
    ((xq, wq),) = multiplied
    assert not torch.equal(xq, x)
    assert torch.equal(layer.weight.grad, g.reshape(-1, 40).t() @ xq.reshape(-1, 64))
    assert torch.equal(x.grad, (g.reshape(-1, 40) @ wq).reshape(shape))
