"""What the last layer reads, caught in passing."""

import numpy as np
import pytest
import torch
from torch import nn

from dither.errors import UserError
from dither.nn import prepare_
from dither.scores import Features, grand_last_layer, per_example_gradients, prototypes


def network(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.0), nn.Linear(9, 4, bias=bias))


X, Y = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("recipe", [None, "mxfp8"])
def test_grand_of_the_last_layer_is_its_gradient(bias, recipe):
    net = network(bias)
    if recipe:
        prepare_(net, recipe, exempt=["3"])
    with Features(net) as features:
        logits = net(X)
    found = grand_last_layer(logits, Y, features.last, bias=bias)
    head = net[3]
    hidden = net[:3](X).detach()
    gradients = per_example_gradients(head, hidden, Y)
    assert len(gradients) == 1 + bias
    squares = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients.values()]).sum(dim=0)
    np.testing.assert_allclose(found, squares.sqrt().numpy(), rtol=1e-5)
    np.testing.assert_array_equal(prototypes(features.last, Y), prototypes(hidden, Y))


def test_the_model_is_left_as_it_is():
    net, twin = network(), network()
    before = set(net.state_dict())
    features = Features(net)
    for model in (net, twin):
        nn.functional.cross_entropy(model(X), Y).backward()
    assert torch.equal(net(X), twin(X)) and set(net.state_dict()) == before
    for a, b in zip(net.parameters(), twin.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)
    assert not features.last.requires_grad and torch.equal(features.last, net[:3](X))
    net(X[:3])
    assert features.last.shape == (3, 9)
    features.remove()
    net(X)
    assert features.last.shape == (3, 9)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_hooks_go_when_the_loop_fails():
    net = network()
    with pytest.raises(RuntimeError), Features(net) as features:
        net(X[:, :5])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with pytest.raises(UserError, match="did not come to its end"):
        _ = features.last


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.body(x))).log_softmax(dim=1)


def test_what_is_not_clear_is_said():
    odd = Odd()
    with pytest.raises(UserError, match=r"no layer 'had'.*body, head"):
        Features(odd, "had")
    with pytest.raises(UserError, match="no linear layer"):
        Features(nn.Sequential(nn.ReLU()))
    unnamed, twice, named = Features(odd), Features(odd, "body"), Features(odd, "head")
    with pytest.raises(UserError, match="not called yet"):
        _ = named.last
    odd(X)
    with pytest.raises(UserError, match="name the layer"):
        _ = unnamed.last
    with pytest.raises(UserError, match="2 times"):
        _ = twice.last
    assert torch.equal(named.last, odd.body(odd.body(X)))
    # A linear layer that is not the last, or an output in another shape, do not mislead.
    reshaped = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4), nn.Flatten(0))
    features = Features(reshaped)
    reshaped(X)
    assert torch.equal(features.last, reshaped[0](X))
