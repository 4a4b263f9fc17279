"""The penalty and its gradient against enumeration and central differences."""

from __future__ import annotations

import itertools

import grids
import numpy as np
import pytest
import torch

from dither.methods.noise import Penalty, penalty_and_gradient
from dither.nn import ops
from dither.quantizer import Quantizer

torch.set_num_threads(1)

CASES = [  # preset or printed form, shape, block
    ("int4_g32", (3, 64), 32),
    ("int4_g32", (2, 41), 32),
    ("int4_row", (4, 7), "row"),
    ("int4_tensor", (3, 5), "tensor"),
    ("int8_row", (2, 9), "row"),
    ("int3_row", (2, 3, 6), "row"),
    ("fp4_g32", (2, 64), 32),
    ("fp4_g32", (2, 33), 32),
    ("format=int4,block=6,scale_format=fp32", (3, 20), 6),
]


def grid_of(spec: str) -> np.ndarray:
    return grids.GRIDS["int4" if spec.startswith("format=int4") else spec.split("_")[0]]


def case(spec, shape, block, seed=0):
    """(quantizer, element grid, weights, curvature)."""
    grid = grid_of(spec)
    g = np.random.default_rng(seed + 100).uniform(0.2, 3.0, shape)
    return Quantizer(spec), grid, grids.weights(shape, grid, block, seed), g


def evaluate(w, g, quantizer, scale_grad=True):
    value, gradient = penalty_and_gradient(
        torch.from_numpy(w), torch.from_numpy(g), quantizer, scale_grad=scale_grad
    )
    return float(value), gradient.numpy()


@pytest.mark.parametrize(("spec", "shape", "block"), CASES)
def test_neighbours_are_the_grid_points_around_each_weight(spec, shape, block):
    quantizer, grid, w, _ = case(spec, shape, block)
    lo, hi = ops.neighbours(torch.from_numpy(w), quantizer, axis=-1)
    expected_lo, expected_hi = grids.neighbours(w, grid, block)
    np.testing.assert_array_equal(lo.numpy(), expected_lo)
    np.testing.assert_array_equal(hi.numpy(), expected_hi)


@pytest.mark.parametrize("spec", ["int4_row", "fp4_g32"])
@pytest.mark.parametrize("seed", range(5))
def test_enumeration_of_all_corners_of_a_quadratic(spec, seed):
    """E[L(RR(w))] over the 64 corners of the cell = L(w) + 1/2 sum h_ii sigma_i^2, to 1e-12."""
    rng = np.random.default_rng(seed)
    quantizer, grid, w, _ = case(spec, (7,), "row", seed)
    a = rng.standard_normal((7, 7))
    hessian, target = a @ a.T, rng.standard_normal(7)

    def loss(v):
        return 0.5 * (v - target) @ hessian @ (v - target)

    lo, hi = grids.neighbours(w, grid, "row")
    free = np.flatnonzero(hi > lo)
    assert len(free) == 6  # the block maximum is on the grid
    up = np.zeros(7)
    up[free] = (w - lo)[free] / (hi - lo)[free]
    expectation, total = 0.0, 0.0
    for corner in itertools.product([0, 1], repeat=6):
        choice = np.zeros(7, bool)
        choice[free] = corner
        probability = np.prod(np.where(choice, up, 1 - up))
        expectation += probability * loss(np.where(choice, hi, lo))
        total += probability
    assert total == pytest.approx(1.0, abs=1e-14)
    value, _ = evaluate(w, np.diag(hessian).copy(), quantizer)
    assert abs(expectation - (loss(w) + value)) < 1e-12 * max(1.0, abs(expectation))


