"""torch.func over prepared models: the gradients of backward(), and those of each example by vmap."""

# .grad is optional to the type checker
# pyright: reportOptionalMemberAccess=false, reportArgumentType=false

from itertools import pairwise

import pytest
import tiny_models
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap
from torch.nn import functional as F

import dither
import dither.nn as dnn
from dither import UserError, scores

RECIPES = [r for r in dnn.Recipe.presets() if "delayed" not in r]


def prepared(recipe, *widths):
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    model = nn.Sequential(*(m for layer in layers for m in (layer, nn.GELU())))
    dnn.prepare_(model, recipe, seed=3, steps=10)
    dnn.set_clock_(model, 2, 1)
    return model


def split(model):
    return {k: v.detach() for k, v in model.named_parameters()}, dict(model.named_buffers())


@pytest.mark.parametrize("recipe", RECIPES)
def test_grad_is_the_gradient_of_backward(recipe):
    """Bit for bit, of the weights and of the input, layers rotated with filling among them."""
    model = prepared(recipe, 40, 64, 24)
    parameters, buffers = split(model)
    x, y = torch.randn(6, 5, 40), torch.randn(6, 5, 24)

    def loss(parameters, x):
        return (functional_call(model, (parameters, buffers), (x,)) - y).square().mean()

    got, got_x = grad(loss, (0, 1))(parameters, x)
    leaf = x.clone().requires_grad_()
    (model(leaf) - y).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(got[name], parameter.grad), name
    assert torch.equal(got_x, leaf.grad)


@pytest.mark.parametrize("recipe", RECIPES)
def test_vmap_gives_each_example_what_it_has_alone(recipe):
    """Scales, tiles and random bits are those of the example, not of the batch; only sums may differ in their
    order. The loss is linear, so that no gradient lies elsewhere by the order of a sum."""
    model = prepared(recipe, 40, 24)[:1]
    parameters, buffers = split(model)
    x, v = torch.randn(7, 5, 40), torch.randn(7, 5, 24)
    x[3] *= 100  # would decide a scale that examples shared

    def loss(parameters, x, v):
        return (functional_call(model, (parameters, buffers), (x,)) * v).sum()

    each = vmap(grad(loss, (0, 1)), in_dims=(None, 0, 0))(parameters, x, v)
    alone = [grad(loss, (0, 1))(parameters, *one) for one in zip(x, v, strict=True)]
    for i, (weights, inputs) in enumerate(alone):
        for name in parameters:
            torch.testing.assert_close(each[0][name][i], weights[name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(each[1][i], inputs, rtol=1e-4, atol=1e-4)
    forward = vmap(model)(x)
    torch.testing.assert_close(forward, torch.stack([model(one) for one in x]), rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(32), tiny_models.Attention()

    def forward(self, x):
        return x + self.attention(self.norm(x))


ALSO = {"norm": "norm", "attention": "attention", "residual": ""}


@pytest.mark.parametrize("kind", ALSO)
def test_sites_beyond_linears(kind):
    torch.manual_seed(0)
    recipe = dnn.Recipe.get("mxfp8").replace(sites=("linear", kind))
    model = dnn.prepare_(Block(), recipe, also={kind: ALSO[kind]} if kind != "norm" else None)
    parameters, buffers = split(model)
    x = torch.randn(2, 6, 32)

    def loss(parameters, x):
        return functional_call(model, (parameters, buffers), (x,)).square().mean()

    got = grad(loss)(parameters, x)
    model(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(got[name], parameter.grad), name


def test_functions_of_tensors_and_second_derivatives():
    x = torch.randn(3, 64)

    def through(x):
        return dither.fake_quant(x, "int4_g32").square().sum()

    assert torch.equal(grad(through)(x), 2 * dither.fake_quant(x, "int4_g32"))
    rotated = grad(lambda x: (dither.hadamard(x, 32, seed=1) * x).sum())(x)
    assert torch.allclose(
        rotated, dither.hadamard(x, 32, seed=1) + dither.hadamard(x, 32, seed=1, inverse=True)
    )
    # straight through the quantizer the square has the second derivative of a square
    assert torch.allclose(jacrev(grad(through))(x[0]), 2 * torch.eye(64))


def test_scores_by_examples_gradients():
    model = prepared("mxfp4_rht_sr", 40, 24)
    x, labels = torch.randn(9, 40), torch.arange(9) % 24
    found = scores.per_example_gradients(model, x, labels)
    for i in range(9):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), labels[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-4, atol=1e-4)


def test_delayed_scaling_is_refused_in_words():
    model = prepared("fp8_delayed", 32, 32)
    parameters, buffers = split(model)
    x = torch.randn(4, 32)

    def loss(parameters, x):
        return functional_call(model, (parameters, buffers), (x,)).sum()

    with pytest.raises(UserError, match=r"delayed scaling writes down the maxima.*fp8_current.*backward"):
        grad(loss)(parameters, x)
    with torch.no_grad():  # values alone write nothing
        assert torch.allclose(vmap(model)(x), model(x), atol=1e-5)
