"""The model: causal, every variant trains, initial weights fixed by the generator alone."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from dither.errors import UserError
from dither.models import GPT, GPTConfig

VARIANTS = list(itertools.product(("swiglu", "gelu"), ("rmsnorm", "layernorm"), (True, False), (True, False)))


def small(**settings) -> GPTConfig:
    return GPTConfig(layers=2, width=32, heads=2, context=16, **settings)


def make(seed: int = 0, **settings) -> GPT:
    return GPT(small(**settings), vocab=50, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("mlp", "norm", "qk_norm", "tied"), VARIANTS)
def test_every_variant_is_causal_and_every_weight_gets_a_gradient(mlp, norm, qk_norm, tied) -> None:
    model = make(mlp=mlp, norm=norm, qk_norm=qk_norm, tied=tied)
    tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(1))
    logits = model(tokens)
    assert logits.shape == (2, 16, 50)
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 50
    assert torch.allclose(model(changed)[:, :10], logits[:, :10], atol=1e-6)
    assert not torch.allclose(model(changed)[:, 10:], logits[:, 10:])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(50), rel=0.05)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert (model.head.weight is model.embed.weight) == tied


def test_positions_are_relative() -> None:
    """Rotary attention sees differences of positions only: with one layer, a shifted pattern gives the same
    scores."""
    model = GPT(GPTConfig(layers=1, width=32, heads=2, context=16), 50, torch.Generator().manual_seed(0))
    from dither.models.gpt import rotate

    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(2))

    def score(i: int, j: int) -> float:
        cos, sin = model.cos_TR, model.sin_TR
        return float(
            (rotate(q, cos[i : i + 1], sin[i : i + 1]) * rotate(k, cos[j : j + 1], sin[j : j + 1])).sum()
        )

    assert score(3, 1) == pytest.approx(score(12, 10), abs=1e-5)
    assert abs(score(3, 1) - score(3, 2)) > 1e-3


def test_the_generator_decides_the_weights_and_the_global_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    a, b, c = make(0), make(0), make(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embed.weight, c.embed.weight)


def test_parameters_are_counted_once() -> None:
    model = make(mlp="gelu", qk_norm=False)
    assert model.num_params == 50 * 32 + 2 * (4 * 32 * 32 + 2 * 4 * 32 * 32 + 2 * 32) + 32
    assert make(tied=False).num_params - make(tied=True).num_params == 50 * 32


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"even width"):
        GPTConfig(width=36, heads=4)
    with pytest.raises(UserError, match=r"model.mlp"):
        GPTConfig(mlp="relu")
    with pytest.raises(UserError, match=r"model.layers must be at least 1"):
        GPTConfig(layers=0)
    with pytest.raises(ValueError, match=r"17 positions exceed the model's context of 16"):
        make()(torch.zeros(1, 17, dtype=torch.int64))