@pytest.mark.parametrize(("spec", "shape", "block"), CASES)
@pytest.mark.parametrize("scale_grad", [True, False])
def test_gradient_is_that_of_central_differences(spec, shape, block, scale_grad):
    """To 1e-8, in both scale modes: with the scale frozen the neighbours stay as they are, else they move."""
    quantizer, grid, w, g = case(spec, shape, block, seed=1)
    value, gradient = evaluate(w, g, quantizer, scale_grad)
    assert value == pytest.approx(grids.penalty(w, g, grid, block), rel=1e-13)
    frozen_lo, frozen_hi = grids.neighbours(w, grid, block)
    maxima = np.zeros(shape, bool)
    for index in grids.blocks(shape, block):
        maxima[index] = np.abs(w[index]) == np.abs(w[index]).max()

    def penalty(v):
        if scale_grad:
            return grids.penalty(v, g, grid, block)
        return 0.5 * float((g * (v - frozen_lo) * (frozen_hi - v)).sum())

    for index in np.ndindex(*shape):
        if maxima[index] and not scale_grad:
            assert gradient[index] == 0.0  # on the grid: the kink's subgradient
            continue
        h = abs(w[index]) * 2.0**-12 if maxima[index] else 2.0**-20
        plus, minus = w.copy(), w.copy()
        plus[index] += h
        minus[index] -= h
        difference = (penalty(plus) - penalty(minus)) / (2 * h)
        assert gradient[index] == pytest.approx(difference, abs=1e-8), index


def test_scale_part_is_the_integer_formula():
    """sign(w_max)/q * sum 1/2 g [(2f+1) w - 2 s f (f+1)], f = floor(w/s), on 32 INT4 weights."""
    quantizer, _, w, g = case("int4_g32", (1, 32), 32, seed=3)
    _, through = evaluate(w, g, quantizer, scale_grad=True)
    _, frozen = evaluate(w, g, quantizer, scale_grad=False)
    top = np.abs(w).argmax()
    s = np.abs(w).max() / 7
    f = np.floor(w / s)
    terms = 0.5 * g * ((2 * f + 1) * w - 2 * s * f * (f + 1))
    terms[0, top] = 0.0  # on the grid
    expected = np.zeros_like(w)
    expected[0, top] = np.sign(w[0, top]) / 7 * terms.sum()
    np.testing.assert_allclose(through - frozen, expected, rtol=0, atol=1e-13)
    assert abs(expected[0, top]) > 0.1 * s  # leaving it out would be seen


@pytest.mark.parametrize(("spec", "shape", "block"), CASES)
def test_penalty_is_homogeneous_of_degree_two(spec, shape, block):
    """R(tw) = t^2 R(w) where the scale follows amax, hence <w, dR/dw> = 2R (Euler): the scale part cannot be
    missing.
    """
    quantizer, _, w, g = case(spec, shape, block, seed=5)
    value, gradient = evaluate(w, g, quantizer, scale_grad=True)
    assert (w * gradient).sum() == pytest.approx(2 * value, rel=1e-12)
    _, frozen = evaluate(w, g, quantizer, scale_grad=False)
    assert (w * frozen).sum() != pytest.approx(2 * value, rel=1e-3)


def test_second_derivative_along_an_axis_cancels_the_curvature():
    """In a cell the smoothed loss is linear along every axis: h_ii + d2R/dw_i^2 = 0."""
    quantizer, _, w, g = case("int4_row", (1, 8), "row", seed=7)
    h = 2.0**-14
    for i in range(8):
        if abs(w[0, i]) == np.abs(w).max():
            continue
        plus, minus = w.copy(), w.copy()
        plus[0, i] += h
        minus[0, i] -= h
        slope = (evaluate(plus, g, quantizer)[1][0, i] - evaluate(minus, g, quantizer)[1][0, i]) / (2 * h)
        assert abs(g[0, i] + slope) < 1e-6 * g[0, i]


