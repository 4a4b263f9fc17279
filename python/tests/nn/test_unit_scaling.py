"""Unit scaling against its table: values, gradients, rates, and sizes near one through a deep model."""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import copy

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither.errors import UserError
from dither.nn.unit_scaling import parameter_groups, unit_scale_


def deep(width=128, layers=6, between=nn.Tanh):
    modules = []
    for _ in range(layers):
        modules += [nn.Linear(width, width), between()]
    return nn.Sequential(*modules, nn.Linear(width, 16))


@pytest.mark.parametrize("head", [False, True])
def test_a_linear_is_its_row_of_the_table(head):
    torch.manual_seed(0)
    layer = unit_scale_(nn.ModuleDict({"head": nn.Linear(64, 32)}), output="*.head" if head else ())["head"]
    with torch.no_grad():
        layer.bias.normal_()
    x, g = torch.randn(10, 64, requires_grad=True), torch.randn(10, 32)
    y = layer(x)
    y.backward(g)
    scale = 1 / 64 if head else 1 / 8
    torch.testing.assert_close(y, scale * x @ layer.weight.t() + layer.bias, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, g @ layer.weight / 8)
    torch.testing.assert_close(layer.weight.grad, g.t() @ x)
    torch.testing.assert_close(layer.bias.grad, g.sum(0))


def test_sizes_are_near_one_where_the_products_see_them():
    torch.manual_seed(0)
    model = unit_scale_(deep(between=nn.Identity), output="12")
    seen = []
    for name, module in model.named_children():
        if isinstance(module, nn.Linear) and name != "12":
            module.register_full_backward_hook(lambda m, gi, go: seen.append(go[0].std()))
            assert 0.9 < module.weight.std() < 1.1
    x = torch.randn(512, 128)
    for module in model[:-1]:
        x = module(x)
        assert 0.8 < x.std() < 1.2
    model(torch.randn(512, 128)).backward(torch.randn(512, 16))
    assert all(0.25 < size < 1.2 for size in seen) and len(seen) == 6


def test_rates_follow_fan_in_and_depth():
    model = unit_scale_(deep(width=64, layers=2), output="4")
    groups = parameter_groups(model, 0.1, branches="2", depth=4)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model[0].weight)] == pytest.approx(0.1 / 8)
    assert rates[id(model[2].weight)] == pytest.approx(0.1 / 8 / 2)
    assert rates[id(model[4].weight)] == rates[id(model[0].bias)] == 0.1
    with pytest.raises(UserError, match="unit-scaled already"):
        unit_scale_(model)


def test_plain_casts_train_a_unit_scaled_model_and_not_a_tiny_one():
    torch.manual_seed(0)
    x = torch.randn(64, 128)
    exact = unit_scale_(deep(), output="12", generator=torch.Generator().manual_seed(0))
    cast = dnn.prepare_(copy.deepcopy(exact), "fp8_unit_scaled")
    weights = [m.weight for m in exact if isinstance(m, nn.Linear)]
    g = torch.randn(64, 16)
    expected = torch.autograd.grad(exact(x), weights, g)
    got = torch.autograd.grad(cast(x), [m.weight for m in cast if isinstance(m, nn.Linear)], g)
    for a, b in zip(got, expected, strict=True):
        assert nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.97
    small = dnn.prepare_(nn.Linear(128, 16, bias=False), "fp8_unit_scaled")
    with torch.no_grad():
        small.weight.normal_(0, 1e-4)
    assert small(x).abs().max() == 0, "weights below E4M3's smallest number vanish without scales"
