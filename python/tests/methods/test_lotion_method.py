"""Lotion as a method: its three modes, lambda, what it refuses, what it says of itself, its state."""

from __future__ import annotations

import copy
from typing import Any

import grids
import pytest
import torch
from torch import nn

from dither import methods
from dither.errors import UserError
from dither.methods.noise import penalty_and_gradient
from dither.quantizer import Quantizer

torch.set_num_threads(1)


class Ones(methods.Curvature):
    """g = 1 + a fixed pattern, so that blocks do not cancel."""

    def diagonal(self, name, weight):
        return torch.linspace(0.5, 1.5, weight.numel(), dtype=weight.dtype).view(weight.shape)


def small_model(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 3)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:  # inside the cells: a small step crosses no kink
                parameter.copy_(torch.from_numpy(grids.weights(parameter.shape, grids.GRIDS["int4"], 32, 0)))
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype) * 0.3)
    return model


def batch(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 40, generator=generator, dtype=dtype), torch.randint(
        0, 3, (16,), generator=generator
    )


def one_step(mode, make_optimizer, lr, steps=1, lam=0.7, **options):
    model = small_model()
    optimizer = make_optimizer(model.parameters(), lr)
    lotion = methods.Lotion(
        model, "int4_g32", curvature=Ones(), lam=lam, mode=mode, optimizer=optimizer, **options
    )
    x, y = batch()
    for step in range(steps):
        lotion.set_step(step)
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), y) + lotion.penalty(step)).backward()
        lotion.adjust_grad_(step)
        optimizer.step()
        lotion.after_step_(step, lr)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr)


def adam(parameters, lr):
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)


@pytest.mark.parametrize("scale_grad", [True, False])
def test_modes_agree_under_sgd(scale_grad):
    """loss and grad take the same step; decoupled differs in the second order of lr only."""
    start = torch.cat([p.detach().flatten() for p in small_model().parameters()])
    gaps = []
    for lr in (2e-4, 1e-4):
        loss, grad, decoupled = (
            one_step(mode, sgd, lr, scale_grad=scale_grad) for mode in ("loss", "grad", "decoupled")
        )
        torch.testing.assert_close(loss, grad, rtol=0, atol=1e-15)
        gaps.append((loss - decoupled).norm().item())
        assert gaps[-1] < 0.02 * (loss - start).norm().item()
    assert 0 < gaps[1] < 0.3 * gaps[0]  # quadratic: a quarter; first order would be a half
    assert not torch.equal(one_step("loss", sgd, 1e-4, lam=0.0), loss)


def test_loss_and_grad_agree_under_adam_for_many_steps():
    torch.testing.assert_close(
        one_step("loss", adam, 1e-3, steps=20), one_step("grad", adam, 1e-3, steps=20), rtol=0, atol=1e-12
    )


def test_decoupled_uses_the_denominators_of_adam():
    model = small_model()
    optimizer = adam(model.parameters(), 1e-2)
    lotion = methods.Lotion(
        model, "int4_g32", curvature=Ones(), lam=0.3, mode="decoupled", optimizer=optimizer
    )
    x, y = batch()
    for step in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        before = {name: weight.detach().clone() for name, weight in lotion.targets.items()}
        lotion.after_step_(step, 1e-2)
        for name, weight in lotion.targets.items():
            state = optimizer.state[weight]
            denominator = (state["exp_avg_sq"] / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8
            _, gradient = penalty_and_gradient(
                before[name], Ones().diagonal(name, weight), lotion.quantizer, scale_grad=True
            )
            torch.testing.assert_close(weight.detach(), before[name] - 1e-2 * 0.3 * gradient / denominator)


def test_decoupled_with_the_second_moment_is_the_expected_shortcut():
    """lr * 1/2 lam n_eff sqrt(v) (lo + hi - 2w), frozen lattice, eps negligible."""
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-30)
    curvature = methods.AdamSecondMoment(optimizer, n_eff=16)
    lotion = methods.Lotion(
        model, "int4_g32", curvature=curvature, lam=0.5, mode="decoupled", scale_grad=False
    )
    x, y = batch()
    nn.functional.cross_entropy(model(x), y).backward()
    lotion.after_step_(0, 1e-2)  # before the optimizer's first step: nothing is known, nothing moves
    torch.testing.assert_close(
        model.get_parameter("0.weight"), small_model().get_parameter("0.weight"), rtol=0, atol=0
    )
    optimizer.step()
    weight = model.get_parameter("0.weight")
    before = weight.detach().clone()
    lotion.after_step_(0, 1e-2)
    v = optimizer.state[weight]["exp_avg_sq"] / (1 - 0.999)
    _, unit = penalty_and_gradient(before, torch.ones_like(before), lotion.quantizer, scale_grad=False)
    torch.testing.assert_close(weight.detach(), before - 1e-2 * 0.5 * 16 * v.sqrt() * unit)
    assert not torch.equal(weight.detach(), before)


