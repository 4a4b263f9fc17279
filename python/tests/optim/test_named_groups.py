"""Optimizer state by the names of parameters, and what describe says of it."""

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither import optim
from dither.errors import UserError
from dither.nn.states import rows_of
from dither.optim.state import PRESETS


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 128), nn.LayerNorm(128), nn.Linear(128, 128, bias=False))


def test_later_rules_win_option_by_option():
    net = model()
    net[2].weight.requires_grad_(False)
    rules = [
        ("*", {"state": "int8", "weight_decay": 0.1}),
        ("1.*", {"state": "fp32"}),
        (lambda p, name: p.dim() == 1, {"weight_decay": 0.0}),
    ]
    groups = optim.named_groups(net, rules)
    said = {name: (g["state"], g["weight_decay"]) for g in groups for name, _ in g["params"]}
    assert said == {
        "0.weight": ("int8", 0.1),
        "0.bias": ("int8", 0.0),
        "1.weight": ("fp32", 0.0),
        "1.bias": ("fp32", 0.0),
    }
    assert len(groups) == 3


def test_an_optimizer_takes_them_and_describe_tells():
    net = dnn.prepare_(model(), "mxfp8", exempt="2")
    groups = optim.named_groups(net, [("0.weight", {"state": "int8"}), ("2.weight", {"state": "bf16"})])
    optimizer = optim.AdamW(groups, lr=1e-3)
    net(torch.randn(4, 128)).square().mean().backward()
    optimizer.step()
    kept = {name: optimizer.state[p] for name, p in net.named_parameters()}
    bytes_of = {
        name: sum(t.numel() * t.element_size() for t in state.values() if isinstance(t, torch.Tensor))
        for name, state in kept.items()
    }
    assert bytes_of["0.weight"] < 0.6 * bytes_of["2.weight"]
    lines = str(dnn.describe(net, optimizer=optimizer)).splitlines()
    row = next(line for line in lines if line.startswith("0.weight"))
    assert row.split()[1:5] == ["state", "128", "x", "128"] and " int8 " in row and "optimizer group 0" in row
    assert next(line for line in lines if line.startswith("2.weight")).count("bf16") == 1
    assert len(dnn.describe(net, optimizer=optimizer)) == len(dnn.describe(net))
    other = model()
    plain = dnn.describe(other, optimizer=torch.optim.Adam([next(other.parameters())]))
    assert "as torch keeps it (float32)" in str(plain) and "not in the optimizer" in str(plain)


def test_the_rounding_of_16_bit_weights_is_told():
    net = model().bfloat16()
    told = str(dnn.describe(net, optimizer=optim.AdamW(optim.named_groups(net), rounding="kahan")))
    assert told.count("fp32; bfloat16 weights, kahan") == len(list(net.parameters()))


@pytest.mark.parametrize("make", [optim.AdamW, optim.Muon])
@pytest.mark.parametrize("state", ["int8", "fp4", ("fp32", PRESETS["int8"][1])], ids=["int8", "fp4", "pair"])
def test_what_is_too_small_for_codes_is_told(make, state):
    """64 x 64 is the smallest that is packed. What is told is what lies in memory after a step."""
    sizes = ((64, 64), (63, 65), (63, 64), (64, 65), (2, 64))
    net = nn.ModuleList(nn.Linear(*size) for size in sizes)
    optimizer = make(net.parameters() if make is optim.AdamW else optim.muon_groups(net), state=state)
    told = {row[0]: row[3] for row in rows_of(net, optimizer)}
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        kept = optimizer.state[p]
        packed = any(key.endswith("_codes") for key in kept)
        assert packed == (told[name] not in ("fp32", "fp32 (fewer than 4096 elements)")), name
        moments = [value for key, value in kept.items() if key != "step"]
        assert packed or all(value.dtype == torch.float32 for value in moments)
    assert told["0.bias"] == "fp32 (fewer than 4096 elements)"
    assert told["0.weight"] != told["2.weight"] or make is optim.Muon


def test_options_that_torch_ignores_are_not_told():
    net = model().bfloat16()
    groups = optim.named_groups(net, [("*", {"state": "int8", "rounding": "kahan"})])
    told = str(dnn.describe(net, optimizer=torch.optim.Adam(groups)))
    assert "int8" not in told and "kahan" not in told
    assert told.count("as torch keeps it (bfloat16)") == len(list(net.parameters()))


def test_what_matches_nothing():
    with pytest.raises(UserError, match=r"(?s)rule 1: '\*\.wieght' matches no parameter.*0\.weight"):
        optim.named_groups(model(), [("*.wieght", {"state": "int8"})])
    with pytest.raises(UserError, match="no parameter of this model"):
        dnn.describe(model(), optimizer=torch.optim.Adam(model().parameters()))
