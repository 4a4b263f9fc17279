"""The Rust kernel of LOTION's penalty against its torch twin, and the ops around it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dither import methods
from dither.methods import kernels, noise
from dither.quantizer import Quantizer

torch.set_num_threads(1)

SPECS = [
    "int4_g32", "int8_row", "int3_g128", "int2:block=7", "fp4_g32", "mxfp4:scale_rule=rceil",
    "nvfp4:scale_rule=rceil", "mxfp8_e4m3:scale_rule=rceil",
]  # fmt: skip


def arrays(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    w, g = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
    w.view(-1)[:40] = 0.0
    w.view(-1)[50::7] = 1.5  # points of grids, and ties
    return w, g


@pytest.mark.parametrize("scale_grad", [True, False])
@pytest.mark.parametrize("spec", SPECS)
def test_the_kernel_equals_the_torch_expression(spec, scale_grad):
    q = Quantizer(spec)
    for shape in ((3, 77), (64, 160), (1, 1), (5,)):
        w, g = arrays(shape)
        assert kernels.takes(q, w, g)
        value, gradient = noise.penalty_and_gradient(w, g, q, scale_grad=scale_grad)
        expected_value, expected = noise._by_torch(w, g, q, scale_grad)
        torch.testing.assert_close(value, expected_value, rtol=2e-6, atol=0)
        torch.testing.assert_close(gradient, expected, rtol=2e-6, atol=2e-6 * float(expected.abs().max()))
        if not scale_grad:  # nothing but the lattice part: no sum over a block enters
            assert torch.equal(gradient, expected)


@pytest.mark.parametrize("spec", ["int4_tensor", "fp8_128x128:format=int4", "int4_g32:scale_rule=mse"])
def test_what_the_kernel_does_not_take_goes_by_torch(spec):
    w, g = arrays((8, 64))
    assert not kernels.takes(Quantizer(spec), w, g)


def test_other_dtypes_go_by_torch():
    w, g = arrays((8, 64))
    q = Quantizer("int4_g32")
    assert not kernels.takes(q, w.double(), g.double())
    value, gradient = noise.penalty_and_gradient(w.bfloat16(), g, q, scale_grad=True)
    same, expected = noise.penalty_and_gradient(w.bfloat16().float(), g, q, scale_grad=True)
    assert torch.equal(value, same) and torch.equal(gradient, expected)


@pytest.mark.parametrize("spec", ["int4_g32", "int4_tensor"])
def test_the_gradient_is_added_in_place(spec):
    w, g = arrays((8, 64))
    q = Quantizer(spec)
    value, gradient = noise.penalty_and_gradient(w, g, q, scale_grad=True)
    for out in (torch.ones(8, 64), torch.ones(64, 8).t()):
        added = noise.add_gradient_(out, w, g, q, scale_grad=True, factor=0.5)
        torch.testing.assert_close(out, 1 + 0.5 * gradient)
        assert torch.equal(added, value)


def test_threads_do_not_change_a_bit():
    w, g = arrays((300, 320))
    q = Quantizer("int4_g32")
    one = noise.penalty_and_gradient(w, g, q, scale_grad=True)
    torch.set_num_threads(2)
    try:
        two = noise.penalty_and_gradient(w, g, q, scale_grad=True)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


def test_the_ops_satisfy_torch():
    w, g = arrays((4, 64))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.dither.lotion.default, (w, g, "int4_g32", True), test_utils=tests)
    torch.library.opcheck(
        torch.ops.dither.lotion_add_.default,
        (torch.zeros_like(w), w, g, "int4_g32", True, 0.5),
        test_utils=tests,
    )


class Ones(methods.Curvature):
    def diagonal(self, name, weight):
        return torch.ones_like(weight)


@pytest.mark.parametrize("mode", ["loss", "grad", "decoupled"])
def test_every_mode_records_the_penalty(mode):
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    lotion = methods.Lotion(model, "int4_g32", curvature=Ones(), lam=0.3, mode=mode, optimizer=optimizer)
    expected = lotion.value(0)
    loss = model(torch.ones(2, 64)).sum() + lotion.penalty(0)
    loss.backward()
    lotion.adjust_grad_(0)
    optimizer.step()
    lotion.after_step_(0, 0.0)
    assert expected > 0 and lotion.last_penalty == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_the_rows_of_a_convolution_are_its_outputs_with_all_their_inputs(kind):
    module: Any = kind(8, 4, 3)
    target = methods.Target("w", 0, module.weight, (module,), "conv")
    rows = target.rows(module.weight)
    if kind is torch.nn.Conv2d:  # y_o = sum over (channel, tap) of w[o, channel, tap] x
        assert rows.shape == (4, 72) and torch.equal(rows[1], module.weight[1].flatten())
    else:  # every (output channel, tap) sums over the input channels, the first axis
        assert rows.shape == (36, 8) and torch.equal(rows[9], module.weight[:, 1, 0, 0])
    assert rows.data_ptr() == module.weight.data_ptr()
    assert torch.equal(target.like(rows), module.weight)
