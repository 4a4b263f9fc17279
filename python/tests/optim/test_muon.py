"""Muon against an independent fp64 reference, orthogonality of the update, rounding, resumed states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import dither
from dither.errors import UserError
from dither.nn import streams
from dither.optim import AdamW, Muon, kernel, muon_groups, newton_schulz

SHAPES = [(24, 40), (40, 24), (32, 32), (1, 16), (16, 1)]


def reference(w, gradients, lr, wd, momentum, nesterov, factor):
    """The published algorithm in fp64 numpy; Newton-Schulz by the scalar polynomial on singular values."""
    m = np.zeros_like(w)
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        u, s, vt = np.linalg.svd((1 - momentum) * g + momentum * m if nesterov else m, full_matrices=False)
        s = s / np.sqrt((s**2).sum())
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        w = w - lr * (factor * (u * s) @ vt + wd * w)
    return w


def matrix(shape, dtype=torch.float32, seed=0):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype))


def gradients(shape, n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(n)]


def steps(optimizer, p, grads):
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["original", "match_rms"])
def test_against_the_reference(shape, nesterov, scale):
    p, grads = matrix(shape), gradients(shape, 4)
    factor = max(1, shape[0] / shape[1]) ** 0.5 if scale == "original" else 0.2 * max(shape) ** 0.5
    want = reference(
        p.detach().double().numpy(), [g.double().numpy() for g in grads], 0.1, 0.03, 0.9, nesterov, factor
    )
    options = {"lr": 0.1, "weight_decay": 0.03, "momentum": 0.9, "nesterov": nesterov, "scale": scale}
    got = steps(Muon([p], **options), p, grads)
    # fp32's error of 6e-8 grows with the slope at zero, 3.4445^5 = 485, where singular values are small
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=2e-4 * factor)


@pytest.mark.parametrize("shape", [(64, 128), (128, 64), (96, 96 * 3)])
def test_updates_are_nearly_orthogonal(shape):
    g = gradients(shape, 1)[0]
    values = torch.linalg.svdvals(newton_schulz(g).double())
    assert 0.65 < values.min() and values.max() < 1.25  # the published polynomial's band
    u, _, vt = torch.linalg.svd(g, full_matrices=False)
    cosine = torch.nn.functional.cosine_similarity(newton_schulz(g).flatten(), (u @ vt).flatten(), dim=0)
    assert cosine > 0.97
    scaled = newton_schulz(g * 1e-3)
    torch.testing.assert_close(scaled, newton_schulz(g), rtol=0, atol=2e-4)
    assert torch.equal(newton_schulz(torch.zeros(shape)), torch.zeros(shape))


def test_match_rms_has_the_size_of_adamw():
    g = gradients((64, 256), 1)[0]
    p = matrix((64, 256))
    before = p.detach().clone()
    change = steps(Muon([p], lr=1.0, weight_decay=0.0), p, [g]) - before
    assert 0.15 < change.square().mean().sqrt() < 0.25


def test_maximize_ascends():
    a, b, g = matrix((8, 8)), matrix((8, 8)), gradients((8, 8), 1)
    up = steps(Muon([a], maximize=True), a, g)
    assert torch.equal(up, steps(Muon([b]), b, [-g[0]]))


def test_bf16_weights_are_a_cast_with_addressed_bits():
    """One step: the fp32 result, then the oracle's cast from the documented address."""
    p, g = matrix((20, 30), torch.bfloat16), gradients((20, 30), 1, torch.bfloat16)
    exact = nn.Parameter(p.detach().float())
    steps(Muon([exact], lr=0.1), exact, [g[0].float()])
    steps(Muon([p], lr=0.1, seed=9), p, g)
    stream = streams.stream(0, kernel.WEIGHT, 0, 1)
    want = dither.cast(exact.detach(), "bf16", rounding="stochastic", bits=16, seed=9, stream=stream)
    assert torch.equal(p.detach().float(), want.float())


