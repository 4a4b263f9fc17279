"""StatsQ and Q-EMA against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dither import methods
from dither.errors import UserError
from dither.nn import ops

torch.set_num_threads(1)


def linear() -> Any:
    torch.manual_seed(0)
    return nn.Linear(64, 16, bias=False)


@pytest.mark.parametrize("bits", [2, 4])
def test_statsq_is_its_few_lines(bits):
    model, n = linear(), 2 ** (bits - 1)
    w = model.weight.detach().clone()
    w[0, 0] = model.weight.data[0, 0] = 5.0  # clipped
    methods.StatsQ(model, f"int{bits}_row")
    seen = model(torch.eye(64)).T
    s = 2 * w.abs().mean(1, keepdim=True)
    c = (w / s).clamp(-1, 1 - 1e-6)
    torch.testing.assert_close(seen.detach(), s * ((n * c - 0.5).round() + 0.5) / n)
    assert len((seen / s)[0].detach().round(decimals=4).unique()) <= 2**bits
    seen.sum().backward()
    inside = ((w / s) >= -1) & ((w / s) <= 1 - 1e-6)
    assert not inside.all()
    torch.testing.assert_close(model.weight.grad, inside.float())
    with pytest.raises(UserError, match="int4_row"):
        methods.StatsQ(linear(), "mxfp4")


def test_qema_rounds_where_the_average_lies():
    model = linear()
    method = methods.Qema(model, "int4_row", decay=0.9)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(0.02 * torch.randn(16, 64))
    method.after_step_(0, 0.1)
    w, average = model.weight.detach(), start + 0.1 * (model.weight.detach() - start)
    torch.testing.assert_close(method.average["weight"], average)
    lo, hi = ops.neighbours(w, "int4_row")
    expected = torch.where(average > (lo + hi) / 2, hi, lo)
    seen = model(torch.eye(64)).T
    torch.testing.assert_close(seen.detach(), expected)
    assert 0.02 < float((expected != ops.fake_quant(w, "int4_row")).float().mean()) < 0.5
    seen.sum().backward()
    torch.testing.assert_close(model.weight.grad, torch.ones(16, 64))
    method.convert_()
    torch.testing.assert_close(model.weight.dequantize(), expected)
