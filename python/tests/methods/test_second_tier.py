"""Dampening, freezing, Q-Ramping, ECO and random scaling against their formulas."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from dither import methods
from dither.errors import UserError
from dither.nn import ops

torch.set_num_threads(1)


def linear(width: int = 32) -> Any:
    torch.manual_seed(0)
    return nn.Linear(width, 16, bias=False)


def test_dampening_pulls_weights_to_their_points():
    model = linear()
    method = methods.Dampen(model, "int4_g32", lam=0.5)
    w = model.weight.detach().clone()
    method.penalty(0).backward()
    distance = w - ops.fake_quant(w, "int4_g32")
    torch.testing.assert_close(model.weight.grad, 0.5 * distance)
    assert method.last_penalty == pytest.approx(0.25 * float(distance.square().sum()))
    silent = methods.Dampen(linear(), "int4_g32", lam=methods.CosineRamp(1.0, 100))
    assert float(silent.penalty(10)) == 0.0


def test_dampening_stops_oscillations():
    """One weight whose optimum lies at a threshold flips for ever under QAT; the pull ends that."""
    flips = {}
    for lam in (0.0, 2.0):
        model = nn.Linear(2, 1, bias=False)
        model.weight.data = torch.tensor([[7.0, 2.4]])
        method = methods.Dampen(model, "int4_row", lam=lam)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        points = []
        for step in range(200):
            loss = 0.5 * (model(torch.tensor([[0.0, 1.0]])) - 2.5).square().sum()
            optimizer.zero_grad()
            (loss + method.penalty(step)).backward()
            optimizer.step()
            points.append(round(float(ops.fake_quant(model.weight.detach(), "int4_row")[0, 1])))
        flips[lam] = sum(a != b for a, b in itertools.pairwise(points[100:]))
    assert flips[0.0] > 10 and flips[2.0] == 0


def test_freezing_is_algorithm_1():
    """The few lines of the paper, weight by weight, on a fixed scale."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[7.0, 0.4, 0.4, 3.0]])
    method = methods.Freeze(model, "int4_row", threshold=0.3, decay=0.8)
    point, change, f, mean = [7, 0, 0, 3], [0] * 4, [0.0] * 4, [7.0, 0.0, 0.0, 3.0]
    frozen: list[int | None] = [None] * 4
    for step in range(12):
        w = [7.0, 0.4 + 0.2 * (step % 2), 0.4 + 0.2 * (step >= 4), 3.0]
        with torch.no_grad():
            model.weight.copy_(torch.tensor([w]))
        method.after_step_(step, 0.1)
        for i in range(4):
            if frozen[i] is None:
                new = round(w[i])
                sign = (new > point[i]) - (new < point[i])
                f[i] = 0.8 * f[i] + 0.2 * (sign * change[i] < 0)
                mean[i] = 0.8 * mean[i] + 0.2 * new
                change[i] = sign or change[i]
                point[i] = new
                if f[i] > 0.3:
                    frozen[i] = round(mean[i])
            w[i] = w[i] if frozen[i] is None else float(frozen[i] or 0)
        torch.testing.assert_close(model.weight.detach(), torch.tensor([w]))
    assert frozen[1] is not None and frozen == [None, frozen[1], None, None]
    assert method.frozen == 0.25
    with pytest.raises(UserError, match="no block scale"):
        methods.Freeze(linear(), "fp16")


