"""Where a recipe applies: rules, opt-in, what describe says, and what a checkpoint remembers."""

# Attributes of a swapped module are unknown to the type checker.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false

from typing import Any

import pytest
import torch
from torch import nn

import dither
import dither.nn as dnn
from dither.errors import UserError
from dither.models.gpt import GPT, GPTConfig
from dither.nn import twin
from dither.nn.streams import OPERANDS
from dither.quantizer import Quantizer


def gpt() -> GPT:
    config = GPTConfig(layers=2, width=32, heads=2, context=16)
    return GPT(config, vocab=40, generator=torch.Generator().manual_seed(0))


def got(model: nn.Module) -> dict[str, dnn.Recipe]:
    return {site.name: site.recipe for site in dnn.sites(model)}


def test_later_rules_win_and_exempt_has_the_last_word():
    model = gpt()
    dnn.prepare_(
        model,
        "mxfp8",
        exempt="blocks.1.mlp.up",
        rules=[
            ("*.mlp.*", dnn.Recipe.get("mxfp4")),
            ("*.mlp.down", {"wgrad_g": None, "dgrad_g": "mxfp8_e5m2"}),
            (lambda module, name: name.startswith("blocks.1.attention"), None),
            ("blocks.1.attention.q", "mxfp6"),
        ],
    )
    found = got(model)
    assert found["blocks.0.attention.q"] == dnn.Recipe.get("mxfp8")
    assert found["blocks.0.mlp.gate"] == dnn.Recipe.get("mxfp4")
    down = found["blocks.1.mlp.down"]
    assert (
        down.wgrad_g is None
        and down.dgrad_g == Quantizer("mxfp8_e5m2")
        and down.fprop_x == Quantizer("mxfp4")
    )
    assert {n for n in found if n.startswith("blocks.1")} == {
        "blocks.1.attention.q",
        "blocks.1.mlp.gate",
        "blocks.1.mlp.down",
    }
    assert found["blocks.1.attention.q"] == dnn.Recipe.get("mxfp6")


def test_an_operand_of_any_kind_of_site():
    model = gpt()
    dnn.prepare_(
        model,
        "fp32",
        rules=[
            ("*.products", {"fprop_x": "bf16"}),
            ("*.products.pv", {"fprop_w": "mxfp8_e4m3"}),
            ("head", {"wgrad_x": "mxfp4"}),
            ("*_norm", {"fprop_w": "mxfp8_e4m3"}),
        ],
    )
    found = got(model)
    assert found["blocks.0.attention.products.qk"].fprop_w is None
    assert found["blocks.0.attention.products.pv"].fprop_w == Quantizer("mxfp8_e4m3")
    assert found["head"].wgrad_x == Quantizer("mxfp4") and "blocks.0.mlp_norm" in found
    assert "norm" not in found and "embed" not in found
    tokens = torch.randint(0, 40, (2, 16))
    model(tokens).sum().backward()


def test_a_rule_with_a_recipe_keeps_to_its_kinds():
    model = gpt()
    dnn.prepare_(model, "mxfp8", rules=[("blocks.0.*", dnn.Recipe.get("mxfp4", sites=("linear", "norm")))])
    found = got(model)
    assert found["blocks.0.mlp_norm"].name == "mxfp4" and found["blocks.0.mlp.up"].name == "mxfp4"
    assert not any("products" in name for name in found) and "blocks.1.mlp_norm" not in found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"rules": [("*.fc9", None)]},
            r"(?s)rule 1: pattern '\*\.fc9' matches no module.*blocks\.0\.mlp\.up",
        ),
        (
            {"rules": [(lambda m, n: False, None)]},
            r"(?s)rule 1: the function holds for no site.*head \(head\)",
        ),
        ({"rules": [("*", None), ("*norm", "mxfp8")]}, "rule 2 matches sites of kind norm, but"),
        ({"rules": [("*", {"fprop_y": None})]}, "no field 'fprop_y'"),
        ({"rules": [("*", "mxfp9")]}, "unknown recipe 'mxfp9'"),
        ({"rules": [("*", None)]}, "no such module is left"),
        ({"also": {"norms": "*"}}, "unknown kind 'norms'.*did you mean 'norm'"),
        ({"also": {"norm": "*.layernorm"}}, r"(?s)also pattern '\*\.layernorm' matches no module.*RMSNorm"),
        ({"also": {"norm": "blocks.0.mlp"}}, "SwiGLU without a parameter `weight`"),
        ({"also": {"conv": "blocks.0.mlp"}}, "SwiGLU, which cannot be taken as conv"),
        ({"ragged": "pad"}, "ragged must be one of shorter, error"),
    ],
    ids=str,
)
def test_errors_change_nothing(arguments, message):
    model = gpt()
    types = [type(module) for module in model.modules()]
    with pytest.raises(UserError, match=message):
        dnn.prepare_(model, "mxfp8", **arguments)
    assert [type(module) for module in model.modules()] == types


