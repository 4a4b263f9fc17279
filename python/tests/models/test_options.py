"""Options of the model, its loss and its gradients, each against a few lines of its definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dither.errors import UserError
from dither.models import GPT, GPTConfig
from dither.models.gpt import Attention
from dither.models.losses import cross_entropy, log_stablemax
from dither.optim import orthograd_
from dither.train import config as configuration

TOKENS = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(1))


def make(**settings) -> GPT:
    config = GPTConfig(layers=3, width=32, heads=2, context=16, **settings)
    return GPT(config, vocab=50, generator=torch.Generator().manual_seed(0))


def weight(model: GPT, name: str) -> torch.Tensor:
    return model.get_parameter(name + ".weight")


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_norms_without_affine(norm):
    model = make(norm=norm, norm_affine=False)
    assert all(parameter.dim() == 2 for parameter in model.parameters())
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2)) * 3 + 1
    centred = x - x.mean(-1, keepdim=True)
    want = rms(x) if norm == "rmsnorm" else centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(model.norm(x), want)
    assert torch.equal(
        make(norm=norm)(TOKENS), model(TOKENS)
    )  # gains of one and biases of zero change nothing


def test_single_scale_norm():
    model = make(norm="ssnorm")
    gains = [p for name, p in model.named_parameters() if "norm" in name]
    assert len(gains) == 3 * 4 + 1 and all(p.shape == (1,) for p in gains)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        weight(model, "norm").fill_(1.5)
    torch.testing.assert_close(model.norm(x), 1.5 * rms(x))
    model(TOKENS).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gains)


def test_norms_scaled_by_depth():
    """As if the gains of layer l were 1 / sqrt(l)."""
    scaled, by_hand = make(norm_by_depth=True), make()
    with torch.no_grad():
        for layer in (1, 2, 3):
            for norm in ("attention_norm", "mlp_norm"):
                weight(by_hand, f"blocks.{layer - 1}.{norm}").mul_(layer**-0.5)
    torch.testing.assert_close(scaled(TOKENS), by_hand(TOKENS))
    assert not torch.allclose(scaled(TOKENS), make()(TOKENS))


def test_queries_and_keys_are_normed():
    attention = make().blocks[0].get_submodule("attention")
    assert isinstance(attention, Attention)
    x = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(3))
    q = attention.q(x).view(1, 4, 2, 16)
    torch.testing.assert_close(attention.q_norm(q), rms(q))
    cos, sin = torch.ones(4, 8), torch.zeros(4, 8)
    doubled = attention(x, cos, sin)
    with torch.no_grad():
        attention.q.weight.mul_(8.0)
    torch.testing.assert_close(attention(x, cos, sin), doubled)  # the size of queries does not matter


def test_projections_of_embedding_and_head():
    model = make(embed_projection=True)
    into, out = weight(model, "embed_projection"), weight(model, "head_projection")
    for product in (into @ into.T, out @ out.T):
        torch.testing.assert_close(product, torch.eye(32), rtol=0, atol=1e-5)
    folded = make(tied=False)
    own = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in folded.named_parameters():
            parameter.copy_(own[name])
        folded.embed.weight.copy_(model.embed.weight @ into.T)
        folded.head.weight.copy_(model.head.weight @ out)
    torch.testing.assert_close(model(TOKENS), folded(TOKENS), rtol=1e-4, atol=1e-5)


def test_z_loss():
    z = torch.randn(7, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64).float() * 5
    y = torch.arange(7)
    log_normaliser = z.double().exp().sum(1).log()
    want = (log_normaliser - z.double()[range(7), y] + 0.1 * log_normaliser**2).mean()
    assert float(cross_entropy(z, y, z_loss=0.1)) == pytest.approx(float(want), rel=1e-6)
    assert torch.equal(cross_entropy(z, y), F.cross_entropy(z, y))
    summed = cross_entropy(z, y, z_loss=0.1, reduction="sum")
    assert float(summed) == pytest.approx(7 * float(want), rel=1e-6)


def test_stablemax():
    z = torch.tensor([[0.0, -1.0, 3.0], [1e6, -1e6, 0.5]], requires_grad=True)
    s = [[1.0, 0.5, 4.0], [1e6 + 1, 1 / (1e6 + 1), 1.5]]
    for row, values in zip(log_stablemax(z), s, strict=True):
        assert row.tolist() == pytest.approx([math.log(v / sum(values)) for v in values], rel=1e-12)
    loss = cross_entropy(z, torch.tensor([1, 1]), "stablemax")
    want = -(math.log(0.5 / 5.5) + math.log(s[1][1] / sum(s[1]))) / 2
    assert float(loss.detach()) == pytest.approx(want, rel=1e-12)
    loss.backward()
    assert z.grad is not None and z.grad.isfinite().all() and z.grad[0].count_nonzero() == 3


def test_orthograd():
    generator = torch.Generator().manual_seed(5)
    w = nn.Parameter(torch.randn(6, 8, generator=generator))
    g = torch.randn(6, 8, generator=generator)
    w.grad = g.clone()
    idle, scalar = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))
    scalar.grad = torch.ones(1)
    orthograd_([w, idle, scalar])
    rest = g - (w * g).sum() / (w * w).sum() * w
    torch.testing.assert_close(w.grad, (rest * g.norm() / rest.norm()).detach())
    assert abs(float((w * w.grad).sum().detach())) < 1e-5 and idle.grad is None
    assert float(scalar.grad) == pytest.approx(0.0, abs=1e-6)


def test_what_cannot_be_used():
    with pytest.raises(UserError, match="ssnorm"):
        GPTConfig(norm="ssnorm", norm_affine=False)
    with pytest.raises(UserError, match=r"model\.softmax"):
        GPTConfig(softmax="sparsemax")
    with pytest.raises(UserError, match=r"train\.z_loss"):
        configuration.load({"train": {"steps": 3, "z_loss": 0.1}, "model": {"softmax": "stablemax"}})