def test_the_penalty_falls_when_it_is_descended():
    model = small_model()
    lotion = methods.Lotion(model, "int4_g32", curvature=Ones(), lam=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    first = lotion.value(0)
    for step in range(200):
        optimizer.zero_grad()
        lotion.penalty(step).backward()
        optimizer.step()
    assert 0 < lotion.value(200) < 0.2 * first


def test_lambda_is_a_number_or_a_schedule():
    model = small_model()
    constant = methods.Lotion(model, "int4_g32", curvature=Ones(), lam=2.0)
    ramp = methods.Lotion(model, "int4_g32", curvature=Ones(), lam=methods.Ramp(2.0, steps=100))
    assert ramp.penalty(50).item() == 0.0
    assert ramp.penalty(75).item() == pytest.approx(constant.penalty(75).item() / 2)
    assert ramp.penalty(100).item() == ramp.penalty(130).item() == pytest.approx(constant.value(0))
    with pytest.raises(UserError, match="at least 0"):
        methods.Lotion(model, "int4_g32", curvature=Ones(), lam=lambda step: -1.0).penalty(3)


@pytest.mark.parametrize("silent", [0.0, 0.25, 0.9])
def test_ramp_is_zero_then_linear(silent):
    ramp = methods.Ramp(3.0, steps=200, silent=silent)
    values = [ramp(step) for step in range(250)]
    start = int(silent * 200)
    assert all(value == 0 for value in values[: start + 1])
    assert values[200] == values[-1] == pytest.approx(3.0)
    slopes = {round(b - a, 9) for a, b in zip(values[start:200], values[start + 1 : 201], strict=True)}
    assert len(slopes) == 1


def test_a_cosine_ramp_rises_slowly_at_both_ends():
    linear, cosine = (
        methods.Ramp(3.0, steps=200, silent=0.25),
        methods.CosineRamp(3.0, steps=200, silent=0.25),
    )
    for step in (0, 50, 125, 200, 300):  # silence, start, middle, end, after it
        assert cosine(step) == pytest.approx(linear(step))
    assert cosine(60) < 0.3 * linear(60) and 3 - cosine(190) < 0.3 * (3 - linear(190))
    assert "cosine" in str(cosine)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"steps": 5, "silent": 1.0}, {"steps": 5, "silent": -0.1}])
def test_ramp_checks_its_arguments(bad):
    with pytest.raises(UserError):
        methods.Ramp(1.0, **bad)


@pytest.mark.parametrize("spec", ["mxfp4", "nvfp4", "mxfp8_e4m3:scale_rule=even", "mxint8"])
@pytest.mark.parametrize("name", ["lotion", "rat"])
def test_a_clipping_rule_is_refused_with_the_way_out(name, spec):
    options: dict[str, Any] = {"curvature": Ones()} if name == "lotion" else {}
    model = small_model(torch.float32)
    with pytest.raises(UserError, match=r"clips.*scale_rule=rceil") as error:
        methods.get(name)(model, spec, **options)
    remedy = str(error.value).split("Quantizer('")[1].split("')")[0]
    methods.get(name)(model, remedy, **options)  # what the message says works


@pytest.mark.parametrize("spec", ["bf16", "format=e4m3"])
def test_a_plain_cast_is_refused(spec):
    with pytest.raises(UserError, match="int4_g32"):
        methods.Lotion(small_model(), spec, curvature=Ones())


def test_a_quantized_scale_is_called_an_extension():
    model = small_model()
    paper = methods.Lotion(model, "int4_g32", curvature=Ones())
    assert paper.label == "LOTION" and paper.scale_derivative == "exact"
    assert "extension" not in paper.describe()
    for spec, scale in (("mxfp4:scale_rule=rceil", "e8m0"), ("nvfp4:scale_rule=rceil", "e4m3")):
        extended = methods.Lotion(model, spec, curvature=Ones())
        assert extended.scale_derivative == "proportional"
        assert "extension" in extended.label and scale in extended.label and "proportional" in extended.label
        assert "extension" in extended.describe()
        frozen = methods.Lotion(model, spec, curvature=Ones(), scale_grad=False)
        assert frozen.scale_derivative == "frozen" and "frozen" in frozen.label
    assert "frozen" in methods.Lotion(model, "int4_g32", curvature=Ones(), scale_grad=False).label


