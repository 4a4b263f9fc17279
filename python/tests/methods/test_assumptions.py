"""What a method assumes of its quantizer is checked when it is built: the error names the way out, and the
model is as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dither import methods
from dither.errors import UserError

ALONG = "run along the inputs.*'int4_g32'"
NEAREST = "stochastic of .* would be ignored"
BROKEN = [
    ("lsq", "mxfp4", {}, "learns fp32 scales.*'int4_row'"),
    ("lsq", "int4:block=8x8", {}, ALONG),
    ("lsq", "int4_g32:rounding=stochastic", {}, NEAREST),
    ("lsq", "int4_row", {"activations": "int8_row"}, "one fp32 step for an input.*'int8_tensor'"),
    ("lsq", "int4_row", {"activations": "int8_tensor:rounding=stochastic"}, NEAREST),
    ("quest", "fp4_g32", {}, "int2, int3, int4.*'int4_row'"),
    ("quest", "int4_row", {"activations": "mxfp4"}, "int2, int3, int4.*'int4_row'"),
    ("quest", "int4:block=column", {}, ALONG),
    ("quest", "int4_row:rounding=stochastic", {}, NEAREST),
    ("quest", "int4_row", {"hadamard": 32}, r"0\.weight with 48 inputs.*power of two that divides"),
    ("statsq", "mxfp4", {}, "integer grids.*'int4_row'"),
    ("statsq", "int4:block=8x8", {}, ALONG),
    ("statsq", "int4_row:rounding=stochastic", {}, NEAREST),
    ("qema", "int4_g32:rounding=stochastic", {}, NEAREST),
    ("freeze", "bf16", {}, "no block scale.*'int4_g32'"),
    ("gptq", "bf16", {}, "no block scale.*'int4_g32'"),
    ("gptq", "fp8_128x128", {"clip": "mse"}, ALONG),
    ("gptq", "int4_g32:rounding=stochastic", {}, NEAREST),
    ("adaround", "bf16", {}, "no block scale.*'int4_g32'"),
    ("adaround", "int4_g32:rounding=stochastic", {}, NEAREST),
    ("ptq", "fp8_128x128", {"clip": "mse"}, ALONG),
    ("lotion", "int4:block=8x8", {}, ALONG),
    ("lotion", "mxfp4", {}, "clips.*scale_rule=rceil"),
    ("rat", "bf16", {}, "clips.*'int4_g32'"),
]


@pytest.mark.parametrize(("name", "quantizer", "options", "message"), BROKEN)
def test_a_quantizer_that_breaks_an_assumption_is_refused_before_anything_changes(
    name: str, quantizer: str, options: dict[str, Any], message: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 40))
    if name == "lotion":
        options = {"curvature": methods.AdamSecondMoment(torch.optim.Adam(model.parameters()), n_eff=1)}
    x = torch.randn(3, 48)
    before = model(x)
    with pytest.raises(UserError, match=message):
        methods.get(name)(model, quantizer, **options)
    assert all(type(layer) is nn.Linear and not layer._forward_pre_hooks for layer in (model[0], model[2]))
    assert torch.equal(model(x), before)
    methods.Qat(model, "int4_g32")  # another method finds nothing in its way


def test_a_second_method_is_refused_and_the_first_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 64), nn.GELU(), nn.Linear(64, 40))
    x = torch.randn(3, 48)
    first = methods.Qat(model, "int4_g32")
    seen = model(x)
    with pytest.raises(UserError, match=r"0\.weight is in the hands of a method already.*detach"):
        methods.Lsq(model, "int3_row")
    assert torch.equal(model(x), seen)
    first.detach()
    methods.Lsq(model, "int3_row")


@pytest.mark.parametrize("name", ["random_scaling", "qramping"])
def test_a_loop_that_leaves_out_a_call_is_told_which(name: str) -> None:
    method = methods.get(name)(nn.Sequential(nn.Linear(32, 32)), "int4_g32")
    with pytest.raises(UserError, match=r"call adjust_grad_\(3\) before the optimizer"):
        method.after_step_(3, 1e-3)
    method.adjust_grad_(3)
    method.after_step_(3, 1e-3)
