"""prepare_ and restore_: what is swapped, that nothing else changes, and that everything comes back."""

# .grad is optional to the type checker, and attributes of a swapped module are unknown to it.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportIndexIssue=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

import copy
import io

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dither.nn as dnn
from dither.errors import UserError
from dither.models.gpt import GPT, GPTConfig
from dither.nn.streams import OPERANDS, ROWS

ALL_SITES = dnn.Recipe.get("mxfp4", sites=("linear", "head", "embedding", "norm", "attention"))


def small(tied: bool = True, norm: str = "rmsnorm") -> GPT:
    config = GPTConfig(layers=2, width=32, heads=2, context=16, tied=tied, norm=norm)
    return GPT(config, vocab=40, generator=torch.Generator().manual_seed(0))


def tokens() -> torch.Tensor:
    return torch.randint(0, 40, (2, 16), generator=torch.Generator().manual_seed(1))


def step(model: nn.Module) -> list[torch.Tensor]:
    """Loss and gradients of one pass."""
    model.zero_grad()
    x = tokens()
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten())
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_fp32_recipe_leaves_the_model_alone():
    model = small()
    before, types = step(model), [type(m) for m in model.modules()]
    assert dnn.prepare_(model, "fp32") is model
    assert [type(m) for m in model.modules()] == types and dnn.sites(model) == []
    assert same(step(model), before)


@pytest.mark.parametrize("recipe", [*dnn.Recipe.presets()[1:], ALL_SITES], ids=str)
def test_prepare_and_restore(recipe):
    model = small(norm="layernorm")
    plain, state = step(model), {k: v.clone() for k, v in model.state_dict().items()}
    parameters, types = list(model.parameters()), [type(m) for m in model.modules()]
    attributes, buffers = [set(m.__dict__) for m in model.modules()], dict(model.named_buffers())
    dnn.prepare_(model, recipe)
    assert list(model.state_dict()) == list(state)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    quantized = step(model)
    assert all(torch.isfinite(t).all() for t in quantized)
    assert not same(quantized, plain), "the recipe does nothing"
    dnn.restore_(model)
    assert [type(m) for m in model.modules()] == types
    assert [set(m.__dict__) for m in model.modules()] == attributes and dict(model.named_buffers()) == buffers
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert same(step(model), plain)


def test_default_sites_are_all_linears_but_the_head():
    for tied in (True, False):
        model = small(tied)
        dnn.prepare_(model, "mxfp8")
        names = {site.name for site in dnn.sites(model)}
        assert names == {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "head"}
        assert {site.kind for site in dnn.sites(model)} == {"linear"}


def test_a_tied_linear_is_a_head_whatever_its_name():
    model = nn.ModuleDict(
        {"table": nn.Embedding(5, 8), "project": nn.Linear(8, 5, bias=False), "mix": nn.Linear(8, 8)}
    )
    assert [kind for _, _, kind in dnn.candidates(model)] == ["embedding", "linear", "linear"]
    model["project"].weight = model["table"].weight
    assert [kind for _, _, kind in dnn.candidates(model)] == ["embedding", "head", "linear"]
    dnn.prepare_(model, "int4")
    assert [site.name for site in dnn.sites(model)] == ["mix"]


def test_every_kind_of_site():
    model = small()
    dnn.prepare_(model, ALL_SITES)
    kinds = {}
    for site in dnn.sites(model):
        kinds.setdefault(site.kind, []).append(site.name)
    assert kinds["head"] == ["head"] and kinds["embedding"] == ["embed"]
    assert "blocks.0.attention.products.pv" in kinds["attention"] and "blocks.1.mlp.down" in kinds["linear"]
    assert {"norm", "blocks.0.attention.q_norm"} <= set(kinds["norm"])


def test_exempt_and_filter():
    model = small()
    dnn.prepare_(
        model, "mxfp8", exempt=["*.head", "blocks.0.*"], filter_fn=lambda module, name: "mlp" not in name
    )
    assert {s.name for s in dnn.sites(model)} == {f"blocks.1.attention.{n}" for n in ("q", "k", "v", "out")}
    dnn.restore_(model)
    with pytest.raises(
        UserError, match=r"(?s)'\*\.attn' matches no module.*blocks\.0\.attention\.q \(linear\)"
    ):
        dnn.prepare_(model, "mxfp8", exempt=["*.attn"])
    with pytest.raises(UserError, match="no such module is left"):
        dnn.prepare_(model, "mxfp8", exempt="blocks.*")
    assert dnn.sites(model) == []