def test_frozen_weights_are_named():
    model = small_model()
    model.get_parameter("2.weight").requires_grad_(False)
    with pytest.raises(UserError, match=r"frozen.*2\.weight"):
        methods.Lotion(model, "int4_g32", curvature=Ones())
    assert list(methods.Lotion(model, "int4_g32", curvature=Ones(), exempt=["2"]).targets) == ["0.weight"]


def test_modes_and_optimizers_are_checked():
    model = small_model()
    with pytest.raises(UserError, match="did you mean 'decoupled'"):
        methods.Lotion(model, "int4_g32", curvature=Ones(), mode="decouple")
    with pytest.raises(UserError, match="optimizer="):
        methods.Lotion(model, "int4_g32", curvature=Ones(), mode="decoupled")
    rms = torch.optim.RMSprop(model.parameters())
    with pytest.raises(UserError, match=r"RMSprop.*mode=\"grad\""):
        methods.Lotion(model, "int4_g32", curvature=Ones(), mode="decoupled", optimizer=rms)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))])
    with pytest.raises(UserError, match=r"0\.weight"):
        methods.Lotion(model, "int4_g32", curvature=Ones(), mode="decoupled", optimizer=other)
    with pytest.raises(UserError, match="lam"):
        methods.Lotion(model, "int4_g32", curvature=Ones(), lam=-1.0)


def test_only_the_hook_of_its_mode_acts():
    model = small_model()
    grad = methods.Lotion(model, "int4_g32", curvature=Ones(), mode="grad")
    assert float(grad.penalty(0)) == 0.0
    grad.adjust_grad_(0)
    gradient = model.get_parameter("0.weight").grad
    assert gradient is not None and gradient.any()
    assert model.get_parameter("0.bias").grad is None
    loss = methods.Lotion(model, "int4_g32", curvature=Ones(), mode="loss")
    before = copy.deepcopy(model.state_dict())
    model.zero_grad()
    loss.adjust_grad_(0)
    loss.after_step_(0, 1.0)
    assert model.get_parameter("0.weight").grad is None
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert loss.value(0) > 0


def test_state_is_refused_by_another_method_or_quantizer():
    model = small_model()
    state = methods.Lotion(model, "int4_g32", curvature=Ones()).state_dict()
    with pytest.raises(UserError, match="int3_row"):
        methods.Lotion(model, "int3_row", curvature=Ones()).load_state_dict(state)
    with pytest.raises(UserError, match="lotion"):
        methods.Ptq(model, "int4_g32").load_state_dict(state)


@pytest.mark.parametrize("mode", ["loss", "grad", "decoupled"])
def test_a_run_resumed_from_its_state_is_the_same_run(mode):
    """Sampled-label Fisher, AdamW, a stop after 7 of 12 steps: the weights are bit for bit those of an
    unbroken run.
    """
    x, y = batch(torch.float32)

    def build():
        model = small_model(torch.float32)
        optimizer = adam(model.parameters(), 1e-2)
        lotion = methods.Lotion(
            model,
            "int4_g32",
            curvature=methods.SampledFisher(every=3, seed=5),
            lam=methods.Ramp(1.0, 12),
            mode=mode,
            optimizer=optimizer,
        )
        return model, optimizer, lotion

    def run(parts, first, last):
        model, optimizer, lotion = parts
        for step in range(first, last):
            lotion.set_step(step)
            lotion.observe(step, lambda: model(x))
            optimizer.zero_grad()
            (nn.functional.cross_entropy(model(x), y) + lotion.penalty(step)).backward()
            lotion.adjust_grad_(step)
            optimizer.step()
            lotion.after_step_(step, 1e-2)

    whole = build()
    run(whole, 0, 12)
    first = build()
    run(first, 0, 7)
    states = copy.deepcopy([part.state_dict() for part in first])
    assert all(isinstance(value, (torch.Tensor, int, float, str)) for value in states[2].values())
    second = build()
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(state)
    run(second, 7, 12)
    for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
    plain = build()
    run(plain, 0, 12)
    assert torch.equal(plain[0].get_parameter("0.weight"), whole[0].get_parameter("0.weight"))
    fresh = build()  # without the curvature's state the run is another one: the check can fail
    fresh[0].load_state_dict(states[0])
    fresh[1].load_state_dict(states[1])
    run(fresh, 7, 12)
    assert not torch.equal(fresh[0].get_parameter("0.weight"), whole[0].get_parameter("0.weight"))


def test_second_moment_gives_nothing_before_the_first_step():
    model = small_model()
    optimizer = adam(model.parameters(), 1e-3)
    lotion = methods.Lotion(
        model, Quantizer("int4_g32"), curvature=methods.AdamSecondMoment(optimizer, n_eff=16)
    )
    assert float(lotion.penalty(0)) == 0.0
    x, y = batch()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert float(lotion.penalty(1).detach()) > 0.0
