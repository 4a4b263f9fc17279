"""cast_weights: the cast is the quantizer's, the restore is exact, each parameter once."""

from __future__ import annotations

import grids
import numpy as np
import pytest
import torch
from torch import nn

from dither import methods
from dither.errors import UserError
from dither.nn import ops

torch.set_num_threads(1)


class Tied(nn.Module):
    """embedding = head (tied), and two linears that share their weight."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 32)
        self.first = nn.Linear(32, 32, bias=False)
        self.second = nn.Linear(32, 32, bias=False)
        self.second.weight = self.first.weight
        self.alone = nn.Linear(32, 48)
        self.output = nn.Linear(32, 10, bias=False)
        self.output.weight = self.embedding.weight


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tied()


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_the_cast_is_round_to_nearest_and_only_of_the_targets(model):
    before = snapshot(model)
    with methods.cast_weights(model, "int4_g32") as inside:
        assert inside is model
        for name in ("first.weight", "alone.weight"):
            w = before[name].double().numpy()
            expected = grids.nearest(w, grids.GRIDS["int4"], 32)
            np.testing.assert_allclose(model.get_parameter(name).detach().numpy(), expected, rtol=1e-6)
            assert not torch.equal(model.get_parameter(name), before[name])
        assert torch.equal(model.embedding.weight, before["embedding.weight"])
        assert torch.equal(model.alone.bias, before["alone.bias"])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("rounding", ["nearest_even", "stochastic"])
def test_the_restore_is_exact_after_an_exception(model, rounding):
    before = snapshot(model)
    before_pointer = model.first.weight.data_ptr()
    with pytest.raises(RuntimeError, match="stop"), methods.cast_weights(model, "int3_row", rounding, seed=1):
        assert not torch.equal(model.first.weight, before["first.weight"])
        with torch.no_grad():
            model.first.weight.fill_(float("nan"))
        raise RuntimeError("stop")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert model.first.weight.data_ptr() == before_pointer
    assert model.second.weight is model.first.weight


def test_the_restore_is_exact_where_the_cast_itself_fails(model, monkeypatch):
    """The second weight's cast fails: the first, cast already, is put back."""
    before = snapshot(model)
    real, calls = ops.fake_quant, []

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("stop")
        return real(*args, **kwargs)

    monkeypatch.setattr(ops, "fake_quant", failing)
    with pytest.raises(RuntimeError, match="stop"), methods.cast_weights(model, "int4_g32"):
        raise AssertionError("not reached")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_shared_weight_is_cast_once(model):
    """Casting a cast weight again with another draw would still be the cast; so count the targets."""
    targets = methods.find_targets(model)
    assert [target.name for target in targets] == ["first.weight", "alone.weight"]
    assert [t.name for t in methods.find_targets(model, sites=("linear", "head", "embedding"))] == [
        "embedding.weight",
        "first.weight",
        "alone.weight",
    ]
    assert [t.name for t in methods.find_targets(model, exempt=["second"])] == ["alone.weight"]


def test_stochastic_casts_are_addressed_by_seed_and_parameter(model):
    def draw(seed, **options):
        with methods.cast_weights(model, "int4_g32", "stochastic", seed=seed, **options):
            return snapshot(model)

    one, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["alone.weight"], other["alone.weight"])
    partial = draw(1, exempt=["first", "second"])
    assert torch.equal(one["alone.weight"], partial["alone.weight"])  # does not depend on the other casts
    twins = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False))
    with torch.no_grad():
        twins.get_parameter("1.weight").copy_(twins.get_parameter("0.weight"))
    with methods.cast_weights(twins, "int4_g32", "stochastic", seed=1):
        assert not torch.equal(twins.get_parameter("0.weight"), twins.get_parameter("1.weight"))


def test_stochastic_casts_are_unbiased(model):
    """2000 casts of 32 x 48 weights: the mean deviation of every weight stays below 4.5 of its standard
    errors (the bound for 1536 weights), its variance is (w-lo)(hi-w); a bias of 0.1 of the noise would stand
    out at that count."""
    w = model.alone.weight.detach().double()
    lo, hi = (torch.from_numpy(t) for t in grids.neighbours(w.numpy(), grids.GRIDS["int4"], 32))
    total, square = torch.zeros_like(w), torch.zeros_like(w)
    for seed in range(2000):
        with methods.cast_weights(model, "int4_g32", "stochastic", seed=seed, exempt=["first", "second"]):
            deviation = model.alone.weight.detach().double() - w
        total += deviation
        square += deviation**2
    variance = ((w - lo) * (hi - w)).clamp(min=1e-12)
    assert ((total / 2000).abs() / (variance / 2000).sqrt())[variance > 1e-9].max() < 4.5
    assert float(square.sum() / 2000 / variance.sum()) == pytest.approx(1.0, abs=0.005)


def test_what_a_cast_refuses(model):
    with pytest.raises(UserError, match="seed="), methods.cast_weights(model, "int4_g32", "stochastic"):
        pass
    with pytest.raises(UserError, match="nearest_even"), methods.cast_weights(model, "int4_g32", "nearest"):
        pass
    with (
        pytest.raises(UserError, match=r"(?s)nothing\.\*.*alone"),
        methods.cast_weights(model, "int4_g32", exempt=["nothing.*"]),
    ):
        pass
    with pytest.raises(UserError, match="did you mean"), methods.cast_weights(model, "int4_g33"):
        pass


def test_a_clipping_quantizer_may_be_cast(model):
    """Refusing it is for methods that need unbiased noise; a deployment format is what it is."""
    with methods.cast_weights(model, "mxfp4"), torch.no_grad():
        assert torch.isfinite(model.alone(torch.randn(2, 32))).all()


def test_gradients_flow_through_cast_weights_to_other_parameters(model):
    with methods.cast_weights(model, "int4_g32"):
        model.alone(torch.randn(4, 32)).square().mean().backward()
    assert model.alone.bias.grad is not None and model.alone.weight.grad is not None
