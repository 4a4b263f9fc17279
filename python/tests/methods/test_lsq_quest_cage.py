"""LSQ, QuEST and CAGE against their formulas, and the plan of a fused cooldown."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from dither import laws, methods
from dither.errors import UserError
from dither.methods.lsq import Rounded
from dither.methods.quest import CLIP, fitted
from dither.nn import ops
from dither.quantizer import Quantizer

torch.set_num_threads(1)


def linear(inputs=64, outputs=16, dtype=torch.float32) -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, outputs).to(dtype))


# LSQ ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["int4_tensor", "int3_row", "int4_g32", "fp4_g32"])
def test_lsq_gradients_are_those_of_the_surrogate(spec):
    """The surrogate with the rounding held fixed, v(w, s) = s (w/s + [Q(z0) - z0]) inside the range and s end
    outside: its derivatives by central differences, times the factor 1/sqrt(n q).
    """
    fmt = Quantizer(spec).format
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(3, 32, dtype=torch.float64, generator=generator)
    s = torch.tensor([[0.2], [0.11], [0.5]], dtype=torch.float64)
    g = torch.randn(3, 32, dtype=torch.float64, generator=generator)
    z0 = w / s
    offset, ends = ops.cast(z0, fmt) - z0, ops.cast(z0, fmt)
    inside = z0.abs() <= fmt.max
    assert inside.any() and not inside.all()

    def surrogate(w, s):
        return (g * torch.where(inside, s * (w / s + offset), s * ends)).sum()

    factor = 1 / math.sqrt(32 * fmt.max)
    leaf_w: Any = w.clone().requires_grad_()
    leaf_s: Any = s.clone().requires_grad_()
    out = Rounded.apply(leaf_w, leaf_s, Quantizer(format=fmt), factor)
    torch.testing.assert_close(out, s * ends)
    (g * out).sum().backward()
    for leaf, base, other, scale in ((leaf_w, w, s, 1.0), (leaf_s, s, w, factor)):
        for index in [(0, 0), (1, 0), (2, 0)]:
            step = torch.zeros_like(base)
            step[index] = 1e-6
            high, low = (
                surrogate(*((b, other) if base is w else (other, b))) for b in (base + step, base - step)
            )
            assert float(leaf.grad[index]) == pytest.approx(float(high - low) / 2e-6 * scale, abs=1e-7)


@pytest.mark.parametrize("spec", ["int4_tensor", "int3_row", "int4_g32"])
def test_lsq_starts_at_the_papers_step_and_shares_one_with_a_block(spec):
    model = linear()
    method = methods.Lsq(model, spec)
    w, step = model[0].weight.detach(), method.steps["0.weight"]
    q, size = method.quantizer.format.max, {"int4_tensor": 1024, "int3_row": 64, "int4_g32": 32}[spec]
    expected = 2 * w.reshape(-1, size).abs().mean(1) / math.sqrt(q)
    torch.testing.assert_close(step.detach().flatten(), expected)
    torch.testing.assert_close(next(method.parameters()), step)
    blocks, s = w.reshape(-1, size), step.detach().reshape(-1, 1)
    seen = (blocks / s).round().clamp(-q, q) * s
    torch.testing.assert_close(model(torch.eye(64)) - model[0].bias, seen.view_as(w).T)


def test_lsq_descends_a_quadratic_in_its_steps():
    """From a step three times too large, |v - w|^2 falls to within 5% of the best step's on a fine grid."""
    model = linear()
    method = methods.Lsq(model, "int4_tensor")
    w = model[0].weight.detach().clone()
    model.requires_grad_(False)
    (step,) = method.parameters()
    with torch.no_grad():
        step.mul_(3.0)
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)
    for i in range(600):
        optimizer.zero_grad()
        (model(torch.eye(64)).T - model[0].bias[:, None] - w).square().sum().backward()
        optimizer.step()
        method.after_step_(i, 2e-3)

    def error(s):
        return float(((w / s).round().clamp(-7, 7) * s - w).square().sum())

    best = min(error(float(w.abs().max()) / 7 * k / 100) for k in range(20, 140))
    assert error(float(step.detach())) < 1.05 * best


def test_lsq_deploys_and_packs_its_own_steps():
    model = linear()
    method = methods.Lsq(model, "int4_g32")
    with torch.no_grad():
        method.steps["0.weight"].mul_(0.7)  # no longer what the quantizer would choose
    x = torch.randn(4, 64)
    seen = model(x)
    with method.deployed() as plain:
        torch.testing.assert_close(plain(x), seen)
    method.convert_()
    torch.testing.assert_close(model(x), seen)