@pytest.mark.parametrize("rule", [(3, None), ("*", 3)])
def test_a_rule_of_another_type(rule):
    with pytest.raises(TypeError, match="rule 1"):
        dnn.prepare_(gpt(), "mxfp8", rules=[rule])


class OtherNorm(nn.Module):
    """As models of Hugging Face write it."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


def test_a_norm_of_another_class():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), OtherNorm(40))
    x = torch.randn(3, 40)
    parameter = model[1].weight
    dnn.prepare_(model, "mxfp8", also={"norm": "1"})
    with torch.no_grad():
        weight = twin.fake_quant(parameter, Quantizer("mxfp8_e4m3"), -1)
        h = model[0](x)
        assert torch.equal(model(x), weight * (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)))
    model(x).sum().backward()
    assert parameter.grad is not None and dict(model.named_parameters())["1.weight"] is parameter
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight"]
    dnn.restore_(model)
    assert type(model[1]) is OtherNorm and model[1].weight is parameter


def test_opting_in_leaves_the_streams_of_the_others():
    recipe = dnn.Recipe.weights("mxfp4:rounding=stochastic")
    models = [nn.Sequential(OtherNorm(8), nn.Linear(8, 8)) for _ in range(2)]
    dnn.prepare_(models[0], recipe)
    dnn.prepare_(models[1], recipe, also={"norm": "0"})
    assert torch.equal(models[0][1].dither_rng, models[1][1].dither_rng)


def test_an_output():
    class Block(nn.Module):
        def forward(self, x):
            return x + torch.tanh(x), "state"

    torch.manual_seed(0)
    model = nn.Sequential(Block())
    x = torch.randn(3, 40, requires_grad=True)
    plain, _ = model(x)
    g = torch.randn_like(plain)
    (dx,) = torch.autograd.grad(plain, x, twin.fake_quant(g, Quantizer("mxfp8_e5m2"), -1))
    dnn.prepare_(model, dnn.Recipe(fprop_x="mxfp4", dgrad_g="mxfp8_e5m2"), also={"output": "0"})
    y, state = model(x)
    assert state == "state" and torch.equal(y, twin.fake_quant(plain, Quantizer("mxfp4"), -1))
    assert torch.equal(torch.autograd.grad(y, x, g)[0], dx)


def test_an_output_that_is_no_tensor():
    class Answer(nn.Module):
        def forward(self, x):
            return {"y": x}

    model = dnn.prepare_(nn.Sequential(Answer()), "mxfp4", also={"output": "0"})
    with pytest.raises(UserError, match="'0' is to be quantized, but it returns a dict"):
        model(torch.randn(3))


class Conv1D(nn.Module):
    """GPT-2's, as transformers has it."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


def test_a_transposed_linear_is_the_linear_of_its_transpose():
    torch.manual_seed(0)
    one, other = Conv1D(24, 40), nn.Linear(40, 24)
    other.weight.data.copy_(one.weight.t())
    other.bias.data.copy_(one.bias)
    recipe = dnn.Recipe(fprop_x="mxfp8_e4m3", fprop_w="int4_g32", dgrad_g="mxfp8_e5m2", dgrad_w="nvfp4",
                        wgrad_g="mxfp6_e3m2", wgrad_x="mxfp4")  # fmt: skip
    x = torch.randn(3, 7, 40, requires_grad=True)
    plain = one(x)
    results = []
    for layer in (one, other):
        dnn.prepare_(layer, recipe)
        y = layer(x)
        dx, dw, db = torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))
        results.append([y, dx, dw, db])
    results[0][2] = results[0][2].t()
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    dnn.restore_(one)
    assert torch.equal(one(x), plain)


