"""Torch's own attention, which multiplies by two weights without calling a module, under methods; and grouped
linears."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither import methods
from dither.errors import UserError
from dither.nn import ops

torch.set_num_threads(1)


def transformer(**options) -> tuple[Any, torch.Tensor]:
    """Torch's own layer, whose attention multiplies by two weights without calling a module."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True, **options)
    return nn.Sequential(layer), torch.randn(2, 5, 32)


ATTENTION = ["0.self_attn.in_proj_weight", "0.self_attn.out_proj.weight"]


@pytest.mark.filterwarnings("ignore:.*TransformerEncoderLayer")
@pytest.mark.parametrize("recipe", [None, "mxfp8"])
@pytest.mark.parametrize("name", ["qat", "lsq", "quest", "statsq", "qema", "dampen"])
def test_torchs_attention_multiplies_by_what_is_deployed(name, recipe):
    """In training and in evaluation, whose fused path reads weights itself."""
    model, x = transformer()
    plain = model(x).detach()
    if recipe is not None:
        dnn.prepare_(model, dnn.Recipe.get(recipe, fprop_w=None, dgrad_w=None))
    method = methods.get(name)(model, "int3_row")
    assert set(ATTENTION) < set(method.targets) and len(method.targets) == 4
    seen = model(x)
    seen.square().sum().backward()
    assert all(method.targets[target].grad is not None for target in ATTENTION)
    with method.deployed(), torch.no_grad():
        deployed = model(x)
    assert (deployed - plain).abs().max() > 0.05
    torch.testing.assert_close(seen, deployed, rtol=1e-5, atol=1e-5)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), deployed, rtol=1e-5, atol=1e-5)
    method.detach()
    dnn.restore_(model)
    assert type(model[0].self_attn) is nn.MultiheadAttention
    torch.testing.assert_close(model.train()(x), plain)


def test_a_weight_of_attention_counts_and_is_quantized_once():
    """Without the others: a method on the in-projection alone changes the output; a recipe that quantizes it
    too is refused."""
    model, x = transformer()
    plain = model(x)
    method = methods.Qat(model, "int3_row", exempt=["*.out_proj", "*.linear?"])
    assert list(method.targets) == ATTENTION[:1] and not torch.allclose(model(x), plain, atol=1e-3)
    other = copy.deepcopy(model)
    assert torch.equal(other(x), model(x))
    method.detach()
    dnn.prepare_(model, "mxfp8", rules=[("*.linear?", None), ("*.out_proj", None)])
    with pytest.raises(UserError, match=r"in_proj_weight: the recipe 'mxfp8' quantizes fprop_w"):
        methods.Qat(model, "int3_row", exempt=["*.out_proj", "*.linear?"])


def test_inputs_of_grouped_linears_are_quantized():
    torch.manual_seed(0)
    model: Any = nn.Sequential(dnn.GroupedLinear(3, 32, 16))
    x = torch.randn(3, 5, 32)
    methods.Qat(model, "int4_g32", activations="int8_row", sites="grouped")
    weight = ops.fake_quant(model[0].weight.detach(), "int4_g32")
    torch.testing.assert_close(model(x), ops.fake_quant(x, "int8_row") @ weight.transpose(1, 2))


def test_attention_is_packed():
    model, x = transformer()
    method = methods.Qat(model, "int8_row")
    with method.deployed():
        deployed = model(x)
    method.convert_()
    assert model[0].self_attn.in_proj_weight.nbytes_held < 32 * 96 * 2
    torch.testing.assert_close(model(x), deployed, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gptq", "adaround"])
def test_methods_that_need_inputs_name_the_weights_of_attention(name):
    model, x = transformer()
    with pytest.raises(UserError, match=r"in_proj_weight, 0\.self_attn\.out_proj\.weight without calling"):
        methods.get(name)(model, "int4_g32")
    method = methods.get(name)(model, "int4_g32", exempt=["*.in_proj", "*.out_proj"])
    method.calibrate_([x])
    with pytest.raises(UserError, match="its input cannot be quantized"):
        methods.Qat(model, "int4_g32", activations="int8_row")
    crossed = nn.Sequential(nn.MultiheadAttention(32, 2, kdim=16))
    with pytest.raises(UserError, match=r"three weights.*exempt '0\.in_proj'"):
        methods.Qat(crossed, "int4_g32")
    assert list(methods.Qat(crossed, "int4_g32", exempt="0.in_proj").targets) == ["0.out_proj.weight"]
