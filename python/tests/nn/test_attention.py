"""Attention beyond AttentionProducts: nn.MultiheadAttention, and modules that call torch's function."""

# Attributes of a swapped module are unknown to the type checker.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportOptionalMemberAccess=false
# pyright: reportArgumentType=false

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from torch import nn

import dither.nn as dnn
from dither.errors import UserError
from dither.nn import twin
from dither.quantizer import Quantizer

ALMOST = dict.fromkeys(
    dnn.streams.OPERANDS, "format=e8m10,overflow=ieee"
)  # the way it goes, not the rounding
EVERYTHING = dnn.Recipe(**ALMOST, sites=("linear", "attention"))


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OPTIONS = [
    {},
    {"batch_first": True},
    {"bias": False, "batch_first": True},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"kdim": 6, "vdim": 10, "batch_first": True},
]


def masks(T, S, heads, batch):
    holes = torch.zeros(T, S, dtype=torch.bool)
    holes[:, 0] = True
    padding = torch.zeros(batch, S, dtype=torch.bool)
    padding[1, -2:] = True
    each = draw(batch * heads, T, S, seed=5)
    return [
        {},
        {"attn_mask": holes},
        {"key_padding_mask": padding},
        {"attn_mask": each, "need_weights": False},
        {"attn_mask": holes, "key_padding_mask": padding, "average_attn_weights": False},
    ]


@pytest.mark.parametrize("recipe", ["mxfp8", "mxfp4_rht_sr"])
def test_attention_that_also_takes_compiles_to_the_same_bits(recipe):
    """In one graph, for two steps, with the gradients of the input and the weights."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        sites = dnn.Recipe.get(recipe).replace(sites=("linear", "attention"))
        models.append(dnn.prepare_(tiny_models.Attention(), sites, also={"attention": ""}, seed=3))
    torch._dynamo.reset()
    compiled = torch.compile(models[1], backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 6, 32, requires_grad=True)
    for step in (1, 2):
        found = []
        for model, call in ((models[0], models[0]), (models[1], compiled)):
            dnn.set_clock_(model, step)
            y = call(x)
            found.append([y, *torch.autograd.grad(y.square().mean(), [x, *model.parameters()])])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_multihead_attention_is_torchs(options):
    torch.manual_seed(0)
    B, T, S, heads = 3, 5, 7, 2
    layer = nn.MultiheadAttention(8, heads, dtype=torch.float64, **options)
    query, key = draw(B, T, 8), draw(B, S, options.get("kdim", 8), seed=2)
    value = draw(B, S, options.get("vdim", 8), seed=3)
    if not options.get("batch_first"):
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
    cases = [((query, key, value), kwargs) for kwargs in masks(T, S, heads, B)]
    if "kdim" not in options:
        cases.append(((query, query, query), {}))
        cases.append(((query[:, 0], query[:, 0], query[:, 0]), {}))  # without a batch axis
    plain = [layer(*args, **kwargs) for args, kwargs in cases]
    dnn.prepare_(layer, EVERYTHING)
    for (args, kwargs), (y, p) in zip(cases, plain, strict=True):
        got, got_p = layer(*args, **kwargs)
        torch.testing.assert_close(got, y, rtol=5e-3, atol=5e-3)
        assert (p is None) == (got_p is None)
        if p is not None:
            torch.testing.assert_close(got_p, p, rtol=5e-3, atol=5e-3)


def test_the_parts_of_multihead_attention_are_sites():
    model = nn.Sequential(nn.MultiheadAttention(32, 2, batch_first=True))
    dnn.prepare_(model, "mxfp8")
    assert {s.name: s.kind for s in dnn.sites(model)} == {"0.in_proj": "linear", "0.out_proj": "linear"}
    x = torch.randn(2, 5, 32)
    layer = model[0]
    y, _ = layer(x, x, x)

    def fq(t):
        return twin.fake_quant(t, Quantizer("mxfp8_e4m3"), -1)

    qkv = F.linear(fq(x), fq(layer.in_proj_weight), layer.in_proj_bias)
    q, k, v = (t.unflatten(-1, (2, 16)).transpose(1, 2) for t in qkv.chunk(3, -1))
    inner = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(y, F.linear(fq(inner), fq(layer.out_proj.weight), layer.out_proj.bias))


def test_out_proj_alone_is_reached():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(32, 2, batch_first=True)
    x = torch.randn(2, 5, 32)
    plain = layer(x, x, x)[0]
    dnn.prepare_(layer, "mxfp4", exempt="in_proj")
    assert [site.name for site in dnn.sites(layer)] == ["out_proj"]
    assert not torch.equal(layer(x, x, x)[0], plain)
    dnn.restore_(layer)
    assert torch.equal(layer(x, x, x)[0], plain)


class Own(nn.Module):
    """Calls torch's function, as models do."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.options = {}

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).flatten(2)