def test_fp4_penalty_knows_the_uneven_gaps():
    """sigma^2 = (w - lo)(hi - w) in the gaps 1.5..2, 2..3, 3..4 and 4..6 of E2M1, scale 1."""
    w = torch.tensor([[6.0, 1.6, 2.5, 3.25, 4.5, 5.9, -4.5, 0.2]], dtype=torch.float64)
    g = torch.eye(8, dtype=torch.float64)
    sigma2 = [0.0, 0.1 * 0.4, 0.25, 0.25 * 0.75, 0.5 * 1.5, 1.9 * 0.1, 0.5 * 1.5, 0.2 * 0.3]
    for i, expected in enumerate(sigma2):
        value, _ = penalty_and_gradient(w, g[i : i + 1], Quantizer("fp4_g32"), scale_grad=True)
        assert float(value) == pytest.approx(expected / 2, abs=1e-14)


def test_global_minimum_is_kept_for_a_loss_that_is_not_quadratic():
    """Smoothed over the cell corners, L never falls below its minimum over the 7^6 grid points, and equals it
    at the minimiser. The neighbours are the package's; a seventh weight pins the scale."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((6, 6)), rng.standard_normal(6)

    def loss(v):  # (..., 6)
        return np.sin(v @ a).sum(-1) + np.cos(2 * v * b).sum(-1) + 0.1 * (v**2).sum(-1)

    codes = grids.GRIDS["int3"] * 0.5
    points = np.stack(np.meshgrid(*[codes] * 6, indexing="ij"), -1).reshape(-1, 6)
    values = loss(points)
    best = values.argmin()
    corners = np.array(list(itertools.product([0, 1], repeat=6)), bool)

    def smoothed(v):
        w = np.concatenate([v, np.full((len(v), 1), 1.5)], axis=1)
        lo, hi = (
            t.numpy()[:, :6] for t in ops.neighbours(torch.from_numpy(w), Quantizer("int3_row"), axis=-1)
        )
        up = np.divide(v - lo, hi - lo, out=np.zeros_like(v), where=hi > lo)
        p = np.where(corners, up[:, None], 1 - up[:, None]).prod(-1)
        return (p * loss(np.where(corners, hi[:, None], lo[:, None]))).sum(-1)

    samples = rng.uniform(-1.5, 1.5, (4000, 6))
    near = np.clip(points[best] + rng.normal(0, 0.05, (4000, 6)), -1.5, 1.5)
    assert smoothed(samples).min() >= values[best] - 1e-12
    assert smoothed(near).min() >= values[best] - 1e-12
    assert smoothed(points[best][None])[0] == pytest.approx(values[best], abs=1e-14)
    assert loss(near).min() < values[best]  # the plain loss does fall below it, so the test can fail


def test_grid_points_have_no_penalty_and_no_gradient():
    codes = torch.tensor([[7, -3, 0, 5, 2, -7, 1, 6]], dtype=torch.float64) * 0.25
    value, gradient = penalty_and_gradient(
        codes, torch.ones_like(codes), Quantizer("int4_row"), scale_grad=True
    )
    assert float(value) == 0.0
    assert not gradient.any()


def test_block_maximum_feels_no_kink_where_its_scale_was_rounded():
    """amax/7 rounded to fp32 puts 7 s beside amax; the maximum still is a grid point and feels the scale part
    only.
    """
    w = torch.rand(64, 32, generator=torch.Generator().manual_seed(0)) + 0.1
    lo, hi = ops.neighbours(w, Quantizer("int4_row"), axis=-1)
    maximum = w == w.amax(-1, keepdim=True)
    assert (hi > lo)[maximum].any()  # the case occurs
    _, frozen = penalty_and_gradient(w, torch.ones_like(w), Quantizer("int4_row"), scale_grad=False)
    assert not frozen[maximum].any()


def test_several_maxima_share_the_scale_part():
    w = torch.tensor([[7.0, -7.0, 2.5, 3.25]], dtype=torch.float64)
    g = torch.ones_like(w)
    _, gradient = penalty_and_gradient(w, g, Quantizer("int4_row"), scale_grad=True)
    assert gradient[0, 0] == -gradient[0, 1] != 0
    expected = (5 * 2.5 - 2 * 2 * 3 + 7 * 3.25 - 2 * 3 * 4) / 2 / 7 / 2
    assert float(gradient[0, 0]) == pytest.approx(expected, abs=1e-14)


def test_zero_blocks_are_harmless():
    w = torch.zeros(2, 40)
    w[1, 33] = 0.5
    value, gradient = penalty_and_gradient(w, torch.ones_like(w), Quantizer("int4_g32"), scale_grad=True)
    assert float(value) == 0.0 and not gradient.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_weights_are_computed_in_fp32(dtype):
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    g = torch.rand(4, 64, generator=torch.Generator().manual_seed(2))
    value, gradient = penalty_and_gradient(w, g, Quantizer("int4_g32"), scale_grad=True)
    assert value.dtype == gradient.dtype == torch.float32
    exact, slope = penalty_and_gradient(w.double(), g.double(), Quantizer("int4_g32"), scale_grad=True)
    assert float(value) == pytest.approx(float(exact), rel=1e-5)
    assert torch.allclose(gradient.double(), slope, atol=2e-5)


@pytest.mark.parametrize(
    "spec", ["mxfp4:scale_rule=rceil", "nvfp4:scale_rule=rceil", "mxfp8_e4m3:scale_rule=ceil"]
)
def test_a_quantized_scale_has_the_proportional_derivative(spec):
    """The scale part is <w, dR/dw> - <w, dR/dw at frozen scale> = sum 1/2 g (hi (w-lo) - lo (hi-w)), at the
    maximum.
    """
    w = torch.randn(2, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    g = torch.rand(2, 64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    q = Quantizer(spec)
    _, through = penalty_and_gradient(w, g, q, scale_grad=True)
    _, frozen = penalty_and_gradient(w, g, q, scale_grad=False)
    lo, hi = ops.neighbours(w, q, axis=-1)
    torch.testing.assert_close(frozen, 0.5 * g * (lo + hi - 2 * w), rtol=0, atol=1e-14)
    size = int(q.block)  # type: ignore[arg-type]
    terms = (0.5 * g * (hi * (w - lo) - lo * (hi - w))).view(2, -1, size).sum(-1)
    share = ((through - frozen) * w).view(2, -1, size).sum(-1)
    torch.testing.assert_close(share, terms, rtol=1e-12, atol=1e-14)
    assert ((through != frozen).view(2, -1, size).sum(-1) == 1).all()


@pytest.mark.parametrize(("spec", "shape", "block"), CASES)
def test_the_result_does_not_depend_on_the_chunk(monkeypatch, spec, shape, block):
    quantizer, _, w, g = case(spec, shape, block, seed=11)
    value, gradient = evaluate(w, g, quantizer)
    monkeypatch.setattr("dither.methods.noise._CHUNK", 1)
    small_value, small_gradient = evaluate(w, g, quantizer)
    assert small_value == pytest.approx(value, rel=1e-14)
    np.testing.assert_array_equal(small_gradient, gradient)


def test_strided_weights_are_accepted():
    w = torch.randn(64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).T
    g = torch.rand(6, 64, dtype=torch.float64)
    _, strided = penalty_and_gradient(w, g, Quantizer("int4_g32"), scale_grad=True)
    _, contiguous = penalty_and_gradient(w.contiguous(), g, Quantizer("int4_g32"), scale_grad=True)
    assert strided.shape == w.shape and torch.equal(strided, contiguous)


def test_autograd_gives_the_analytic_gradient_scaled():
    quantizer, _, w, g = case("int4_g32", (3, 64), 32, seed=9)
    weight = torch.from_numpy(w).requires_grad_()
    (3.0 * Penalty.apply(weight, torch.from_numpy(g), quantizer, True)).backward()  # type: ignore[operator]
    _, gradient = evaluate(w, g, quantizer)
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), 3.0 * gradient, rtol=1e-15)
