"""What every method must do: other people's models learn under it at INT4 with one line changed, its state
resumes a run bit for bit, and tied, shared and frozen weights are treated as what they are.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny_models
import torch
from torch import nn

from dither import methods
from dither.errors import UserError
from dither.methods import Method

torch.set_num_threads(1)
LR = 3e-3
KINDS = ("linear", "conv")


def build(
    name: str, model: nn.Module, optimizer: torch.optim.Optimizer, spec="int4_g32", **options
) -> Method:
    """The method with what it needs, its own parameters in the optimizer."""
    kind = methods.get(name)
    if name == "lotion":
        options["curvature"] = methods.AdamSecondMoment(optimizer, n_eff=16)
    elif "optimizer" in methods.options(name):
        options["optimizer"] = optimizer
    method = kind(model, "int4_g32", **options)
    if learned := list(method.parameters()):
        optimizer.add_param_group({"params": learned, "weight_decay": 0.0})
    return method


def train(model, optimizer, method, batch, steps) -> list[float]:
    """The loop of `dither.methods.base`."""
    x, y = batch
    losses = []
    for step in steps:
        method.set_step(step)
        method.observe(step, lambda: model(x), y)
        loss = nn.functional.cross_entropy(model(x).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        (loss + method.penalty(step)).backward()
        method.adjust_grad_(step)
        optimizer.step()
        method.after_step_(step, LR)
        losses.append(loss.item())
    return losses


def start(kind: str):
    torch.manual_seed(0)
    make, batch = tiny_models.MODELS[kind]
    model: Any = make()
    return model, torch.optim.Adam(model.parameters(), lr=LR), batch()


@pytest.mark.parametrize("kind", tiny_models.MODELS)
@pytest.mark.parametrize("name", methods.names())
def test_a_model_learns_under_every_method(name, kind):
    """40 steps on a fixed batch, mean of the last five losses under 0.9 of the first; so do the deployed
    weights."""
    model, optimizer, batch = start(kind)
    method = build(name, model, optimizer, sites=KINDS)
    assert all(t.name.split(".")[-2] not in ("head", "lm_head") for t in method.found)
    losses = train(model, optimizer, method, batch, range(40))
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]
    x, y = batch
    if method.needs_data:
        method.calibrate_([x])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with method.deployed() as plain, torch.no_grad():
        deployed = nn.functional.cross_entropy(plain(x).flatten(0, -2), y.flatten()).item()
        changed = [t.name for t in method.found if not torch.equal(t.weight, before[t.name])]
    assert deployed < 0.9 * losses[0]
    assert method.needs_data or name == "eco" or len(changed) == len(method.found)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", methods.names())
def test_a_resumed_run_is_the_same_run(name):
    """A stop after 7 of 12 steps: weights and loss are bit for bit those of an unbroken run."""

    def fresh():
        model, optimizer, batch = start("vit")
        return model, optimizer, build(name, model, optimizer), batch

    whole = fresh()
    losses = train(*whole, range(12))
    first = fresh()
    train(*first, range(7))
    states = copy.deepcopy([part.state_dict() for part in first[:3]])
    assert all(isinstance(value, (torch.Tensor, int, float, str)) for value in states[2].values())
    second = fresh()
    for part, state in zip(second[:3], states, strict=True):
        part.load_state_dict(state)
    assert train(*second, range(7, 12)) == losses[7:]
    for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(whole[2].parameters(), second[2].parameters(), strict=True):
        assert torch.equal(a, b)


class Shared(nn.Module):
    """Two linears with one weight, and a head tied to the embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(16, 32)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.second.weight = self.first.weight
        self.head = nn.Linear(32, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.second(self.first(self.embedding(tokens)).relu()))


@pytest.mark.parametrize("name", methods.names())
def test_a_shared_weight_is_one_weight_and_a_tied_head_stays_out(name):
    torch.manual_seed(0)
    model = Shared()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    method = build(name, model, optimizer)
    assert list(method.targets) == ["first.weight"]
    tokens = torch.arange(16).view(2, 8)
    train(model, optimizer, method, (tokens, tokens.flip(0)), range(3))
    if method.needs_data:
        method.calibrate_([tokens])
    assert model.first.weight is model.second.weight and model.head.weight is model.embedding.weight
    with method.deployed():
        assert model.first.weight is model.second.weight


@pytest.mark.parametrize("name", methods.names())
def test_a_frozen_weight_never_moves(name):
    """Methods that move weights refuse it by name; under the others it stays."""
    model, optimizer, batch = start("vit")
    model.blocks[0].up.weight.requires_grad_(False)
    if methods.get(name).trains:
        with pytest.raises(UserError, match=r"frozen.*blocks\.0\.up\.weight"):
            build(name, model, optimizer)
        return
    before = model.blocks[0].up.weight.clone()
    method = build(name, model, optimizer)
    train(model, optimizer, method, batch, range(3))
    assert torch.equal(model.blocks[0].up.weight, before)


@pytest.mark.parametrize(
    "name", [n if n == "lsq" else pytest.param(n, marks=pytest.mark.slow) for n in methods.names()]
)
def test_a_compiled_model_learns_the_same_bits(name):
    """Compiled before anything ran: also what a method does in its first forward is traced."""

    def losses(compiled: bool) -> list[float]:
        model, optimizer, (x, y) = start("vit")
        options = {"activations": "int8_tensor"} if name in ("lsq", "qat") else {}
        method = build(name, model, optimizer, **options)
        torch._dynamo.reset()
        run = torch.compile(model, backend="aot_eager") if compiled else model
        return train(run, optimizer, method, (x, y), range(4))

    assert losses(True) == losses(False)


@pytest.mark.parametrize("name", ["lsq", "freeze", "qema", "qramping"])
def test_a_damaged_state_is_named(name):
    model, optimizer, batch = start("cnn")
    method = build(name, model, optimizer)
    train(model, optimizer, method, batch, range(2))
    state = method.state_dict()
    lost = next(key for key in state if key not in ("method", "quantizer") and not key.startswith("input"))
    with pytest.raises(UserError, match=f"the saved state lacks '{lost}'"):
        method.load_state_dict({key: value for key, value in state.items() if key != lost})
