"""Schedules at their edges, under torch's scheduler; averages of weights against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from dither.errors import UserError
from dither.optim import Schedule, WeightAverage
from dither.optim.schedules import SCHEDULES


@pytest.mark.parametrize("kind", SCHEDULES)
def test_edges(kind):
    plain = Schedule(kind, steps=101, final=0.1, decay=0.5)
    assert plain(0) == 1.0  # no warm-up: the first step has the whole rate
    last = 1.0 if kind == "constant" else 0.1
    assert plain(100) == pytest.approx(last, abs=1e-15) and plain(1000) == plain(100)
    warm = Schedule(kind, steps=101, warmup=4)
    assert [warm(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert warm(100) == pytest.approx(1.0 if kind == "constant" else 0.0, abs=1e-15)


def test_values_in_between():
    cosine = Schedule("cosine", steps=101, final=0.2)
    assert cosine(50) == pytest.approx(0.6) and cosine(25) == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)))
    # the decay of half of 100 steps takes those from 49 to 99
    wsd = Schedule("wsd", steps=100, decay=0.5)
    assert [wsd(step) for step in (48, 49, 74, 99)] == pytest.approx([1.0, 1.0, 0.5, 0.0])
    root = Schedule("wsd_sqrt", steps=100, decay=0.5, final=0.5)
    assert [root(step) for step in (49, 50, 99)] == pytest.approx([1.0, 1 - 0.5 * math.sqrt(1 / 50), 0.5])
    assert root(49 + 32) == pytest.approx(1 - 0.5 * 0.8)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_short_runs(kind):
    assert Schedule(kind, steps=1)(0) == 1.0
    assert [Schedule(kind, steps=3, warmup=3)(step) for step in range(3)] == pytest.approx(
        [1 / 3, 2 / 3, 1.0]
    )
    with pytest.raises(UserError, match="outlasts the run of 3"):
        Schedule(kind, steps=3, warmup=4)
    assert Schedule(kind, steps=10, decay=0.0)(5) <= 1.0


def test_no_decay_is_constant():
    assert all(Schedule("wsd", steps=10, decay=0.0)(step) == 1.0 for step in range(10))


def test_torch_takes_them_as_lambdas():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.5)
    schedule = Schedule("cosine", steps=5, warmup=2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.5 * schedule(step) for step in range(5)]


def test_what_cannot_be_used():
    with pytest.raises(UserError, match="did you mean 'wsd_sqrt'"):
        Schedule("wsd_sqr", steps=3)
    with pytest.raises(UserError, match="steps >= 1"):
        Schedule("wsd", steps=0)
    with pytest.raises(UserError, match="fractions"):
        Schedule("wsd", steps=3, final=1.5)
    with pytest.raises(UserError, match="did you mean 'tail'"):
        WeightAverage([], "tails")
    with pytest.raises(UserError, match="decay"):
        WeightAverage([], decay=1.0)
    with pytest.raises(UserError, match="no weights"), WeightAverage([torch.ones(2)]).applied():
        pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_averages(dtype):
    p = torch.nn.Parameter(torch.zeros(100, dtype=dtype))
    seen = torch.randn(9, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    ema, tail = WeightAverage([p, p], decay=0.9), WeightAverage([p], "tail", start=4)
    for step, value in enumerate(seen):
        with torch.no_grad():
            p.copy_(value)
        ema.update(step)
        tail.update(step)
    want = seen[0].double()
    for value in seen[1:]:
        want = 0.9 * want + 0.1 * value.double()
    with ema.applied():
        torch.testing.assert_close(
            p.detach(), want.to(dtype), rtol=2.0**-7 if dtype != torch.float32 else 1e-5, atol=1e-6
        )
    assert torch.equal(p.detach(), seen[-1])
    torch.testing.assert_close(tail.averages[0], seen[4:].double().mean(0).float(), rtol=0, atol=1e-6)


def test_weights_return_after_an_error_and_averages_go_on():
    p = torch.nn.Parameter(torch.ones(3))
    a, b = WeightAverage([p], "tail"), WeightAverage([p], "tail")
    a.update(0)
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        p.fill_(4.0)
    a.update(1)
    b.update(1)
    assert torch.equal(a.averages[0], torch.full((3,), 2.5)) and torch.equal(a.averages[0], b.averages[0])
    with pytest.raises(RuntimeError), a.applied():
        raise RuntimeError
    assert torch.equal(p.detach(), torch.full((3,), 4.0))
    with pytest.raises(UserError, match="other parameters"):
        WeightAverage([torch.ones(2)]).load_state_dict(a.state_dict())
