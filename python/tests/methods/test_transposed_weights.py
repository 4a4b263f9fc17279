"""GPT-2's linears, whose weights are [inputs, outputs], packed after methods that place weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dither import methods
from dither.nn import ops

torch.set_num_threads(1)


class Conv1D(nn.Module):
    """GPT-2's linear, whose weight is [inputs, outputs]."""

    def __init__(self):
        super().__init__()
        self.nf = 24
        self.weight, self.bias = nn.Parameter(torch.randn(70, 24)), nn.Parameter(torch.zeros(24))

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.mark.parametrize("spec", ["int4_g32", "int3_row", "int8_tensor", "fp4_g32", "nvfp4", "mxfp4"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("gptq", {"clip": "mse"}), ("adaround", {"iterations": 20}), ("ptq", {"clip": "mse"}), ("qema", {}),
     ("lsq", {})],
)  # fmt: skip
def test_transposed_weights_are_packed_under_the_scales_they_were_placed_with(name, options, spec):
    if name == "lsq" and spec in ("nvfp4", "mxfp4"):
        pytest.skip("LSQ learns fp32 scales")
    torch.manual_seed(0)
    model: Any = nn.Sequential(Conv1D())
    nearest = ops.fake_quant(model[0].weight.detach(), spec, axis=0)
    method: Any = methods.get(name)(model, spec, **options)
    if name == "qema":  # points that are not the nearest
        method.average["0.weight"].add_(0.3 * torch.randn(70, 24))
    if method.needs_data:
        method.calibrate_([torch.randn(8, 70)])
    with method.deployed():
        expected = model[0].weight.detach().clone()
    assert not torch.equal(expected, nearest)
    method.convert_()
    packed: Any = model[0].weight
    assert packed.shape == (70, 24) and torch.equal(packed.dequantize(), expected)
    assert packed.nbytes_held < 70 * 24 * 2