def test_a_module_that_calls_the_function_of_torch():
    torch.manual_seed(0)
    model = nn.Sequential(Own()).double()
    x = draw(2, 6, 16)
    hidden = torch.ones(6, 6, dtype=torch.bool).tril()
    hidden[2] = False  # nothing allowed: zero
    for options in (
        {},
        {"is_causal": True, "scale": 0.3},
        {"attn_mask": hidden},
        {"attn_mask": draw(2, 1, 6, 6)},
    ):
        model[0].options = options
        plain = model(x)
        dnn.prepare_(model, dnn.Recipe(**ALMOST), exempt="*.qkv", also={"attention": "0"})
        assert {site.name for site in dnn.sites(model)} == {"0.qk", "0.pv"}
        torch.testing.assert_close(model(x), plain, rtol=5e-3, atol=5e-3)
        assert not torch.equal(model(x), plain)
        dnn.restore_(model)
        assert type(model[0]) is Own and torch.equal(model(x), plain)


def test_grouped_queries():
    class Grouped(nn.Module):
        def forward(self, q, k, v):
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    q, k, v = draw(2, 6, 4, 8), draw(2, 3, 5, 8, seed=2), draw(2, 3, 5, 8, seed=3)
    layer = Grouped()
    plain = layer(q, k, v)
    dnn.prepare_(layer, dnn.Recipe(**ALMOST), also={"attention": ""})
    torch.testing.assert_close(layer(q, k, v), plain, rtol=5e-3, atol=5e-3)


def test_an_attention_that_does_not_call_it_is_an_error():
    model = dnn.prepare_(nn.Sequential(nn.GELU()), "mxfp8", also={"attention": "0"})
    with pytest.raises(UserError, match="'0' was taken as attention"):
        model(torch.randn(3, 4))


def test_the_cast_of_the_softmax_alone():
    torch.manual_seed(0)
    layer = dnn.AttentionProducts()
    q, k, v = torch.randn(3, 2, 2, 40, 16).unbind()
    dnn.prepare_(layer, "fp32", rules=[("pv", {"fprop_x": "mxfp4"})])
    p = torch.softmax(q @ k.transpose(-1, -2) / 4, -1)
    torch.testing.assert_close(
        layer(q, k, v), twin.fake_quant(p, Quantizer("mxfp4"), -1) @ v, rtol=1e-2, atol=1e-2
    )
    assert [site.operands["fprop_x"] for site in dnn.sites(layer)] == [Quantizer("mxfp4")]


def test_a_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    tokens = torch.randint(0, 40, (2, 9))
    also = {"attention": "*.self_attn", "norm": "*norm"}
    dnn.prepare_(model, "mxfp8", also=also)
    kinds = [site.kind for site in dnn.sites(model)]
    assert (kinds.count("linear"), kinds.count("attention"), kinds.count("norm")) == (7, 2, 3)
    loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, n_positions=16)
    )
    dnn.prepare_(gpt2, "mxfp8", also={"attention": "*.attn"})
    kinds = [site.kind for site in dnn.sites(gpt2)]
    assert (kinds.count("linear"), kinds.count("attention")) == (4, 2)
    gpt2(input_ids=tokens, labels=tokens).loss.backward()
