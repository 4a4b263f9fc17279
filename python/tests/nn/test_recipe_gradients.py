"""Backward recipes that are unbiased, rotations that cancel, and recipes under compile and recomputation."""

# .grad is optional to the type checker, and attributes of a swapped module are unknown to it.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dither.nn as dnn
from dither.errors import UserError
from dither.nn.kept import kept
from dither.nn.streams import OPERANDS

TOKENS, K, N = 64, 64, 128


def problem():
    generator = torch.Generator().manual_seed(0)
    x, w, g = (torch.randn(s, generator=generator) for s in ((TOKENS, K), (N, K), (TOKENS, N)))
    return x, w, g


def gradients(recipe, steps=(0,)):
    """(steps, elements): dx and dW, flattened, at each step."""
    x, w, g = problem()
    layer = nn.Linear(K, N, bias=False)
    with torch.no_grad():
        layer.weight.copy_(w)
    dnn.prepare_(layer, recipe, seed=1, steps=1000)
    found = []
    for step in steps:
        dnn.set_clock_(layer, step)
        given = x.clone().requires_grad_()
        layer.weight.grad = None
        layer(given).backward(g)
        found.append(torch.cat([given.grad.flatten(), layer.weight.grad.flatten()]))
    return torch.stack(found).double()


def without_noise(recipe):
    """The recipe with the operands that are rounded at random left alone."""
    changes = {}
    for name, operand in zip(OPERANDS, recipe.operands, strict=True):
        if isinstance(operand, dnn.Operand) and operand.again:
            changes[name] = "fprop"
        elif operand is not None and operand != "fprop" and operand.is_stochastic:
            changes[name] = None
    return recipe.replace(**changes)


GUARDED = dict.fromkeys(("dgrad_g", "wgrad_g"), "nvfp4:rounding=stochastic,guard=17/16")
UNBIASED = {
    "mxfp4_rht_sr": (dnn.Recipe.get("mxfp4_rht_sr"), 200),
    "tetrajet": (dnn.Recipe.get("tetrajet"), 200),
    "quartet": (dnn.Recipe.get("quartet"), 200),
    "quartet2": (dnn.Recipe.get("quartet2"), 80),
    "nvfp4_pretraining, guarded": (dnn.Recipe.get("nvfp4_pretraining", **GUARDED), 200),
}
"""Recipe, and how many seeds are drawn."""
PARTS = {"dx": slice(0, TOKENS * K), "dw": slice(TOKENS * K, None)}


def bias(recipe, draws):
    """For each gradient: the mean of <drawn, exact> / <exact, exact> - 1 over addressed seeds, its standard
    error, and the mean square of (mean - exact) / standard error over all elements: 1 without any bias."""
    drawn, exact = gradients(recipe, range(draws)), gradients(without_noise(recipe))[0]
    for part in PARTS.values():
        d, e = drawn[:, part], exact[part]
        along = (d @ e) / (e @ e) - 1
        error = d.std(0) / draws**0.5
        square = (((d.mean(0) - e) / error) ** 2).mean()
        yield float(along.mean()), float(along.std() / draws**0.5), float(square)


@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_gradient_is_the_exact_one(name):
    """Power: the standard error along the gradient is below 0.05 %, so that a relative bias of 0.2 % is found
    with probability 1/2 and one of 0.3 % with 0.97."""
    for along, error, square in bias(*UNBIASED[name]):
        assert error < 5e-4, "the test has not the power that it claims"
        assert abs(along) < 4 * error, (along, error)
        assert abs(square - 1) < 0.15, square


@pytest.mark.parametrize("name", ["nvfp4_pretraining", "fp4_ue5m3"])
def test_scales_rounded_to_nearest_clip_and_bias_a_little(name):
    """As published: an 8-bit scale that was rounded down clips the largest element of its block, and no
    stochastic rounding makes up for it. The same test finds the 0.1 to 0.5 % that are missing."""
    for along, error, square in bias(dnn.Recipe.get(name), 200):
        assert -0.005 < along < -0.001 and along < -4 * error and square > 1.5


def test_rounding_to_nearest_is_biased_more():
    nearest = dnn.Recipe.get("mxfp4_forward", **dict.fromkeys(OPERANDS[2:], "mxfp4"))
    got, exact = gradients(nearest)[0], gradients("fp32")[0]
    for part in PARTS.values():
        assert got[part] @ exact[part] / (exact[part] @ exact[part]) < 0.97


@pytest.mark.parametrize("signs", ["none", "fixed", "fresh"])
@pytest.mark.parametrize("block", [2, 32, 256])
@pytest.mark.parametrize("reuse", [False, True])
def test_rotations_of_both_factors_cancel(signs, block, reuse):
    rotations = {f"{p}_hadamard": dnn.Hadamard(block, signs) for p in ("fprop", "dgrad", "wgrad")}
    recipe = dnn.Recipe(**rotations, **(dict(dgrad_w="fprop", wgrad_x="fprop") if reuse else {}))
    assert not recipe.is_plain and recipe.is_addressed == (signs != "none")
    got, exact = gradients(recipe, (7,))[0], gradients("fp32")[0]
    assert (got - exact).abs().max() < 1e-5 * exact.abs().max()
    x, w, _ = problem()
    layer = nn.Linear(K, N, bias=False)
    with torch.no_grad():
        layer.weight.copy_(w)
    y = dnn.prepare_(layer, recipe)(x)
    torch.testing.assert_close(y, x @ w.t(), rtol=1e-5, atol=1e-4)


MECHANISMS = ("fp8_delayed", "fp8_blockwise", "fp8_blockwise_promoted", "nvfp4_pretraining", "mxfp4_rht_sr",
              "quartet", "quartet2", "tetrajet", "int8_w8a8")  # fmt: skip