def test_describe_says_the_same_before_and_after():
    arguments = {"exempt": "blocks.1.*", "rules": [("*.down", {"wgrad_g": None})], "also": {"norm": "norm"}}
    model = gpt()
    before = dnn.describe(model, "mxfp8", **arguments)
    dnn.prepare_(model, "mxfp8", **arguments)
    assert dnn.describe(model) == before and str(dnn.describe(model)) == str(before)
    by_name = {site.name: site for site in before}
    assert by_name["blocks.0.mlp.down"].operands["wgrad_g"] is None
    assert by_name["blocks.0.mlp.down"].why == "rule 1" and by_name["norm"].is_quantized
    assert (
        by_name["blocks.1.mlp.up"].why == "exempt 'blocks.1.*'"
        and not by_name["blocks.1.mlp.up"].is_quantized
    )
    assert by_name["head"].why == "head is no site of the recipe" and by_name["head"].shape == (40, 32)
    text = str(before).splitlines()
    assert text[0].split() == ["site", "kind", "shape", "what", "it", "gets", "why"]
    assert any(line.split()[:6] == ["blocks.0.mlp.up", "linear", "96", "x", "32", "all:"] for line in text)
    assert text[-1].startswith("quantized: 7 linear, 1 norm;")
    assert len(before) == len(dnn.describe(dnn.restore_(model)))
    dnn.prepare_(model, "mxfp8")
    with pytest.raises(UserError, match="prepared already"):
        dnn.describe(model, "mxfp8")


def test_a_checkpoint_of_another_recipe():
    model = dnn.prepare_(gpt(), "mxfp8", rules=[("*.down", {"wgrad_g": None})])
    saved = dnn.recipe_of(model)
    assert "blocks.0.mlp.down\tlinear fprop_x=mxfp8_e4m3" in saved and "head" not in saved
    dnn.check_recipe(model, saved)
    dnn.restore_(model)
    assert dnn.recipe_of(model) == ""
    with pytest.raises(UserError, match=r"14 sites differ.*blocks.0.attention.q.*is now not quantized"):
        dnn.check_recipe(model, saved)
    dnn.prepare_(model, "mxfp8")
    with pytest.raises(UserError, match=r"2 sites differ.*'blocks.0.mlp.down'.*wgrad_g=mxfp8_e4m3"):
        dnn.check_recipe(model, saved)


def test_a_file_knows_its_recipe(tmp_path):
    model: Any = dnn.prepare_(gpt(), "mxfp8")
    other: Any = dnn.prepare_(gpt(), "mxfp4")
    before = [p.clone() for p in other.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    dnn.save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"14 sites differ.*fprop_x=mxfp8_e4m3.*fprop_x=mxfp4.*any_recipe=True"
    ):
        dnn.load_model_(other, tmp_path / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), before, strict=True))
    for fresh in (gpt(), dnn.prepare_(gpt(), "mxfp8")):
        dnn.load_model_(fresh, tmp_path / "model.safetensors")
        assert torch.equal(fresh.head.weight, model.head.weight)
    dnn.load_model_(other, tmp_path / "model.safetensors", any_recipe=True)
    assert torch.equal(other.head.weight, model.head.weight)
    dnn.save_model(gpt(), tmp_path / "plain.safetensors")
    dnn.load_model_(dnn.prepare_(gpt(), "mxfp8"), tmp_path / "plain.safetensors")


def test_layers_that_do_not_fill_blocks():
    def refused(layer, recipe):
        with pytest.raises(UserError, match="whole blocks"):
            dnn.prepare_(layer, recipe, ragged="error")
        dnn.prepare_(layer, recipe)  # the last block is shorter

    refused(nn.Linear(10, 32), "mxfp8")
    refused(nn.Linear(32, 10), "mxfp8")
    refused(nn.Conv2d(3, 32, 3), "mxfp8")
    refused(nn.Linear(32, 24), dnn.Recipe(fprop_w="format=e2m1,block=16x16,scale_format=fp32"))
    refused(dnn.GroupedLinear(4, 10, 32), "mxfp8")
    dnn.prepare_(nn.Linear(64, 32), "mxfp8", ragged="error")
    dnn.prepare_(nn.Conv2d(32, 32, 3), "mxfp8", ragged="error")
    dnn.prepare_(nn.Linear(32, 10), dnn.Recipe.weights("int4_g32"), ragged="error")


def test_what_the_run_alone_shows_must_fill_blocks_too():
    layer = dnn.prepare_(nn.Linear(64, 32), "mxfp8", ragged="error")
    layer(torch.randn(2, 16, 64)).sum().backward()
    with pytest.raises(UserError, match=r"wgrad_g=mxfp8_e4m3: 40 elements do not fill blocks of 32"):
        layer(torch.randn(40, 64)).sum().backward()
    product = dnn.prepare_(dnn.MatrixProduct(), dnn.Recipe.get("mxfp8", sites="product"), ragged="error")
    with pytest.raises(UserError, match=r"fprop_x=mxfp8_e4m3: 40 elements"):
        product(torch.randn(32, 40), torch.randn(40, 32))


