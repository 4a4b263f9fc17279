"""The six operands of the products, against explicit formulas of a few lines."""

# .grad is optional to the type checker, and attributes of a swapped module are unknown to it.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither.errors import UserError
from dither.nn import twin
from dither.nn.streams import OPERANDS, stream
from dither.quantizer import Quantizer

# Six different quantizers, so that a swapped operand shows.
SIX = dict(
    fprop_x="mxfp8_e4m3",
    fprop_w="int4_g32",
    dgrad_g="mxfp8_e5m2",
    dgrad_w="nvfp4",
    wgrad_g="mxfp6_e3m2",
    wgrad_x="mxfp4",
)
Q = {name: Quantizer(spec) for name, spec in SIX.items()}


def fq(x, name, axis, **draws):
    return twin.fake_quant(x, Q[name], axis, **draws)


def problem(shape=(3, 21, 40), out=24, bias=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(shape[-1], out, bias=bias, dtype=dtype)
    x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    g = torch.randn((*shape[:-1], out), generator=generator).to(dtype)
    return layer, x, g


def test_linear_is_the_formula():
    layer, x, g = problem()
    dnn.prepare_(layer, dnn.Recipe(**SIX))
    y = layer(x)
    y.backward(g)
    w, x_MK, g_MN = layer.weight.detach(), x.detach().reshape(-1, 40), g.reshape(-1, 24)
    with torch.no_grad():
        assert torch.equal(y, nn.functional.linear(fq(x, "fprop_x", -1), fq(w, "fprop_w", -1), layer.bias))
        # 63 tokens: blocks of wgrad run over the flattened tokens, not inside each sequence of 21.
        assert torch.equal(layer.weight.grad, fq(g_MN, "wgrad_g", 0).t() @ fq(x_MK, "wgrad_x", 0))
        assert torch.equal(x.grad, fq(g, "dgrad_g", -1) @ fq(w, "dgrad_w", 0))
        assert torch.equal(layer.bias.grad, g_MN.sum(0))


@pytest.mark.parametrize("alone", OPERANDS)
def test_one_operand_alone(alone):
    layer, x, g = problem(bias=False)
    dnn.prepare_(layer, dnn.Recipe(**{alone: SIX[alone]}))
    y = layer(x)
    y.backward(g)
    w, x_MK, g_MN = layer.weight.detach(), x.detach().reshape(-1, 40), g.reshape(-1, 24)

    def of(t, name, axis):
        return fq(t, name, axis) if name == alone else t

    assert torch.equal(y, of(x.detach(), "fprop_x", -1) @ of(w, "fprop_w", -1).t())
    assert torch.equal(layer.weight.grad, of(g_MN, "wgrad_g", 0).t() @ of(x_MK, "wgrad_x", 0))
    assert torch.equal(x.grad, of(g, "dgrad_g", -1) @ of(w, "dgrad_w", 0))


def test_weight_only_is_the_straight_through_estimator():
    layer, x, g = problem(bias=False)
    dnn.prepare_(layer, dnn.Recipe.weights("int4_g32"))
    y = layer(x)
    y.backward(g)
    wq = twin.fake_quant(layer.weight.detach(), Quantizer("int4_g32"), -1)
    assert torch.equal(y, x.detach() @ wq.t())
    assert torch.equal(x.grad, g @ wq)
    assert torch.equal(layer.weight.grad, g.reshape(-1, 24).t() @ x.detach().reshape(-1, 40))


def test_only_the_operands_needed_are_saved():
    layer, x, _ = problem(bias=False)
    dnn.prepare_(layer, "mxfp8")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    assert {t.data_ptr() for t in saved} == {x.data_ptr(), layer.weight.data_ptr()}
    saved.clear()
    layer.weight.requires_grad_(False)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    assert {t.data_ptr() for t in saved} == {layer.weight.data_ptr()}


def test_a_graph_keeps_its_operands():
    """Operands lie in memory that is used again; what differentiates the backward must not see that."""

    def second_order(disturb: bool) -> torch.Tensor:
        torch.manual_seed(0)
        layer, x, g = problem(bias=False)
        dnn.prepare_(layer, "mxfp8")
        (dw,) = torch.autograd.grad(layer(x), layer.weight, g, create_graph=True)
        if disturb:
            layer(torch.full_like(x, 3.0)).backward(torch.ones_like(g))
        return torch.autograd.grad(dw.square().sum(), x)[0]

    assert torch.equal(second_order(False), second_order(True))


def test_threads_do_not_share_operands():
    layer, x, _ = problem((256, 40))
    dnn.prepare_(layer, "mxfp8")
    inputs = [x.detach() * (k + 1) for k in range(4)]
    expected = [layer(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert all(torch.equal(a, b) for a, b in zip(pool.map(layer, inputs), expected, strict=True))


@pytest.mark.parametrize("shape", [(40,), (5, 40), (2, 3, 4, 40), (0, 40)])
def test_any_leading_axes(shape):
    layer, x, g = problem(shape)
    dnn.prepare_(layer, "mxfp8")
    layer(x).backward(g)
    assert x.grad is not None and x.grad.shape == shape and layer.weight.grad.shape == (24, 40)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_run_in_their_dtype(dtype):
    layer, x, g = problem(dtype=dtype)
    dnn.prepare_(layer, "mxfp8")
    y = layer(x)
    y.backward(g)
    assert y.dtype == x.grad.dtype == layer.weight.grad.dtype == dtype
    q = Quantizer("mxfp8_e4m3")
    expected = nn.functional.linear(twin.fake_quant(x, q), twin.fake_quant(layer.weight, q), layer.bias)
    assert torch.equal(y, expected)


def test_autocast_rounds_operands_once_and_returns_gradients_in_their_own_dtype():
    layer, x, g = problem()
    dnn.prepare_(layer, "mxfp8")
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.backward(g.to(y.dtype))
    assert y.dtype == torch.bfloat16 and x.grad.dtype == layer.weight.grad.dtype == torch.float32
    q = Quantizer("mxfp8_e4m3")
    xq, wq = (twin.fake_quant(t.detach(), q, out_dtype=torch.bfloat16) for t in (x, layer.weight))
    assert torch.equal(y, nn.functional.linear(xq, wq, layer.bias.bfloat16()))


def test_attention_products_are_the_formula():
    generator = torch.Generator().manual_seed(1)
    q, k, v, g = (torch.randn(2, 3, 37, 16, generator=generator) for _ in range(4))
    q, k, v = (t.requires_grad_() for t in (q, k, v))
    attention = dnn.AttentionProducts()
    dnn.prepare_(attention, dnn.Recipe(**SIX, sites=("attention",)))
    y = attention(q, k, v, True)
    y.backward(g)
    with torch.no_grad():
        scores = fq(q, "fprop_x", -1) @ fq(k, "fprop_w", -1).transpose(-1, -2) / 4
        p = scores.masked_fill(torch.ones(37, 37, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
        assert torch.equal(y, fq(p, "fprop_x", -1) @ fq(v, "fprop_w", -2))
        dp = fq(g, "dgrad_g", -1) @ fq(v, "dgrad_w", -1).transpose(-1, -2)
        dv = fq(p, "wgrad_x", -2).transpose(-1, -2) @ fq(g, "wgrad_g", -2)
        ds = p * (dp - (dp * p).sum(-1, keepdim=True)) / 4
        dq = fq(ds, "dgrad_g", -1) @ fq(k, "dgrad_w", -2)
        dk = fq(ds, "wgrad_g", -2).transpose(-1, -2) @ fq(q, "wgrad_x", -2)
    assert torch.equal(v.grad, dv)
    # The softmax's backward is not written as torch writes it, so a value next to a tie may go the other way.
    for got, expected in ((q.grad, dq), (k.grad, dk)):
        assert (got - expected).norm() < 0.02 * expected.norm()


def test_plain_and_quantized_attention_agree_without_rounding():
    """With operands that hardly round, the emulated attention is torch's."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 2, 19, 8, generator=generator, requires_grad=True) for _ in range(3))
    attention = dnn.AttentionProducts()
    expected = attention(q, k, v, True)
    want = torch.autograd.grad(expected.square().sum(), (q, k, v))
    exact = dict.fromkeys(OPERANDS, Quantizer(format="tf32"))
    dnn.prepare_(attention, dnn.Recipe(**exact, sites=("attention",)))
    y = attention(q, k, v, True)
    got = torch.autograd.grad(y.square().sum(), (q, k, v))
    torch.testing.assert_close(y, expected, rtol=5e-3, atol=5e-3)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_norm_and_embedding_use_the_quantized_weight():
    torch.manual_seed(0)
    q = Quantizer("mxfp4")
    ids, x = torch.randint(0, 11, (4, 5)), torch.randn(3, 64)
    for layer, forward, given in (
        (nn.Embedding(11, 40, padding_idx=2), lambda w: nn.functional.embedding(ids, w, 2), ids),
        (nn.LayerNorm(64), lambda w: nn.functional.layer_norm(x, (64,), w, torch.zeros(64)), x),
        (nn.RMSNorm(64, eps=1e-6), lambda w: nn.functional.rms_norm(x, (64,), w, 1e-6), x),
    ):
        nn.init.normal_(layer.weight)
        dnn.prepare_(layer, dnn.Recipe(fprop_w="mxfp4", sites=("embedding", "norm")))
        y = layer(given)
        leaf = twin.fake_quant(layer.weight.detach(), q).requires_grad_()
        expected = forward(leaf)
        assert torch.equal(y, expected)
        y.square().sum().backward()
        expected.square().sum().backward()
        assert torch.equal(layer.weight.grad, leaf.grad)


def test_stochastic_operands_draw_from_their_own_streams():
    layer, x, g = problem(bias=False)
    recipe = dnn.Recipe(**{name: "mxfp4:rounding=stochastic" for name in OPERANDS})
    dnn.prepare_(layer, recipe, seed=2**63 + 5)
    dnn.set_clock_(layer, 7, 3)
    y = layer(x)
    dnn.set_clock_(layer, 8)  # the backward belongs to its forward's position
    y.backward(g)
    q = Quantizer("mxfp4:rounding=stochastic")
    rng = {n: torch.tensor([-(2**63) + 5, stream(0, i, 3, 7)]) for i, n in enumerate(OPERANDS)}
    w, x_MK, g_MN = layer.weight.detach(), x.detach().reshape(-1, 40), g.reshape(-1, 24)

    def of(t, name, axis):
        return twin.fake_quant(t, q, axis, rng=rng[name])

    assert torch.equal(y, of(x.detach(), "fprop_x", -1) @ of(w, "fprop_w", -1).t())
    assert torch.equal(layer.weight.grad, of(g_MN, "wgrad_g", 0).t() @ of(x_MK, "wgrad_x", 0))
    assert torch.equal(x.grad, of(g, "dgrad_g", -1) @ of(w, "dgrad_w", 0))


@pytest.mark.parametrize("recipe", dnn.Recipe.presets())
def test_features_that_do_not_fit_are_refused(recipe):
    """Rotations fill 41 and 40 features up to 64 alike."""
    layer = dnn.prepare_(nn.Linear(40, 32), recipe, steps=1)
    with pytest.raises((RuntimeError, UserError)):
        layer(torch.randn(3, 41))
    product = dnn.MatrixProduct()
    if recipe != "fp32":
        dnn.prepare_(product, dnn.Recipe.get(recipe, sites="product"), steps=1)
    with pytest.raises((RuntimeError, UserError)):
        product(torch.randn(3, 41), torch.randn(40, 5))


def test_a_mask_without_a_rotation_is_applied():
    """QuEST's trust mask belongs to its operand whatever the backward multiplies by."""
    torch.manual_seed(0)
    x, g = torch.randn(8, 64, requires_grad=True), torch.randn(8, 32)
    with torch.no_grad():
        x[:, 0] = 9
    layer = nn.Linear(64, 32, bias=False)
    (exact,) = torch.autograd.grad(layer(x), x, g)
    dnn.prepare_(layer, dnn.Recipe(fprop_x=dnn.Operand("mxfp4", rule="quest")))
    (got,) = torch.autograd.grad(layer(x), x, g)
    assert not got[:, 0].any() and torch.equal(got[got != 0], exact[got != 0])
    assert (got != 0).float().mean() > 0.9


def test_memory_that_inference_touched_first_serves_training():
    """The shared memory of a thread grows where it is first needed; an inference tensor would refuse to be
    written to."""
    layer: Any = dnn.prepare_(nn.Linear(33, 1023), "fp8_delayed")
    x = torch.randn(517, 33)

    def run() -> None:
        with torch.inference_mode():
            expected = layer(x)
        y = layer(x)
        y.sum().backward()
        seen.append(torch.equal(expected, y))

    seen: list[bool] = []
    thread = threading.Thread(target=run)  # a thread without such memory
    thread.start()
    thread.join()
    assert seen == [True]