def pass_through(module, call):
    dnn.set_clock_(module, 3, 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 40, generator=generator).requires_grad_()
    module.zero_grad()
    call(x).square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in module.parameters())]


def two_layers(recipe):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 48), nn.GELU(), nn.Linear(48, 32))
    return dnn.prepare_(model, recipe, seed=2, steps=100)


@pytest.mark.parametrize("name", MECHANISMS)
def test_compiled_and_recomputed_are_eager(name):
    model = two_layers(name)
    expected = pass_through(model, model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    recomputed = pass_through(model, lambda x: checkpoint(model, x, use_reentrant=False))
    for a, b, c in zip(expected, pass_through(model, compiled), recomputed, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


@pytest.mark.parametrize("name", dnn.Recipe.presets())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.filterwarnings("ignore:values of")
def test_every_preset_trains_in_other_dtypes(name, dtype):
    torch.manual_seed(0)
    layer = dnn.prepare_(nn.Linear(40, 24, dtype=dtype), name, steps=10)
    x = torch.randn(2, 9, 40, dtype=dtype, requires_grad=True)
    layer(x).square().sum().backward()
    exact = torch.autograd.grad(nn.functional.linear(x, layer.weight, layer.bias).square().sum(), x)[0]
    assert x.grad.dtype == layer.weight.grad.dtype == dtype
    assert nn.functional.cosine_similarity(x.grad.flatten(), exact.flatten(), 0) > 0.85


@pytest.mark.parametrize("name", dnn.Recipe.presets())
def test_every_preset_under_autocast_and_in_attention(name):
    torch.manual_seed(0)
    layer = dnn.prepare_(nn.Linear(40, 24), name, steps=10)
    x = torch.randn(2, 9, 40, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad.dtype == torch.float32 and torch.isfinite(layer.weight.grad).all()
    q, k, v = (torch.randn(1, 2, 40, 32, requires_grad=True) for _ in range(3))
    plain = dnn.AttentionProducts()
    exact = torch.autograd.grad(plain(q, k, v, True).square().sum(), (q, k, v))
    recipe = dnn.Recipe.get(name, sites=("attention",))
    attention = plain if name == "fp32" else dnn.prepare_(plain, recipe, steps=10)
    got = torch.autograd.grad(attention(q, k, v, True).square().sum(), (q, k, v))
    for a, b in zip(got, exact, strict=True):
        assert nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0) > 0.7


def test_the_forward_turns_to_bf16_near_the_end():
    layer = nn.Linear(64, 64, bias=False)
    dnn.prepare_(layer, "nvfp4_pretraining", steps=100)
    x = torch.randn(8, 64)
    bf16 = x.bfloat16().float() @ layer.weight.detach().bfloat16().float().t()
    for step, switched in ((0, False), (81, False), (82, True), (99, True), (10, False)):
        dnn.set_clock_(layer, step)
        assert torch.equal(layer(x), bf16) == switched
    dnn.set_clock_(layer, 82)
    given = x.clone().requires_grad_()
    layer(given).sum().backward()
    wq = dnn.ops.fake_quant(layer.weight.detach(), "nvfp4:block=16x16")
    torch.testing.assert_close(
        given.grad, torch.ones(8, 64) @ wq
    )  # ones are exact: the backward stays in FP4
    with pytest.warns(UserWarning, match=r"0\.82 of the run: pass steps="):
        dnn.prepare_(nn.Linear(64, 64), "nvfp4_pretraining")


def test_blocks_at_the_ends_are_kept():
    names = [f"h.{n}.{part}" for n in range(10) for part in ("up.0", "down.1")] + ["pre.0.x", "head"]
    assert kept(names, 0, 0) == set()
    assert kept(names, 1, 2) == {n for n in names if n.startswith(("h.0.", "h.8.", "h.9."))}
    assert kept(names, 0, 0.15) == {n for n in names if n.startswith(("h.8.", "h.9."))}
    assert kept(["0", "2", "head"], 2, 8) == set(), "layers that are numbered themselves are no blocks"
    assert kept(["h.0.up", "h.0.down"], 2, 8) == set(), "one block is left"
    assert kept(["h.0.up", "h.1.up", "h.2.up"], 2, 8) == {"h.1.up", "h.2.up"}
    for wrong in ((1,), (-1, 0)):
        with pytest.raises(UserError, match="keep_blocks"):
            dnn.Recipe.get("nvfp4", keep_blocks=wrong)


def test_recipes_that_mean_nothing():
    with pytest.raises(UserError, match="power of two"):
        dnn.Hadamard(12)
    with pytest.raises(UserError, match="unknown signs 'randm'"):
        dnn.Hadamard(16, "randm")
    with pytest.raises(UserError, match="rotated basis"):
        dnn.Recipe.get("quartet", dgrad_w="mxfp4")
    with pytest.raises(UserError, match="belongs to the forward"):
        dnn.Recipe(dgrad_g=dnn.Operand("mxfp4", rule="quest"))
    with pytest.raises(UserError, match="is about nvfp4, not mxfp4"):
        dnn.Operand("mxfp4", rule="ms_eden")
    with pytest.raises(UserError, match="give one of them"):
        dnn.Operand("fp8_e4m3", delayed=dnn.Delayed(), least=1e-4)
    with pytest.raises(UserError, match="between 0 and 1"):
        dnn.Recipe.get("nvfp4", forward_bf16_from=82)
    assert dnn.Recipe(fprop_x=dnn.Operand("mxfp4")) == dnn.Recipe(fprop_x="mxfp4")