def test_lsq_learns_a_step_for_inputs_from_their_first_batch():
    model = linear()
    method = methods.Lsq(model, "int4_g32", activations="int8_tensor")
    x = torch.randn(4, 64)
    model(x).square().sum().backward()
    step: Any = method.input_steps["0.weight"]
    expected = 2 * float(x.abs().mean()) / math.sqrt(127)
    assert step.item() == pytest.approx(expected, rel=1e-6) and step.grad.item() != 0
    model(10 * x)
    assert step.item() == pytest.approx(expected, rel=1e-6)  # the first batch alone


def test_lsq_refuses_scales_that_it_cannot_learn():
    for spec in ("mxfp4", "nvfp4", "bf16"):
        with pytest.raises(UserError, match="int4_row"):
            methods.Lsq(linear(), spec)
    with pytest.raises(UserError, match="int8_tensor"):
        methods.Lsq(linear(), "int4_row", activations="int8_row")


# QuEST ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_quest_is_its_few_lines(bits):
    """The authors' formulas: clamp to c rms, points at odd multiples of half a step, mask at half a step."""
    x: Any = torch.randn(6, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 0] = 9.0  # beyond every clip
    x.requires_grad_()
    q = Quantizer(f"int{bits}_row")
    out = fitted(x, q)
    out.sum().backward()
    limit = CLIP[bits] * x.detach().square().mean(-1, keepdim=True).sqrt()
    step = 2 * limit / (2**bits - 1)
    expected = torch.round(x.detach().clamp(-limit, limit) / step + 0.5) * step - step / 2
    torch.testing.assert_close(out.detach(), expected)
    levels = (expected / step).unique().round(decimals=6)
    assert ((levels % 1) == 0.5).all() and levels.abs().max() <= (2**bits - 1) / 2
    mask = (expected - x.detach()).abs() <= step / 2 * (1 + 1e-9)
    assert torch.equal(x.grad, mask.double())
    assert 0 < int((~mask).sum()) < 0.2 * mask.numel()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_the_clips_of_quest_are_the_best_for_a_normal_distribution(bits):
    """The error at c(b) is within 0.1% of the least over a fine search, on the quantiles of a normal."""
    x = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)

    def error(c):
        step = 2 * c / (2**bits - 1)
        return float(((torch.floor(x.clamp(-c, c) / step) + 0.5) * step - x).square().mean())

    assert error(CLIP[bits]) < 1.001 * min(error(CLIP[bits] * k / 100) for k in range(80, 121, 2))


def test_quest_rotates_both_factors_of_a_product_alike():
    model = linear(128, 16)
    plain = model(torch.eye(128)) - model[0].bias
    methods.Quest(model, "int8_row", activations="int8_row", hadamard=64)
    x = torch.randn(8, 128)
    exact = x @ plain + model[0].bias
    assert float((model(x) - exact).norm() / exact.norm()) < 0.02


def test_quest_rotates_weights_back_where_they_are_alone():
    model = linear(128, 16)
    w = model[0].weight.detach().clone()
    method = methods.Quest(model, "int4_row", hadamard=128)
    seen = (model(torch.eye(128)) - model[0].bias).T.detach()
    rotation = ops.hadamard(torch.eye(128), 128, None)
    expected = fitted(w @ rotation, Quantizer("int4_row")) @ rotation.T
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    with method.deployed():
        torch.testing.assert_close(model[0].weight, seen, rtol=1e-4, atol=1e-5)
    model(torch.eye(128)).sum().backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_quest_refuses_what_it_does_not_know():
    with pytest.raises(UserError, match="int4_row"):
        methods.Quest(linear(), "mxfp4")
    with pytest.raises(UserError, match="cannot be rotated"):
        methods.Quest(linear(64), "int4_row", hadamard=128)
    with pytest.raises(UserError, match="no zero"):
        methods.Quest(linear(), "int4_row").convert_()


