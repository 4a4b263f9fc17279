"""What prepare_'s `also` takes: residual sums, in the middle of other people's blocks; kinds that meet."""

# Attributes of a swapped module are unknown to the type checker.
# pyright: reportArgumentType=false

import operator
from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor, nn

import dither.nn as dnn
from dither.errors import UserError
from dither.nn import twin
from dither.quantizer import Quantizer

SUMS = dnn.Recipe(fprop_x="mxfp4", dgrad_g="mxfp8_e5m2", sites="residual", name="sums")


class Block(nn.Module):
    """Two sums of the stream, written in different ways, and one that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(40, 40), nn.Linear(40, 40)

    def forward(self, x: Tensor, turn: Tensor | None = None) -> Tensor:
        x = x + self.first(x)
        inner = self.second(x) + self.first(x)
        x = torch.add(inner, x)
        x += 1.0
        return x


def fq(x: Tensor, name: str) -> Tensor:
    return twin.fake_quant(x, Quantizer(name), -1)


def test_every_sum_of_the_stream_and_no_other():
    torch.manual_seed(0)
    block = Block()
    x = torch.randn(3, 40, requires_grad=True)
    one = x + block.first(x)
    cast_one = (fq(one.detach(), "mxfp4") - one).detach() + one
    two = cast_one + (block.second(cast_one) + block.first(cast_one))
    expected = fq(two.detach(), "mxfp4") + 1.0
    dnn.prepare_(block, SUMS, also={"residual": ""})
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-6)
    g = torch.randn_like(expected)
    (dx,) = torch.autograd.grad(block(x), x, g)
    g_two = fq(g, "mxfp8_e5m2")
    (g_one,) = torch.autograd.grad(two, cast_one, g_two, retain_graph=True)
    (wanted,) = torch.autograd.grad(one, x, fq(g_one, "mxfp8_e5m2"))
    torch.testing.assert_close(dx, wanted)
    assert [site.kind for site in dnn.sites(block)] == ["residual"]
    assert type(dnn.restore_(block)) is Block


WAYS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "x + f": lambda x, f: x + f,
    "f + x": lambda x, f: f + x,
    "+=": operator.iadd,
    "add_": lambda x, f: x.add_(f),
    "names": lambda x, f: torch.add(input=x, other=f),
    "alpha": lambda x, f: x.add(f / 2, alpha=2),
    "out": lambda x, f: torch.add(x, f, out=x),
}
IN_PLACE = ("+=", "add_", "out")


class Written(nn.Module):
    """A sum written in a way of that name; one made in place is read from the tensor that was added to.
    Positions and masks are added to other tensors."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, given: Tensor, position: Tensor, mask: Tensor) -> Tensor:
        x = given.sin() + position
        x = given + x.cos()
        y = WAYS[self.way](x, mask - x / 2)
        return x if self.way in IN_PLACE else y


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_sum_is_cast_however_it_is_written(way, compiled):
    """And those with other arguments of the block, of the same shape, are not."""
    generator = torch.Generator().manual_seed(0)
    given, position, mask = (torch.randn(3, 40, generator=generator) for _ in range(3))
    one = fq(given + (given.sin() + position).cos(), "mxfp4")
    expected = fq(one + (mask - one / 2), "mxfp4")
    block: Any = Written(way)
    dnn.prepare_(block, SUMS, also={"residual": ""})
    if compiled:
        torch._dynamo.reset()
        block = torch.compile(block, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(block(given, position, mask), expected)
    if way == "out":
        return  # torch has no gradients for it
    leaf = given.clone().requires_grad_()
    y = block(leaf, position, mask)
    assert torch.equal(y, expected)
    g = torch.randn(3, 40, generator=generator)
    (dx,) = torch.autograd.grad(y, leaf, g)
    g_two = fq(g, "mxfp8_e5m2")
    g_one = fq(g_two / 2, "mxfp8_e5m2")
    wanted = g_one * (1 - (given.sin() + position).sin() * given.cos())
    torch.testing.assert_close(dx, wanted)


def test_a_sum_of_two_arguments_is_none_of_the_stream():
    """As of positions added to queries: alone, it makes no residual block."""

    class Queries(nn.Module):
        def forward(self, x: Tensor, position: Tensor) -> Tensor:
            return x + position

    model = nn.ModuleList([Queries()])
    dnn.prepare_(model, SUMS, also={"residual": "0"})
    with pytest.raises(UserError, match="adds nothing of its own to the first tensor"):
        model[0](torch.randn(2, 8), torch.randn(2, 8))


def test_other_peoples_blocks_compiled_and_described():
    torch.manual_seed(0)
    model, (x, _) = tiny_models.Gpt2(), tiny_models.text()
    also = {"residual": "h.0"}
    row = next(s for s in dnn.describe(model, SUMS, also=also) if s.name == "h.0")
    assert row.is_quantized and set(row.operands) == {"fprop_x", "dgrad_g"}
    dnn.prepare_(model, SUMS, also=also)
    with torch.no_grad():
        y = model.h[0](torch.randn(2, 16, 32))
        assert torch.equal(y, fq(y, "mxfp4"))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    grads = []
    for call in (model, compiled):
        model.zero_grad()
        call(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_block_without_sums_is_an_error():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8)))
    dnn.prepare_(model, SUMS, also={"residual": "0"})
    with pytest.raises(UserError, match="'0' was taken as residual, but its forward adds nothing of its own"):
        model(torch.randn(2, 8))


@pytest.mark.parametrize(
    "also",
    [{"output": "first"}, {"residual": "", "output": ""}],
    ids=["a linear is a site already", "two kinds for one module"],
)
def test_a_module_is_a_site_of_one_kind(also):
    with pytest.raises(UserError, match=r"takes no module as output.*is a site of another kind"):
        dnn.prepare_(Block(), SUMS.replace(sites=("residual", "output", "linear")), also=also)
