"""The machinery under QAT and its kin: which module sees which weight and input, beside recipes, copies,
compilation and checkpointing.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

import dither.nn as dnn
from dither import methods
from dither.errors import UserError
from dither.nn import ops

torch.set_num_threads(1)


class Tied(nn.Module):
    """Two linears with one weight."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.second = nn.Linear(64, 64)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Tied()


X = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))


def test_activations_are_quantized_straight_through_and_the_weight_gradient_sees_them(net):
    layer = net.first
    method = methods.Qat(net, "int4_g32", activations="int8_row")
    x = X.clone().requires_grad_()
    layer(x).square().sum().backward()
    xq, wq = ops.fake_quant(X, "int8_row"), ops.fake_quant(layer.weight.detach(), "int4_g32")
    g = 2 * (xq @ wq.T + layer.bias.detach())
    torch.testing.assert_close(layer.weight.grad, g.T @ xq)
    torch.testing.assert_close(x.grad, g @ wq)
    assert not torch.allclose(g.T @ xq, g.T @ X, rtol=1e-3)
    assert "activations to int8_row" in method.describe()


def test_every_module_that_shares_a_weight_sees_the_same_one(net):
    (target,) = methods.Qat(net, "int4_g32").found
    assert target.modules == (net.first, net.second)
    wq = ops.fake_quant(net.first.weight.detach(), "int4_g32")
    expected = nn.functional.linear(nn.functional.linear(X, wq, net.first.bias).relu(), wq, net.second.bias)
    torch.testing.assert_close(net(X), expected)


def test_parameters_and_names_stay(net):
    names, parameters = list(net.state_dict()), list(net.parameters())
    method = methods.Qat(net, "int4_g32")
    assert list(net.state_dict()) == names
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    net(X)
    assert net.first.weight is parameters[0]
    method.detach()
    assert type(net.first) is nn.Linear and "dither_seen" not in vars(net.first)


def test_the_weight_is_the_parameter_again_after_an_error_in_the_forward(net):
    methods.Qat(net, "int4_g32")
    with pytest.raises(RuntimeError):
        net(torch.zeros(4, 7))
    assert isinstance(net.first.weight, nn.Parameter)


def test_a_recipe_quantizes_what_the_method_leaves(net):
    """MXFP8 inputs and gradients, INT4 weights by the method: the output is that of both by hand."""
    dnn.prepare_(net, dnn.Recipe.get("mxfp8", fprop_w=None, dgrad_w=None))
    method = methods.Qat(net, "int4_g32")
    wq = ops.fake_quant(net.first.weight.detach(), "int4_g32")
    xq = ops.fake_quant(X, "mxfp8_e4m3")
    torch.testing.assert_close(net.first(X), nn.functional.linear(xq, wq, net.first.bias))
    assert len(dnn.sites(net)) == 2
    method.detach()
    assert len(dnn.sites(net)) == 2
    dnn.restore_(net)
    assert type(net.first) is nn.Linear


def test_a_recipe_may_come_second(net):
    method = methods.Qat(net, "int4_g32")
    dnn.prepare_(net, dnn.Recipe.get("mxfp8", fprop_w=None, dgrad_w=None))
    second = net(X)
    dnn.restore_(net)
    method.detach()
    dnn.prepare_(net, dnn.Recipe.get("mxfp8", fprop_w=None, dgrad_w=None))
    methods.Qat(net, "int4_g32")
    assert torch.equal(net(X), second)


def test_nothing_is_quantized_twice(net):
    dnn.prepare_(net, "mxfp8")
    with pytest.raises(UserError, match=r"first\.weight.*fprop_w.*twice.*fprop_w=None"):
        methods.Qat(net, "int4_g32")
    dnn.restore_(net)
    dnn.prepare_(net, dnn.Recipe.get("mxfp8", fprop_w=None, dgrad_w=None))
    with pytest.raises(UserError, match="fprop_x"):
        methods.Qat(net, "int4_g32", activations="int8_row")
    method = methods.Qat(net, "int4_g32")
    with pytest.raises(UserError, match="detach"):
        dnn.restore_(net)
    method.detach()
    dnn.restore_(net)
    assert not dnn.sites(net)


def test_a_recipe_that_came_second_and_quantizes_the_weight_is_refused_in_the_forward(net):
    methods.Qat(net, "int4_g32")
    dnn.prepare_(net, "mxfp8")
    with pytest.raises(UserError, match="twice"):
        net(X)


def test_a_copy_carries_a_method_of_its_own(net):
    method = methods.Qat(net, "int4_g32")
    twin = copy.deepcopy(net)
    assert torch.equal(twin(X), net(X))
    method.detach()
    with torch.no_grad():
        twin.first.weight.mul_(2.0)
    assert not torch.equal(twin(X), net(X)) and type(twin.first) is not nn.Linear


