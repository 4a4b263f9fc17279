"""Moments in codes: what is stored is what the oracle makes of them, and training is as in fp32."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import dither
from dither import optim
from dither.nn import streams
from dither.optim import kernel, state


@pytest.mark.parametrize("name", ["fp8", "int8", "fp4"])
def test_codes_are_those_of_the_quantizer(name):
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(70_000, generator=generator))
    p.grad = torch.randn(70_000, generator=generator) * torch.logspace(-3, 1, 70_000)
    optimizer = optim.AdamW([p], betas=(0.9, 0.99), state=name, seed=4)
    optimizer.step()
    g = p.grad
    kinds = state.PRESETS[name]
    for what, moment, key in (
        (kernel.FIRST, g * (1 - 0.9), "exp_avg"),
        (kernel.SECOND, (g * g) * (1 - 0.99), "exp_avg_sq"),
    ):
        kind = kinds[what == kernel.SECOND]
        expected = dither.quantize(moment, kind, seed=4, stream=streams.stream(0, what, 0, 1))
        assert torch.equal(optimizer.state[p][f"{key}_codes"], expected.codes), key
        assert torch.equal(optimizer.state[p][f"{key}_scales"], expected.scales), key
    torch.testing.assert_close(optimizer.second_moment(p), (g * g) * 0.01, rtol=0.3, atol=1e-3)


@pytest.mark.parametrize("name", ["fp8", "int8"])
def test_a_second_moment_that_hardly_moves_is_unbiased(name):
    """v falls by 0.1 % a step, far below half a step of the grid: to nearest it would never move. 100 steps,
    n = 8192 equal elements: the exact factor is 0.999^100 = 0.905. A walk on a grid of relative spacing 1/4
    with drift 0.001 a step has deviation sqrt(100 * 0.001 / 4) = 0.16 an element, 0.0018 in the mean."""
    p = torch.nn.Parameter(torch.zeros(8192))
    optimizer = optim.AdamW([p], lr=0.0, betas=(0.9, 0.999), state=name)
    p.grad = torch.ones(8192)
    optimizer.step()
    first = optimizer.second_moment(p)
    p.grad = torch.zeros(8192)
    for _ in range(100):
        optimizer.step()
    now = optimizer.second_moment(p)
    assert first is not None and now is not None
    assert abs(float((now / first).double().mean()) - 0.999**100) < 5 * 0.0018


@pytest.mark.parametrize("name", ["bf16", "fp8", "int8", "fp4"])
def test_training_is_close_to_fp32(name):
    """A regression with a two-layer net: packed state ends within 10 % of where fp32 ends, on a loss that
    falls to a fiftieth."""

    def losses(kind):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(512, 64, generator=generator)
        y = torch.sin(x @ torch.randn(64, 8, generator=generator) / 4)
        w1 = torch.nn.Parameter(torch.randn(128, 64, generator=generator) / 8)
        w2 = torch.nn.Parameter(torch.randn(8, 128, generator=generator) / 11)
        optimizer = optim.AdamW([w1, w2], lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0, state=kind)
        seen = []
        for _ in range(250):
            loss = F.mse_loss(F.linear(torch.tanh(F.linear(x, w1)), w2), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(float(loss.detach()))
        return seen

    exact, packed = losses("fp32"), losses(name)
    assert exact[-1] < 0.02 * exact[0], (exact[0], exact[-1])
    assert packed[-1] < 0.02 * packed[0] and packed[-1] < 1.1 * exact[-1] + 1e-4, (exact[-1], packed[-1])


def test_bytes_of_state():
    p = torch.nn.Parameter(torch.zeros(1 << 16))
    p.grad = torch.zeros_like(p)
    optimizer = optim.AdamW([p], state="fp8")
    optimizer.step()
    held = sum(t.nbytes for key, t in optimizer.state[p].items() if key != "step")
    assert held == (1 << 16) * 2 + 2 * 4 * (1 << 16) // 256
    small = torch.nn.Parameter(torch.zeros(100))
    small.grad = torch.zeros_like(small)
    optimizer.add_param_group({"params": [small]})
    optimizer.step()
    assert optimizer.state[small]["exp_avg"].dtype == torch.float32