def test_exempting_a_site_leaves_the_streams_of_the_others():
    recipe = dnn.Recipe.weights("mxfp4:rounding=stochastic")
    whole, part = small(), small()
    dnn.prepare_(whole, recipe)
    dnn.prepare_(part, recipe, exempt="blocks.0.*")
    name = "blocks.1.mlp.up"
    assert torch.equal(whole.get_submodule(name).dither_rng, part.get_submodule(name).dither_rng)


def test_errors():
    model = small()
    with pytest.raises(UserError, match=r"unknown recipe 'mxpf8'.*did you mean 'mxfp8'"):
        dnn.prepare_(model, "mxpf8")
    with pytest.raises(UserError, match=r"unknown site 'linaer'.*did you mean 'linear'"):
        dnn.Recipe.get("mxfp8", sites=("linaer",))
    with pytest.raises(UserError, match=r"no field 'fprop_y'.*did you mean 'fprop_"):
        dnn.Recipe.get("mxfp8", fprop_y="mxfp4")
    with pytest.raises(UserError, match="only dgrad_w and wgrad_x"):
        dnn.Recipe(wgrad_g="fprop")
    with pytest.raises(UserError, match="unknown preset 'mxfp9'"):
        dnn.Recipe(fprop_x="mxfp9")
    with pytest.raises(TypeError, match="fprop_x must be a Quantizer"):
        dnn.Recipe(fprop_x=4)
    dnn.prepare_(model, "mxfp8")
    with pytest.raises(UserError, match=r"prepared already .*mxfp8.*restore_"):
        dnn.prepare_(model, "mxfp4")
    with pytest.raises(UserError, match="max_norm"):
        dnn.prepare_(nn.Embedding(4, 4, max_norm=1.0), dnn.Recipe.get("mxfp4", sites="embedding"))
    stochastic = nn.Linear(4, 4)
    dnn.prepare_(stochastic, dnn.Recipe.weights("mxfp4:rounding=stochastic"))
    with pytest.raises(UserError, match="microbatch = 4096 does not fit"):
        dnn.set_clock_(stochastic, 0, 4096)


def test_recipes_are_values():
    recipe = dnn.Recipe.get("mxfp8", wgrad_g="none", dgrad_g="mxfp8_e5m2")
    assert recipe == dnn.Recipe.get("mxfp8").replace(wgrad_g=None, dgrad_g="mxfp8_e5m2")
    assert hash(recipe) == hash(copy.deepcopy(recipe)) and recipe.name == "mxfp8*" and recipe.wgrad_g is None
    assert dnn.Recipe.get("fp32").is_plain and not recipe.is_plain
    assert dnn.Recipe.get(recipe) is recipe
    assert dnn.Recipe.weights("int4").dgrad_w == "fprop"


def test_copies_and_pickles_stay_prepared():
    model = small()
    dnn.prepare_(model, ALL_SITES.replace(fprop_w="mxfp4:rounding=stochastic"))
    expected = step(model)
    twin = copy.deepcopy(model)
    assert same(step(twin), expected)
    dnn.set_clock_(twin, 5)  # the copy has a clock of its own
    assert not same(step(twin), expected) and same(step(model), expected)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    assert same(step(torch.load(stored, weights_only=False)), expected)
    dnn.restore_(twin)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


def test_a_16_bit_model_is_warned_where_results_round_once_more(monkeypatch):
    monkeypatch.setattr("dither.checks._warned", set())  # other tests may have been warned already
    with pytest.warns(UserWarning, match="int4_g32 are not exact in bf16"):
        dnn.prepare_(nn.Linear(32, 32, dtype=torch.bfloat16), dnn.Recipe.weights("int4_g32"))