def test_recomputed_forwards_draw_the_same_bits(net):
    method = methods.Rat(net, "int4_g32")
    method.set_step(3)
    net(X).square().sum().backward()
    expected = net.first.weight.grad.clone()
    net.zero_grad()
    checkpoint(net, X, use_reentrant=False).square().sum().backward()
    assert torch.equal(net.first.weight.grad, expected)


@pytest.mark.slow
def test_a_compiled_model_computes_the_same_without_a_graph_break(net):
    methods.Qat(net, "int4_g32")
    expected = net(X)
    assert torch.equal(torch.compile(net, backend="aot_eager", fullgraph=True)(X), expected)


def test_before_its_start_a_method_leaves_the_forward_alone(net):
    plain = net(X)
    method = methods.Qat(net, "int4_g32", start=10)
    for step, same in ((0, True), (9, True), (10, False), (11, False)):
        method.set_step(step)
        assert torch.equal(net(X), plain) is same


def test_deployed_weights_are_the_cast_and_leave_no_trace(net):
    method = methods.Qat(net, "int4_g32")
    before, seen = net.first.weight.detach().clone(), net(X)
    with method.deployed() as plain:
        assert type(plain.first) is nn.Linear
        assert torch.equal(plain.first.weight, ops.fake_quant(before, "int4_g32"))
        torch.testing.assert_close(plain(X), seen)
    assert torch.equal(net.first.weight, before) and torch.equal(net(X), seen)
    with method.deployed("stochastic", seed=1):
        assert not torch.equal(net.first.weight, ops.fake_quant(before, "int4_g32"))


def test_converted_weights_compute_what_training_saw(net):
    method = methods.Qat(net, "int4_g32")
    seen = net(X)
    assert method.convert_() is net
    assert isinstance(net.first.weight, dnn.PackedTensor) and net.first.weight is net.second.weight
    torch.testing.assert_close(net(X), seen)


def test_an_embedding_that_renormalises_itself_is_refused():
    model = nn.Sequential(nn.Embedding(8, 32, max_norm=1.0))
    with pytest.raises(UserError, match="max_norm"):
        methods.Qat(model, "int4_g32", sites=("embedding",))


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("name", methods.names())
def test_weights_that_are_no_parameters_are_named(name):
    """Written to, they would be as before: nothing would be quantized, and nothing say so."""
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))
    old = torch.nn.utils.weight_norm(nn.Linear(32, 32))
    (packed,) = dnn.convert_(nn.Sequential(nn.Linear(32, 32)), "int4_g32").children()
    for layer, message in (
        (normed, "computed from other parameters.*remove_parametrizations"),
        (old, "computed from other parameters.*remove_weight_norm"),
        (nn.LazyLinear(8), "shape of 1.weight is not known"),
        (packed, "packed already.*unpacks"),
    ):
        model = nn.Sequential(nn.Linear(32, 32), layer)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.is_floating_point()])
        options: dict[str, Any] = {"optimizer": optimizer} if "optimizer" in methods.options(name) else {}
        if name == "lotion":
            options["curvature"] = methods.AdamSecondMoment(optimizer, n_eff=4)
        with pytest.raises(UserError, match=message):
            methods.get(name)(model, "int4_g32", **options)
        assert type(model[0]) is nn.Linear
        if name not in ("lotion", "eco"):  # whose optimizer knows it
            methods.get(name)(model, "int4_g32", exempt=["1"], **options)


@pytest.mark.parametrize("order", ["method first", "shards first"])
def test_sharded_weights_are_trained_and_not_deployed(order):
    """Under FSDP2, here of one process: the forward and the gradients of a plain model."""
    plain, model = (nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 8)) for _ in range(2))
    model.load_state_dict(plain.state_dict())
    methods.Qat(plain, "int4_row")
    x = torch.randn(4, 32)
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        made = [methods.Qat(model, "int4_row")] if order == "method first" else []
        for layer in (*model, model):
            fully_shard(layer)
        method = made[0] if made else methods.Qat(model, "int4_row")
        for net in (plain, model):
            net(x).square().sum().backward()
        torch.testing.assert_close(model(x), plain(x))
        for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine.grad.full_tensor(), other.grad)  # type: ignore[union-attr]
        with pytest.raises(UserError, match=r"after fully_shard|sharded over processes"), method.deployed():
            pass
        torch.testing.assert_close(model(x), plain(x))  # a refusal leaves the method in force
    finally:
        torch.distributed.destroy_process_group()
