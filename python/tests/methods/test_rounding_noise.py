"""The noise LOTION reasons about is the noise of the package's stochastic rounding."""

from __future__ import annotations

import grids
import numpy as np
import pytest
import torch

from dither.nn import ops
from dither.quantizer import Quantizer

torch.set_num_threads(1)

DRAWS = 200_000


@pytest.mark.parametrize("spec", ["int4_row", "fp4_g32"])
def test_randomized_rounding_is_unbiased_with_the_stated_variance(spec):
    """200 000 draws of 15 weights: mean error below 3.5 sigma/sqrt(N), variance within 1.5 %.

    Power: a bias of 1 % of sigma lies at 4.5 standard errors; 8 random bits (bias up to 2^-9 of a cell) would
    not be told apart everywhere, 16 bits (2^-17) are beyond this test."""
    grid = grids.grid_of(spec)
    w = np.broadcast_to(grids.weights((16,), grid, "row", 2), (DRAWS, 16))
    q = Quantizer(spec, rounding="stochastic", bits=16)
    drawn = ops.fake_quant(torch.from_numpy(w.copy()), q, axis=-1, seed=1, stream=2).numpy()
    lo, hi = grids.neighbours(w[0], grid, "row")
    assert ((drawn == lo) | (drawn == hi)).all()
    variance = (w[0] - lo) * (hi - w[0])
    free = variance > 0
    assert free.sum() == 15
    error = np.abs(drawn.mean(0) - w[0])
    assert (error[free] < 3.5 * np.sqrt(variance[free] / DRAWS)).all()
    assert (error[~free] == 0).all()
    np.testing.assert_allclose(((drawn - w[0]) ** 2).mean(0)[free], variance[free], rtol=0.015)


@pytest.mark.parametrize("spec", ["int4_row", "fp4_g32", "int8_row"])
def test_grid_points_return_themselves_in_every_draw(spec):
    grid = grids.grid_of(spec)[::3] if spec == "int8_row" else grids.grid_of(spec)
    points = np.append(grid, grids.grid_of(spec).max()) * 0.25
    w = torch.from_numpy(np.broadcast_to(points, (5000, len(points))).copy())
    q = Quantizer(spec, block="row", rounding="stochastic", bits=16)
    assert torch.equal(ops.fake_quant(w, q, axis=-1, seed=3), w)
