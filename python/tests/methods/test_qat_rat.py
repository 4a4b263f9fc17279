"""The base interface, and the methods that change the forward: what it computes, its gradient, and how to
undo it.
"""

from __future__ import annotations

import copy

import grids
import numpy as np
import pytest
import torch
from torch import nn

from dither import methods
from dither.errors import UserError
from dither.quantizer import Quantizer

torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 32)
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.head = nn.Linear(32, 12, bias=False)

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.down(self.up(self.norm(x)).relu()))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


TOKENS = torch.arange(12).view(2, 6)


def seen_weight(linear):
    """The weight that a linear's forward multiplies by."""
    return (linear(torch.eye(linear.in_features)) - linear.bias).detach().T


def changed(net):
    """Names of the linears whose forward multiplies by another weight than their parameter."""
    names = []
    for name, linear in net.named_modules():
        if isinstance(linear, nn.Linear):
            plain = nn.functional.linear(torch.eye(linear.in_features), linear.weight, linear.bias)
            if not torch.equal(linear(torch.eye(linear.in_features)), plain):
                names.append(name)
    return names


def test_registry():
    assert methods.names()[:3] == ["ptq", "gptq", "adaround"]
    for name in methods.names():
        assert methods.get(name).name == name
    with pytest.raises(UserError, match="did you mean 'lotion'"):
        methods.get("lotoin")


@pytest.mark.parametrize("name", ["ptq", "qat", "rat"])
def test_default_targets_are_the_linears_without_the_head(net, name):
    method = methods.get(name)(net, "int4_g32")
    assert list(method.targets) == ["up.weight", "down.weight"]
    assert method.targets["up.weight"] is net.up.weight
    assert "2 weights (4,096 parameters)" in method.describe()
    assert float(method.penalty(0)) == 0.0
    if name != "ptq":
        assert changed(net) == ["up", "down"]


@pytest.mark.parametrize("name", ["ptq", "qat", "rat"])
def test_exempt_and_sites(net, name):
    method = methods.get(name)(net, "int4_g32", exempt=["up"], sites=("linear", "head"))
    assert list(method.targets) == ["down.weight", "head.weight"]
    assert changed(net) == ([] if name == "ptq" else ["down", "head"])


def test_what_cannot_be_a_target(net):
    with pytest.raises(UserError, match=r"(?s)'upp'.*up \(linear\)"):
        methods.Ptq(net, "int4_g32", exempt=["upp"])
    with pytest.raises(UserError, match="no weight"):
        methods.Ptq(net, "int4_g32", exempt=["up", "down"])
    with pytest.raises(UserError, match="did you mean 'linear'"):
        methods.Ptq(net, "int4_g32", sites=("linaer",))
    with pytest.raises(UserError, match="did you mean 'int4_g32'"):
        methods.Ptq(net, "int4_g23")


def test_ptq_changes_nothing(net):
    before, reference = copy.deepcopy(net.state_dict()), net(TOKENS)
    methods.Ptq(net, "int4_g32")
    assert torch.equal(net(TOKENS), reference)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_qat_multiplies_by_the_cast_weight_and_passes_its_gradient(net):
    original = net.up.weight.detach().clone()
    keys = list(net.state_dict())
    methods.Qat(net, "int4_g32")
    expected = grids.nearest(original.double().numpy(), grids.GRIDS["int4"], 32)
    np.testing.assert_allclose(seen_weight(net.up).numpy(), expected, atol=2e-7)
    assert torch.equal(net.up.weight, original)
    assert list(net.state_dict()) == keys
    # straight-through: the gradient of the same model with the cast weights in place
    net(TOKENS).square().mean().backward()
    reference = Net()
    reference.load_state_dict(net.state_dict())
    with torch.no_grad():
        for name in ("up", "down"):
            w = reference.get_parameter(f"{name}.weight")
            w.copy_(torch.from_numpy(grids.nearest(w.double().numpy(), grids.GRIDS["int4"], 32)))
    reference(TOKENS).square().mean().backward()
    for (name, p), (_, r) in zip(net.named_parameters(), reference.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, r.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["qat", "rat"])
def test_detach_and_paused_give_the_plain_model(net, name):
    plain = net(TOKENS)
    method = methods.get(name)(net, "int4_g32")
    assert not torch.equal(net(TOKENS), plain)
    with method.paused() as inside:
        assert inside is net and torch.equal(net(TOKENS), plain)
    assert not torch.equal(net(TOKENS), plain)
    with pytest.raises(RuntimeError, match="stop"), method.paused():
        raise RuntimeError("stop")
    assert not torch.equal(net(TOKENS), plain)
    method.detach()
    assert torch.equal(net(TOKENS), plain)
    assert type(net.up) is nn.Linear


def test_rat_draws_anew_for_every_step_and_microbatch_and_repeats(net):
    method = methods.Rat(net, "int4_g32", seed=3)
    seen = {}
    for step, microbatch in ((0, 0), (1, 0), (0, 1)):
        method.set_step(step, microbatch)
        seen[step, microbatch] = seen_weight(net.up)
    assert not torch.equal(seen[0, 0], seen[1, 0]) and not torch.equal(seen[0, 0], seen[0, 1])
    method.set_step(1)
    assert torch.equal(seen_weight(net.up), seen[1, 0])
    method.detach()
    other = methods.Rat(net, "int4_g32", seed=4)
    other.set_step(1)
    assert not torch.equal(seen_weight(net.up), seen[1, 0])


def test_rat_forward_is_unbiased(net):
    """2000 steps: every weight's mean within 4.5 standard errors (2048 weights), the variance (w-lo)(hi-w)
    within 1%.
    """
    method = methods.Rat(net, "int4_g32")
    w = net.up.weight.detach().double()
    lo, hi = (torch.from_numpy(t) for t in grids.neighbours(w.numpy(), grids.GRIDS["int4"], 32))
    total, square = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(2000):
        method.set_step(step)
        deviation = seen_weight(net.up).double() - w
        total += deviation
        square += deviation**2
    variance = ((w - lo) * (hi - w)).clamp(min=1e-12)
    assert ((total / 2000).abs() / (variance / 2000).sqrt())[variance > 1e-7].max() < 4.5
    assert float(square.sum() / 2000 / variance.sum()) == pytest.approx(1.0, abs=0.01)


def test_rat_gradient_is_that_at_the_drawn_weight(net):
    """For L = 1/2 |W x - t|^2 the straight-through gradient is (RR(W) x - t) x^T, with the very weight of the
    forward.
    """
    method = methods.Rat(net, "int4_g32", seed=1)
    method.set_step(5)
    drawn = seen_weight(net.up)
    x, t = torch.randn(3, 32), torch.randn(3, 64)
    (0.5 * (net.up(x) - t).square().sum()).backward()
    expected = (x @ drawn.T + net.up.bias.detach() - t).T @ x
    torch.testing.assert_close(net.up.weight.grad, expected, rtol=1e-4, atol=1e-4)


def test_randomized_keeps_the_bits_of_a_stochastic_quantizer():
    assert methods.randomized("int4_g32") == Quantizer("int4_g32", rounding="stochastic", bits=16)
    few = Quantizer("int4_g32", rounding="stochastic", bits=4)
    assert methods.randomized(few) == few


@pytest.mark.parametrize("name", ["ptq", "qat", "rat"])
def test_state_round_trip(net, name):
    method = methods.get(name)(net, "int4_g32")
    state = method.state_dict()
    method.load_state_dict(state)
    with pytest.raises(UserError, match=name):
        method.load_state_dict(state | {"method": "other"})