def test_stochastic_rounding_moves_what_nearest_loses():
    """Updates near 1/8 of a unit in the last place: to nearest hardly one moves; stochastically the
    projection on the exact update is 1 within 5 deviations. A rounding's error has at most deviation
    ulp / 2, so the projection's is at most ulp / (2 norm of the update)."""
    ulp, g = 2.0**-7, gradients((64, 64), 1, torch.bfloat16)

    def moved(rounding):
        p = nn.Parameter(torch.full((64, 64), 1.5, dtype=torch.bfloat16))
        lr = ulp / 8 / 0.2
        return steps(Muon([p], lr=lr, weight_decay=0.0, rounding=rounding, seed=1), p, g).double() - 1.5

    exact = -(ulp / 8 / 0.2) * 0.2 * 8 * newton_schulz(g[0].float() * 0.0975).double()
    assert moved("nearest_even").count_nonzero() < 16
    got = moved("stochastic")
    projection = float((got * exact).sum() / exact.square().sum())
    assert abs(projection - 1) < 5 * ulp / (2 * float(exact.norm())) < 0.4


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
@pytest.mark.parametrize("state", ["fp32", "bf16", "fp8", "int8"])
def test_resumed_is_uninterrupted(state, rounding, tmp_path):
    def make():
        p, q = matrix((64, 80), torch.bfloat16), nn.Parameter(torch.ones(5000, dtype=torch.bfloat16))
        groups = [{"params": [p]}, {"params": [q], "muon": False}]
        return p, q, Muon(groups, rounding=rounding, state=state, seed=3)

    grads, others = gradients((64, 80), 6, torch.bfloat16), gradients((5000,), 6, torch.bfloat16)

    def go(p, q, optimizer, which):
        for i in which:
            p.grad, q.grad = grads[i].clone(), others[i].clone()
            optimizer.step()

    p, q, optimizer = make()
    go(p, q, optimizer, range(3))
    torch.save({"p": p.detach(), "q": q.detach(), "state": optimizer.state_dict()}, tmp_path / "x.pt")
    go(p, q, optimizer, range(3, 6))
    saved = torch.load(tmp_path / "x.pt")
    p2, q2, resumed = make()
    with torch.no_grad():
        p2.copy_(saved["p"])
        q2.copy_(saved["q"])
    resumed.load_state_dict(saved["state"])
    go(p2, q2, resumed, range(3, 6))
    assert torch.equal(p, p2) and torch.equal(q, q2)
    for name, value in optimizer.state[p].items():
        assert resumed.state[p2][name].dtype == value.dtype
        assert torch.equal(resumed.state[p2][name], value), name


def test_other_groups_are_adamw():
    """Bit for bit, also the addressed bits: parameters are counted over all groups."""
    grads = gradients((30,), 3, torch.bfloat16)
    results = []
    for make in (Muon, AdamW):
        first = matrix((4, 4), torch.bfloat16)
        p = nn.Parameter(torch.linspace(-1, 1, 30).bfloat16())
        extra = {"muon": False} if make is Muon else {}
        optimizer = make([{"params": [first]}, {"params": [p], **extra}], lr=0.01, betas=(0.9, 0.95))
        results.append(steps(optimizer, p, grads))
    assert torch.equal(*results)


def test_groups_of_a_model():
    from dither.models import GPT, GPTConfig

    model = GPT(GPTConfig(layers=2, width=32, heads=2, context=16, tied=False), 50, torch.Generator())
    hidden, matrices, vectors = muon_groups(model, weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in matrices["params"]} == {"embed.weight", "head.weight"}
    assert len(hidden["params"]) == 2 * 7 and all(p.dim() == 2 for p in hidden["params"])
    assert all(p.dim() == 1 for p in vectors["params"]) and vectors["weight_decay"] == 0.0
    assert sum(len(g["params"]) for g in (hidden, matrices, vectors)) == len(names)
    optimizer = Muon([hidden, matrices, vectors], lr=0.01)
    tokens = torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_what_cannot_be_used():
    with pytest.raises(UserError, match="matrices"):
        Muon([nn.Parameter(torch.ones(3))])
    with pytest.raises(UserError, match="did you mean 'match_rms'"):
        Muon([matrix((3, 3))], scale="match_rmse")
    with pytest.raises(UserError, match="momentum"):
        Muon([matrix((3, 3))], momentum=1.0)
    with pytest.raises(UserError, match="ns_steps"):
        Muon([matrix((3, 3))], ns_steps=0)
    with pytest.raises(UserError, match="no linear"):
        muon_groups(nn.Embedding(3, 3))
    with pytest.raises(UserError, match=r"'\*\.hed' matches no linear. Linears:\n  0\n  1"):
        muon_groups(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), exempt=["*.hed"])
    p = matrix((3, 3))
    optimizer = Muon([p])
    steps(optimizer, p, gradients((3, 3), 1))
    with pytest.raises(UserError, match="second moment"):
        optimizer.second_moment(p)