# CAGE -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["decoupled", "coupled"])
def test_the_fixed_point_of_cage_balances_gradient_and_rounding_error(mode):
    """1/2 |A (W - T)|^2 with the minimum between grid points: SGD settles where
    grad f(Q(w)) = lam (Q(w) - w); without the pull it does not settle. The block maximum is held by a large
    weight without gradient, so the scale stays."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(32, 8, bias=False)).double()
    target = torch.rand(8, 32, dtype=torch.float64) * 6 - 3
    with torch.no_grad():
        model[0].weight.copy_(target)
        model[0].weight[:, 0] = 7.0
    curvature = 0.5 + torch.rand(8, 32, dtype=torch.float64)
    curvature[:, 0] = 0.0

    def settle(lam):
        net = copy.deepcopy(model)
        method = methods.Cage(net, "int4_row", lam=lam, mode=mode)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
        for step in range(3000):
            optimizer.zero_grad()
            seen = net(torch.eye(32, dtype=torch.float64)).T
            (0.5 * curvature * (seen - target).square()).sum().backward()
            method.adjust_grad_(step)
            optimizer.step()
            method.after_step_(step, 0.02)
        w = net[0].weight.detach()
        wq = ops.fake_quant(w, "int4_row")
        gradient = curvature * (wq - target)
        pulled = w if mode == "coupled" else w - 0.02 * gradient  # where the decoupled pull finds the weight
        residual = gradient - lam * (wq - pulled)
        return float(residual[:, 1:].abs().max()), method.last_penalty

    residual, penalty = settle(3.0)
    assert residual < 1e-6 and penalty > 0
    assert settle(0.0)[0] > 1e-2


def test_cage_pulls_by_the_rounding_error():
    for mode in ("decoupled", "coupled"):
        model = linear()
        method = methods.Cage(model, "int4_row", lam=methods.Ramp(10.0, 100, silent=0.8), mode=mode)
        w = model[0].weight.detach().clone()
        distance = w - ops.fake_quant(w, "int4_row")
        for step, lam in ((80, 0.0), (90, 5.0), (100, 10.0)):
            with torch.no_grad():
                model[0].weight.copy_(w)
            model[0].weight.grad = torch.ones_like(w)
            method.adjust_grad_(step)
            method.after_step_(step, 0.01)
            moved = (w - model[0].weight.detach()) / 0.01 + (model[0].weight.grad - 1)
            torch.testing.assert_close(moved, lam * distance, rtol=1e-3, atol=1e-4)
            assert method.last_penalty == pytest.approx(lam / 2 * float(distance.square().sum()))
    with pytest.raises(UserError, match="frozen"):
        methods.Cage(linear().requires_grad_(False), "int4_row")
    with pytest.raises(UserError, match="did you mean 'coupled'"):
        methods.Cage(linear(), "int4_row", mode="couple")


# cooldown -------------------------------------------------------------------------------------------------


def test_the_part_for_qat_is_the_papers():
    """Values of the formula at tokens per byte of weights, as the reference of the paper lists them."""
    for ratio, part in ((10, 0.054), (40, 0.161), (160, 0.266), (400, 0.325), (1000, 0.378), (4000, 0.444)):
        assert methods.qat_part(ratio * 1e6 / 2, 1e6, 4) == pytest.approx(part, abs=6e-4)
    with pytest.raises(UserError, match="more than one"):
        methods.qat_part(1e5, 1e6, 4)
    # the constant of the plan and that of the law are one
    law = laws.get("qat_share")
    published = next(iter(law.published.values()))
    for ratio in (3.0, 20.0, 4e3):
        expected = float(law.predict(published, N=1e6, D=ratio * 1e6 / 2, bits=4))
        assert methods.qat_part(ratio * 1e6 / 2, 1e6, 4) == pytest.approx(expected, rel=1e-12)


def test_a_fused_cooldown_starts_qat_at_the_peak_and_decays_within_it():
    plan = methods.fused_cooldown(1000, tokens=20e6, parameters=1e6, bits=4, warmup=50, final=0.1)
    assert plan.start == 1000 - round(1000 * methods.qat_part(20e6, 1e6, 4))
    rates = [plan.lr(step, 2.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.04) and rates[49] == 2.0
    assert set(rates[49 : plan.start + 1]) == {2.0}
    assert rates[plan.start + 1] < 2.0 and rates[-1] == pytest.approx(0.2)
    falls = {round(a - b, 9) for a, b in zip(rates[plan.start :], rates[plan.start + 1 :], strict=False)}
    assert len(falls) == 1
    with pytest.raises(UserError, match="warmup"):
        methods.FusedCooldown(100, 0.5, warmup=60)


@pytest.mark.parametrize("name", ["lsq", "quest"])
def test_transforms_of_torch_func_are_refused_in_words(name):
    model = nn.Linear(32, 8)
    methods.get(name)(model, "int4_row").set_step(0)
    parameters = {k: v.detach() for k, v in model.named_parameters()}

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    with pytest.raises(UserError, match=r"gradient of its own.*backward\(\)"):
        torch.func.grad(loss)(parameters, torch.randn(4, 32))
