"""A prepared model in the hands of torch: compile, checkpointing, autocast, copies, shared and frozen
weights, models without memory. Each case is held against the same model in eager mode, or
what it should compute.
"""

# .grad is optional to the type checker.
# pyright: reportOptionalOperand=false, reportArgumentType=false

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dither.nn as dnn
from dither.errors import UserError

STOCHASTIC = "mxfp4_rht_sr"


class Net(nn.Module):
    """A convolution, an embedding tied to the head, a module that is called twice, a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 32)
        self.mix = nn.Conv1d(32, 32, 3, padding=1)
        self.twice = nn.Linear(32, 32)
        self.other = nn.Linear(32, 32)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 16, bias=False)
        self.head.weight = self.embed.weight

    def block(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.twice(self.norm(self.twice(x)).relu())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.mix(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        return self.head(self.other(self.block(x)))


def net(recipe: str | dnn.Recipe | None = None) -> Net:
    torch.manual_seed(0)
    model = Net()
    if recipe is not None:
        dnn.prepare_(model, recipe, seed=3, steps=10)
        dnn.set_clock_(model, 2)
    return model


TOKENS = torch.arange(32).view(2, 16) % 16


def gradients(model: nn.Module, call=None) -> list[torch.Tensor]:
    """Loss and gradients of one pass."""
    model.zero_grad()
    logits = (model if call is None else call)(TOKENS).float()
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS.flatten())
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def named(recipe: str | dnn.Recipe) -> str:
    return recipe if isinstance(recipe, str) else "every kind of site"


ALL_KINDS = dnn.Recipe.get(STOCHASTIC, sites=("linear", "head", "conv", "embedding", "norm"))


@pytest.mark.parametrize(
    "recipe", ["mxfp8", "int4", STOCHASTIC, "nvfp4_pretraining", "fp8_delayed", ALL_KINDS], ids=str
)
def test_compiled_models_compute_the_same_bits(recipe):
    eager, compiled = net(recipe), net(recipe)
    torch._dynamo.reset()
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for step in (2, 3):
        for model in (eager, compiled):
            dnn.set_clock_(model, step)
        assert same(gradients(eager), gradients(compiled, run))


@pytest.mark.slow
def test_inductor_compiles_a_prepared_model():
    eager, compiled = net(STOCHASTIC), net(STOCHASTIC)
    torch._dynamo.reset()
    for a, b in zip(gradients(eager), gradients(compiled, torch.compile(compiled)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_draw_the_same_bits(reentrant):
    model = net(STOCHASTIC)
    expected = gradients(model)
    plain = model.block
    model.block = lambda x: checkpoint(plain, x, use_reentrant=reentrant)
    assert same(gradients(model), expected)


@pytest.mark.parametrize("recipe", ["mxfp8", STOCHASTIC])
def test_autocast_changes_little_and_keeps_the_dtype_of_gradients(recipe):
    model = net(recipe)
    expected = gradients(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model)
    assert all(g.dtype == torch.float32 for g in found)
    assert abs(found[0] - expected[0]) < 0.05 * expected[0] and not same(found, expected)


def test_a_copy_is_a_model_of_its_own():
    model = net(STOCHASTIC)
    expected = gradients(model)
    other = copy.deepcopy(model)
    assert other.head.weight is other.embed.weight is not model.embed.weight
    assert same(gradients(other), expected)
    dnn.set_clock_(other, 7)
    assert not same(gradients(other), expected) and same(gradients(model), expected)
    assert type(dnn.restore_(other).twice) is nn.Linear and isinstance(model.twice, nn.Linear)
    assert type(model.twice) is not nn.Linear


def test_tied_weights_stay_one_and_get_both_gradients():
    model = net(dnn.Recipe.get("mxfp8", sites=("linear", "head", "embedding")))
    found = gradients(model)
    assert model.head.weight is model.embed.weight and len(found) == 1 + len(list(model.parameters()))
    kinds = {site.name: site.kind for site in dnn.sites(model)}
    assert kinds["embed"] == "embedding" and kinds["head"] == "head"
    untied = net()
    untied.head.weight = nn.Parameter(untied.embed.weight.detach().clone())
    dnn.prepare_(untied, dnn.Recipe.get("mxfp8", sites=("linear", "head", "embedding")), rules=[])
    gradients(untied)
    parts = [layer.weight.grad for layer in (model.embed, untied.embed, untied.head)]
    assert parts[0] is not None and parts[1] is not None and parts[2] is not None
    assert torch.equal(parts[0], parts[1] + parts[2])


def test_frozen_parameters_cost_no_product_and_get_no_gradient():
    model = net("mxfp8")
    full = gradients(model)
    model.zero_grad()
    model.other.requires_grad_(False)
    found = gradients(model)
    assert model.other.weight.grad is None and len(found) == len(full) - 2
    assert torch.equal(found[0], full[0])
    model.requires_grad_(False)
    assert not model(TOKENS).requires_grad


def test_a_module_in_two_places_is_one_site():
    layer = nn.Linear(32, 32)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    dnn.prepare_(model, "mxfp8")
    assert [site.name for site in dnn.sites(model)] == ["0"]
    assert model[0] is model[2]
    dnn.restore_(model)
    assert type(layer) is nn.Linear


@pytest.mark.parametrize("recipe", [STOCHASTIC, "fp8_delayed", ALL_KINDS], ids=named)
@pytest.mark.parametrize("way", ["prepared without memory", "prepared with memory"])
def test_to_empty_keeps_addresses_and_histories(recipe, way):
    """Parameters are loaded afterwards; what the recipe needs is there at once, without the clock."""
    expected = net(recipe)
    with torch.device("meta"):
        model = Net()
    if way == "prepared with memory":
        model.to_empty(device="cpu")
    dnn.prepare_(model, recipe, seed=3, steps=10)
    dnn.set_clock_(model, 2)
    model.to_empty(device="cpu")
    model.head.weight = model.embed.weight
    with torch.no_grad():
        for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
            mine.copy_(theirs)
    for a, b in zip(model.buffers(), expected.buffers(), strict=True):
        assert torch.equal(a, b)
    assert same(gradients(model), gradients(expected))


def test_a_history_stays_fp32_in_a_16_bit_model():
    model, expected = net("fp8_delayed"), net("fp8_delayed")
    for one in (model, expected):
        gradients(one)
        dnn.set_clock_(one, 3)
    model.bfloat16()
    assert all(
        torch.equal(value, dnn.state_dict(expected)[name]) for name, value in dnn.state_dict(model).items()
    )
    assert all(value.dtype == torch.float32 for value in dnn.state_dict(model).values())


def test_a_second_recipe_asks_for_the_first_to_be_undone():
    model = net("mxfp8")
    with pytest.raises(UserError, match="restore_"):
        dnn.prepare_(model, "mxfp4")
    for recipe in ("mxfp4", "nvfp4"):
        dnn.restore_(model)
        assert not dnn.sites(model)
        dnn.prepare_(model, recipe)
    assert {site.recipe.name for site in dnn.sites(model)} == {"nvfp4"}