def test_subclasses_with_the_plain_forward_are_sites_and_others_are_not():
    class Named(nn.Linear):
        note = "mine"

    class Doubling(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    model = nn.Sequential(Named(8, 8), Doubling(8, 8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    dnn.prepare_(model, "mxfp4")
    assert [site.name for site in dnn.sites(model)] == ["0", "2"]
    assert isinstance(model[0], Named) and model[0].note == "mine"
    model(torch.randn(3, 8)).sum().backward()
    dnn.restore_(model)
    assert type(model[0]) is Named


def test_layers_with_a_fast_path_are_named():
    with pytest.warns(UserWarning, match="'0' is an nn.TransformerEncoderLayer"):
        dnn.prepare_(nn.Sequential(nn.TransformerEncoderLayer(8, 2), nn.Linear(8, 8)), "mxfp8")


def test_the_clock_moves_the_bits_and_nothing_else_does():
    model = small()
    dnn.prepare_(
        model, dnn.Recipe.get("mxfp4", **dict.fromkeys(OPERANDS, "mxfp4:rounding=stochastic")), seed=3
    )
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first, again = step(model), step(model)
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state was touched"
    assert same(first, again)
    others = []
    for position in ((0, 1), (1, 0), (2, 0)):
        dnn.set_clock_(model, *position)
        others.append(step(model))
        assert not same(others[-1], first)
    assert not same(others[0], others[1])
    dnn.set_clock_(model, 0)
    assert same(step(model), first)
    other_seed = small()
    dnn.prepare_(other_seed, model.blocks[0].mlp.up.dither_site.recipe, seed=4)
    assert not same(step(other_seed), first)


def test_recomputation_draws_the_same_bits():
    recipe = dnn.Recipe.get("mxfp4", **dict.fromkeys(OPERANDS, "mxfp4:rounding=stochastic"))
    layer = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32))
    dnn.prepare_(layer, recipe)
    x = torch.randn(4, 32, requires_grad=True)
    direct = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    recomputed = torch.autograd.grad(
        checkpoint(layer, x, use_reentrant=False).square().sum(), [x, *layer.parameters()]
    )
    assert same(list(direct), list(recomputed))


def test_streams_of_sites_and_operands_differ():
    model = small()
    dnn.prepare_(model, dnn.Recipe.get("mxfp4", fprop_x="mxfp4:rounding=stochastic",
                                       sites=("linear", "attention")))  # fmt: skip
    found = [tuple(row) for m in model.modules() if hasattr(m, "dither_rng") for row in m.dither_rng.tolist()]
    assert len(found) == len(set(found)) == (14 + 2 * 2) * ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(seed=1.5), "seed= is an integer"),
        (dict(seed=-1), "seed= is an integer"),
        (dict(rank=-1), "rank= is an integer of at least 0"),
        (dict(steps=0), "steps= is an integer of at least 1"),
        (dict(steps=10.0), "steps= is an integer of at least 1"),
        (dict(rules={"*": None}), "rules= is a list of pairs"),
        (dict(rules=["*"]), "rule 1 is '\\*', not a pair"),
    ],
    ids=str,
)
def test_arguments_that_mean_nothing(arguments, message):
    model = nn.Linear(4, 4)
    with pytest.raises((UserError, TypeError), match=message):
        dnn.prepare_(model, "mxfp8", **arguments)
    assert type(model) is nn.Linear


def test_what_cannot_be_prepared():
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not function"):
        dnn.prepare_(lambda x: x, "mxfp8")  # pyright: ignore[reportArgumentType]
    lazy = nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 4))
    with pytest.raises(UserError, match="shape of '0' is not known yet"):
        dnn.prepare_(lazy, "mxfp8")
    dnn.prepare_(lazy, "mxfp8", exempt="0")
    assert lazy(torch.randn(2, 3)).shape == (2, 4) and not dnn.sites(lazy)[0].name == "0"


@pytest.mark.parametrize("position", [(1.5, 0), (0, 4096), (-1, 0), (2**32, 0)])
def test_positions_that_do_not_exist_move_nothing(position):
    model = dnn.prepare_(nn.Linear(32, 8), "mxfp4_rht_sr")
    before = model.dither_rng.clone()
    with pytest.raises(UserError, match="does not fit"):
        dnn.set_clock_(model, *position)
    assert torch.equal(model.dither_rng, before)
