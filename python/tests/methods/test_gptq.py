"""Grids with held scales, and the layer-wise methods on them: GPTQ against a naive loop, AdaRound and the
clip search against rounding to nearest; what happens around a calibration.
"""

from __future__ import annotations

import copy
from typing import Any

import grids
import pytest
import torch
from torch import nn

from dither import methods
from dither.errors import UserError
from dither.methods.adaround import learn_rounding
from dither.methods.calibration import gram_of, groups_of
from dither.methods.gptq import gptq
from dither.methods.grid import Grid, searched_grid
from dither.nn import PackedTensor, ops
from dither.quantizer import Quantizer

torch.set_num_threads(1)

SPECS = ["int4_g32", "int3_row", "mxfp4", "nvfp4", "fp4_g32", "int8_tensor", "mxint8", "int4:block=24"]


def layer(outputs=24, inputs=96, seed=0):
    """A weight, and the Gram matrix of correlated inputs of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 30, generator=generator) @ torch.randn(30, inputs, generator=generator)
    x += 0.5 * torch.randn(400, inputs, generator=generator)
    x *= torch.exp(0.5 * torch.randn(inputs, generator=generator))
    x[:, 5] = 0.0
    x = x.double()
    return torch.randn(outputs, inputs, generator=generator) * 0.1, x.T @ x / 400


def naive_gptq(w, h, points_of, order, damping):
    """OBQ's update with a fixed order (arXiv 2210.17323, Eqs. 1-2): after each column the inverse of the
    remaining Hessian is formed anew. O(n^4).
    """
    w, h = w.double().clone(), h.clone()
    dead = h.diag() == 0
    h[dead, dead] = h.diag().mean()
    h += damping * (h.diag() * ~dead).mean() * torch.eye(len(h), dtype=torch.float64)
    result, left = torch.zeros_like(w), list(order)
    while left:
        j = left[0]
        inverse = torch.linalg.inv(h[left][:, left])
        result[:, j] = points_of(w[:, j], j)
        error = (w[:, j] - result[:, j]) / inverse[0, 0]
        w[:, left] -= error[:, None] * inverse[0][None, :]
        left = left[1:]
    return result


@pytest.mark.parametrize("spec", SPECS)
def test_a_grid_rounds_as_its_quantizer_and_stores_what_it_rounds(spec):
    w, _ = layer()
    w[3, :48] = 0.0
    grid = Grid(w, Quantizer(spec))
    expected = ops.fake_quant(w, spec)
    assert torch.equal(grid.nearest(w), expected)
    assert torch.equal(grid.store(expected).dequantize(), expected)
    assert torch.equal(grid.nearest(w[:, 7], (slice(None), 7)), expected[:, 7])
    moved = grid.nearest(1.1 * w + 0.01)  # other values, the same scales
    assert torch.equal(grid.store(moved).dequantize(), moved)
    lo, hi = grid.neighbours(w)
    low, high = ops.neighbours(w, spec)
    inside = (lo < w) & (w < hi) & ((w - expected).abs() > 1e-3 * grid.scale)  # not next to a point
    assert torch.equal(lo[inside], low[inside]) and torch.equal(hi[inside], high[inside])


def test_a_grid_draws_without_bias():
    """20000 draws of one weight a third into its cell: 5 standard errors are 0.017 of the cell."""
    w = torch.full((1, 20001), 2.0 + 1 / 3)
    w[0, 0] = 7.0
    drawn = Grid(w, Quantizer("int4_row")).drawn(w, seed=1, stream=2)[0, 1:]
    assert set(drawn.tolist()) == {2.0, 3.0}
    assert float(drawn.mean()) == pytest.approx(2 + 1 / 3, abs=0.017)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("spec", ["int4_g32", "int3_row", "mxfp4", "nvfp4"])
def test_gptq_is_the_naive_loop(spec, act_order):
    w, h = layer(8, 40)
    grid = Grid(w, Quantizer(spec))
    order = torch.argsort(h.diag(), descending=True, stable=True) if act_order else torch.arange(40)
    expected = naive_gptq(w, h, lambda c, j: grid.nearest(c, (slice(None), j)), order.tolist(), 0.01)
    got = gptq(w, h, grid, act_order=act_order, damping=0.01)
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-9)


def test_gptq_is_the_naive_loop_across_its_blocks():
    """160 columns: the lazy update of the columns behind a block of 128 is in play."""
    w, h = layer(4, 160)
    grid = Grid(w, Quantizer("int4_g32"))
    expected = naive_gptq(w, h, lambda c, j: grid.nearest(c, (slice(None), j)), range(160), 0.02)
    got = gptq(w, h, grid, act_order=False, damping=0.02)
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("spec", ["int4_g32", "int3_row", "mxfp4", "nvfp4", "int2_row"])
def test_what_each_method_leaves_of_the_error_of_nearest(spec):
    """On the layer's reconstruction loss: GPTQ under 0.3 of rounding to nearest, AdaRound under 0.9 and for
    no output above it, searched scales not above it by their own measure.
    """
    w, h = layer()
    q = Quantizer(spec)
    grid = Grid(w, q)
    nearest = grid.loss(w, grid.nearest(w), h)
    assert float(grid.loss(w, gptq(w, h, grid, act_order=True, damping=0.01), h).sum() / nearest.sum()) < 0.3
    learned = grid.loss(w, learn_rounding(w, h, grid, iterations=200, lr=0.02, lam=3.0), h)
    assert (learned <= nearest).all() and float(learned.sum() / nearest.sum()) < 0.9
    plain = searched_grid(w, q, torch.ones(()))
    assert (plain.nearest(w) - w).square().sum() <= (grid.nearest(w) - w).square().sum()
    importance = h.diag().float()
    weighted = searched_grid(w, q, importance)

    def measure(g):
        return float(((g.nearest(w) - w).square() * importance).sum())

    assert measure(weighted) < measure(grid) and measure(weighted) <= measure(plain)


def test_the_search_finds_the_best_of_its_candidates_for_every_block():
    """Against a loop over all candidates and blocks with the formula round(w / s) s."""
    w, h = layer(6, 64)
    importance = h.diag().float()
    best = torch.full((6, 2), torch.inf)
    for factor in [1.0, *(c / 40 for c in (*range(39, 13, -1), 41, 42))]:
        blocks, weights = w.view(6, 2, 32), importance.view(1, 2, 32)
        s = factor * blocks.abs().amax(-1, keepdim=True) / 7
        error = ((blocks / s).round().clamp(-7, 7) * s - blocks).square() * weights
        best = torch.minimum(best, error.sum(-1))
    grid = searched_grid(w, Quantizer("int4_g32"), importance)
    got = ((grid.nearest(w) - w).square() * importance).view(6, 2, 32).sum(-1)
    torch.testing.assert_close(got, best, rtol=1e-4, atol=0)


def test_adaround_of_a_weight_on_its_grid_is_that_weight():
    w, h = layer()
    on = ops.fake_quant(w, "int4_g32")
    grid = Grid(on, Quantizer("int4_g32"))
    assert torch.equal(learn_rounding(on, h, grid, iterations=5, lr=0.1, lam=1.0), grid.nearest(on))


class Net(nn.Module):
    """q and k share their input; the two uses of `again` share a weight; `conv` is a convolution."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(32, 32), nn.Linear(32, 32)
        self.again = nn.Linear(32, 32)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(32, 8)

    def forward(self, x):
        x = self.dropout(self.q(x).relu() + self.k(x).tanh())
        return self.head(self.again(self.again(x).relu()))