def test_describe_tells_rotations_accumulator_and_switch():
    how = dither.Accumulator(fraction_bits=13, promote_every=128)
    recipe = dnn.Recipe.get("mxfp4_rht_sr", accumulate=how, forward_bf16_from=0.5, sites=("linear", "norm"))
    by_name = {site.name: site for site in dnn.describe(gpt(), recipe)}
    text = str(dnn.describe(gpt(), recipe))
    row = next(line for line in text.splitlines() if line.startswith("blocks.0.mlp.up"))
    for part in (
        "dgrad: hadamard 64 fresh signs",
        "wgrad: hadamard 64",
        str(how),
        "bf16 from 0.5 of the run",
    ):
        assert part in row
    norm = next(line for line in text.splitlines() if line.startswith("blocks.0.mlp_norm"))
    assert "hadamard" not in norm and by_name["blocks.0.mlp_norm"].is_quantized


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_grouped_linears_are_linears_side_by_side(rounding):
    torch.manual_seed(0)
    spec = f"mxfp4:rounding={rounding}"
    recipe = dnn.Recipe(**dict.fromkeys(OPERANDS, spec))
    layer = dnn.GroupedLinear(3, 32, 64, bias=True)
    x, ends = torch.randn(12, 32, requires_grad=True), torch.tensor([4, 4, 12])
    assert layer.bias is not None
    each = torch.cat([nn.functional.linear(x[a:b], layer.weight[e], layer.bias[e])
                      for e, (a, b) in enumerate(((0, 4), (4, 4), (4, 12)))])  # fmt: skip
    assert torch.equal(layer(x, ends), each)
    dnn.prepare_(layer, recipe, seed=3)
    y = layer(x, ends)
    # Operands are those of the whole tensors: the bits of an element do not depend on the expert.
    rng: Any = layer.dither_rng
    draws = [{} if rng is None else {"rng": rng[row]} for row in range(6)]
    xq = twin.fake_quant(x.detach(), Quantizer(spec), -1, **draws[0])
    wq = twin.fake_quant(layer.weight.detach(), Quantizer(spec), -1, **draws[1])
    assert torch.equal(y[4:], nn.functional.linear(xq[4:], wq[2], layer.bias[2]))
    g = torch.randn_like(y)
    dx, dw, _ = torch.autograd.grad(y, [x, *layer.parameters()], g)
    gq = twin.fake_quant(g, Quantizer(spec), -1, **draws[2])
    wq = twin.fake_quant(layer.weight.detach(), Quantizer(spec), 1, **draws[3])
    torch.testing.assert_close(dx[:4], gq[:4] @ wq[0])
    assert not dw[1].any() and dw[2].any()
    with pytest.raises(UserError, match="rise to the 12 rows"):
        layer(x, torch.tensor([4, 13, 12]))


def test_grouped_linears_in_equal_shares():
    torch.manual_seed(0)
    layer = dnn.GroupedLinear(3, 32, 64)
    x = torch.randn(3, 8, 32, requires_grad=True)
    dnn.prepare_(layer, "mxfp8")
    grouped = layer(x)
    sorted_ = layer(x.reshape(24, 32), torch.tensor([8, 16, 24]))
    assert torch.equal(grouped.reshape(24, 64), sorted_)
    g = torch.randn_like(grouped)
    ours = torch.autograd.grad(grouped, [x, layer.weight], g)
    theirs = torch.autograd.grad(sorted_, [x, layer.weight], g.reshape(24, 64))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_product_without_a_weight():
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 40), torch.randn(2, 40, 8)
    layer = dnn.MatrixProduct()
    assert torch.equal(layer(a, b), a @ b)
    dnn.prepare_(layer, dnn.Recipe.get("mxfp8", sites="product"))
    q = Quantizer("mxfp8_e4m3")
    assert torch.equal(layer(a, b), twin.fake_quant(a, q, -1) @ twin.fake_quant(b, q, -2))


def test_group_norm():
    torch.manual_seed(0)
    layer = nn.GroupNorm(2, 40)
    nn.init.normal_(layer.weight)
    x = torch.randn(3, 40, 5)
    dnn.prepare_(layer, dnn.Recipe.get("mxfp8", sites="norm"))
    weight = twin.fake_quant(layer.weight.detach(), Quantizer("mxfp8_e4m3"), -1)
    assert torch.equal(layer(x), nn.functional.group_norm(x, 2, weight, layer.bias))