def test_ramping_moves_a_weight_by_what_was_accumulated():
    model = linear()
    method = methods.Qramping(model, "int4_g32", probe=2, every=20, most=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    torch.manual_seed(1)
    start = model.weight.detach().clone()
    gradients = 5e-4 * torch.randn(20, 16, 32)
    for step in range(2):
        before = model.weight.detach().clone()
        model.weight.grad = gradients[step].clone()
        method.adjust_grad_(step)
        optimizer.step()
        method.after_step_(step, 1.0)
        torch.testing.assert_close(model.weight.detach(), before - gradients[step])
    ways = method.ways["weight"]
    points = [ops.fake_quant(start - gradients[:n].sum(0), "int4_g32") for n in range(3)]
    way = (points[1] - points[0]).abs() + (points[2] - points[1]).abs()
    ratio = way / gradients[:2].abs().sum(0)
    period = (5 * (ratio / 16).floor() + 1).clamp(max=4)
    torch.testing.assert_close(ways["period"], period)
    assert 4 < int((period == 4).sum()) < 100 and int((period == 1).sum()) > 400
    for step in range(2, 20):
        model.weight.grad = gradients[step].clone()
        method.adjust_grad_(step)
        optimizer.step()
        method.after_step_(step, 1.0)
    taken = torch.where(
        period == 1, gradients.sum(0), gradients.sum(0)
    )  # 20 is a multiple of 4: nothing waits
    torch.testing.assert_close(model.weight.detach(), start - taken, rtol=1e-5, atol=1e-6)
    assert not ways["waiting"].any()
    with pytest.raises(UserError, match="probe < every"):
        methods.Qramping(linear(), "int4_g32", probe=30, every=30)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_eco_returns_what_rounding_takes(kind):
    """One step against the formula; the weights lie on the grid before and after."""
    model = linear()
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0),
    }[kind]
    optimizer = make(model.parameters())
    before = ops.fake_quant(model.weight.detach(), "int4_g32")
    method = methods.Eco(model, "int4_g32", optimizer=optimizer)
    torch.testing.assert_close(model.weight.detach(), before)
    torch.manual_seed(1)
    g = torch.randn(16, 32)
    model.weight.grad = g.clone()
    optimizer.step()
    moved = model.weight.detach().clone()
    method.after_step_(0, 0.01)
    point = ops.fake_quant(moved, "int4_g32")
    torch.testing.assert_close(model.weight.detach(), point)
    error = (moved - point) * (1 / 0.01) * (1 - 1 / 0.9)
    state = optimizer.state[model.weight]
    if kind == "sgd":
        torch.testing.assert_close(state["momentum_buffer"], g + error)
    else:
        torch.testing.assert_close(state["exp_avg"], 0.1 * g + error * (g.abs() + 1e-8))


def pushed(spec: str, g: float, steps: int) -> torch.Tensor:
    """How far a constant gradient moves weights after every step, under ECO with SGD at lr 1e-3 and momentum
    0.9: (steps, weights). The largest weight of each block stays, and with it the scale."""
    model = linear()
    model.weight.data[:, 0] = 0.5
    gradient = g * torch.ones(16, 32)
    gradient[:, 0] = 0
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    method = methods.Eco(model, spec, optimizer=optimizer, seed=1)
    start, moved = model.weight.detach().clone(), []
    for step in range(steps):
        method.set_step(step)
        model.weight.grad = gradient.clone()
        optimizer.step()
        method.after_step_(step, 1e-3)
        moved.append((start - model.weight.detach())[:, 1:].flatten())
    return torch.stack(moved)


def test_eco_piles_up_steps_far_below_the_grid():
    """To nearest: no weight moves until lr g times the steps is half a step of the grid, and then all do. The
    step is 0.5/7, so that is after 71.4 steps; without ECO no step would ever show."""
    moved = pushed("int4_g32", g=0.5, steps=72)
    assert moved[70].abs().max() < 1e-6
    torch.testing.assert_close(moved[71], torch.full_like(moved[71], 0.5 / 7))


def test_eco_with_stochastic_rounding_moves_as_without_rounding():
    """By lr g / (1 - beta) a step: 0.2 in 400 steps, less 10 steps in which the momentum builds up."""
    moved = pushed("int4_g32:rounding=stochastic", g=0.05, steps=400)[-1]
    error = float(moved.std()) / math.sqrt(moved.numel())
    assert abs(float(moved.mean()) - 390 * 5e-4) < 4 * error + 0.002


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"momentum": 0.9, "nesterov": True}])
def test_eco_needs_momentum(options):
    model = linear()
    with pytest.raises(UserError, match="needs Adam, AdamW or SGD"):
        methods.Eco(model, "int4_g32", optimizer=torch.optim.SGD(model.parameters(), lr=0.1, **options))


def test_random_scaling_stretches_every_step_by_an_exponential_number():
    model = linear()
    method = methods.RandomScaling(model, "int4_g32", seed=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones(16, 32)
    method.adjust_grad_(4)
    optimizer.step()
    method.after_step_(4, 0.1)
    torch.testing.assert_close(model.weight.detach(), before - 0.1 * method.length(4))
    lengths = torch.tensor([method.length(step) for step in range(2000)], dtype=torch.float64)
    # Exp(1) has mean and deviation 1: 4 standard errors of each, of 2000 draws
    assert abs(lengths.mean() - 1) < 4 / math.sqrt(2000)
    assert abs((lengths > 1).double().mean() - math.exp(-1)) < 4 * 0.4822 / math.sqrt(2000)
    assert method.length(4) != methods.RandomScaling(linear(), "int4_g32", seed=4).length(4)