@pytest.fixture
def net() -> Any:
    torch.manual_seed(0)
    return Net()


def loader(count=4, seed=1):
    """Batches of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 32, generator=generator)
    parts = [
        torch.randn(16, 8, generator=generator) @ mixing / 3 + 0.2 * torch.randn(16, 32, generator=generator)
        for _ in range(count)
    ]
    return [(x, torch.zeros(16)) for x in parts]


def test_layers_with_one_input_are_treated_together_in_the_order_of_use(net):
    found = methods.Gptq(net, "int4_g32").found
    groups = groups_of(found, loader()[0][0], net)
    assert [[t.name for t in g.targets] for g in groups] == [["q.weight", "k.weight"], ["again.weight"]]
    assert [g.calls for g in groups] == [1, 2]


def test_the_gram_matrix_is_the_mean_over_all_batches_and_uses(net):
    net.eval()
    seen = []
    handle = net.again.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    for x, _ in loader():
        net(x)
    handle.remove()
    x = torch.cat(seen).double()
    groups = groups_of(methods.Gptq(net, "int4_g32").found, loader()[0][0], net)
    got = gram_of(groups[1], [x for x, _ in loader()], net)
    torch.testing.assert_close(got, x.T @ x / len(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["gptq", "adaround", "ptq"])
def test_calibration_puts_the_weights_on_their_grid_layer_after_layer(net, name):
    """The second group sees the inputs that the quantized first one gives it: by hand for GPTQ."""
    before = copy.deepcopy(net)
    options = {"clip": "weighted"} if name == "ptq" else {}
    method = methods.get(name)(net, "int4_g32", **options)
    seen = []
    with pytest.raises(UserError, match="calibrate_"), method.deployed():
        pass
    method.calibrate_(loader(), progress=lambda *args: seen.append(args))
    assert seen == [("q.weight", 0, 3), ("k.weight", 1, 3), ("again.weight", 2, 3)]
    assert net.training and torch.equal(net.head.weight, before.head.weight)
    for part in ("q", "k", "again"):
        weight = net.get_parameter(f"{part}.weight").detach()
        assert not torch.equal(weight, before.get_parameter(f"{part}.weight"))
        assert all(len(block.unique()) <= 15 for block in weight.view(-1, 32))
    if name == "gptq":
        half = copy.deepcopy(before)
        half.q, half.k = net.q, net.k
        half.eval()
        target = method.found[2]
        groups = groups_of(methods.Ptq(half, "int4_g32").found, loader()[0][0], half)
        h = gram_of(groups[1], [x for x, _ in loader()], half)
        w = before.again.weight.detach()
        expected = gptq(w, h, Grid(w, Quantizer("int4_g32")), act_order=True, damping=0.01)
        assert target.name == "again.weight" and torch.equal(net.again.weight, expected)


@pytest.mark.parametrize("spec", ["int4_g32", "nvfp4", "mxfp4", "int3_row"])
def test_packed_weights_are_those_of_the_calibration(net, spec):
    method = methods.Gptq(net, spec, clip="mse")
    method.calibrate_(loader())
    net.eval()
    expected, weight = net(loader()[0][0]), net.q.weight.detach().clone()
    state = method.state_dict()
    with method.deployed("stochastic", seed=1):
        assert torch.equal(net.q.weight, weight)
    second = methods.Gptq(net, spec, clip="mse")
    second.load_state_dict(state)
    second.convert_()
    assert isinstance(net.q.weight, PackedTensor) and torch.equal(net.q.weight.dequantize(), weight)
    torch.testing.assert_close(net(loader()[0][0]), expected)


def test_a_weight_that_moved_after_calibration_is_not_packed(net):
    method = methods.Gptq(net, "int4_g32")
    method.calibrate_(loader())
    with torch.no_grad():
        net.q.weight[0, 0] += 1e-3
    with pytest.raises(UserError, match=r"q\.weight has changed"):
        method.convert_()


def test_a_calibration_batch_with_nan_is_named_and_nothing_is_changed(net):
    batches = loader()
    batches[2][0][3, 4] = float("nan")
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=r"batch 2 .*input of q holds NaN"):
        methods.Gptq(net, "int4_g32").calibrate_(batches)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items()) and net.training


def test_what_calibration_cannot_work_on(net):
    with pytest.raises(UserError, match="no iterator"):
        methods.Gptq(net, "int4_g32").calibrate_(iter(loader()))
    with pytest.raises(UserError, match=r"does not call k\.weight"):
        methods.Gptq(net, "int4_g32", exempt=["again"]).calibrate_(loader(), forward=lambda b: net.q(b[0]))
    with pytest.raises(UserError, match="did you mean 'mse'"):
        methods.Gptq(net, "int4_g32", clip="msee")
    with pytest.raises(UserError, match="int4_g32"):
        methods.Gptq(net, "bf16").calibrate_(loader())
    with pytest.raises(UserError, match="damping"):
        methods.Gptq(net, "int4_g32", damping=-1.0)


def test_frozen_weights_and_other_dtypes_are_calibrated_all_the_same(net):
    net.requires_grad_(False)
    methods.Gptq(net, "int4_g32").calibrate_(loader())
    half: Any = Net().to(torch.bfloat16)
    batches = [(x.bfloat16(), y) for x, y in loader()]
    method = methods.Gptq(half, "int4_g32")
    method.calibrate_(batches)
    method.convert_()
    assert isinstance(half.q.weight, PackedTensor) and half.q.weight.dtype == torch.bfloat16


def test_gptq_keeps_what_a_layer_computes_better_than_nearest(net):
    x = torch.cat([x for x, _ in loader(8)])
    net.eval()
    expected = net(x)
    nearest = methods.Ptq(net, "int3_row")
    with nearest.deployed() as plain:
        error = (plain(x) - expected).square().mean()
    methods.Gptq(net, "int3_row").calibrate_(loader(8))
    assert (net(x) - expected).square().mean() < 0.8 * error


def test_ptq_with_searched_scales_needs_no_data(net):
    before = net.q.weight.detach().clone()
    method = methods.Ptq(net, "int3_row", clip="mse")
    with method.deployed():
        searched = (net.q.weight - before).square().sum()
    nearest = torch.from_numpy(grids.nearest(before.double().numpy(), grids.GRIDS["int3"], "row"))
    assert searched < (nearest - before).square().sum()
    assert torch.equal(net.q.weight, before)
    assert method.label == "PTQ (clip mse)"


@pytest.mark.parametrize("name", ["gptq", "adaround", "ptq"])
def test_no_batch_at_all_is_an_error(net, name):
    method = methods.get(name)(net, "int4_g32", **({"clip": "weighted"} if name == "ptq" else {}))
    with pytest.raises(UserError, match=r"no calibration batch.*a list or a DataLoader"):
        method.calibrate_([])
