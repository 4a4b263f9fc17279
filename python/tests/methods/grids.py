"""An independent quantizer for the tests of the methods: numpy, fp64, from the definitions alone.

Blocks run along the last axis; the scale is amax/max, rounded to fp32 as the package documents. **Why the
tests that ask for 1e-12 can**: the scale of an integer or fp4_g32 block is an fp32 number even for fp64
weights, so in general it jumps in steps of 2^-24 and a finite difference through it is meaningless. `weights`
therefore makes the largest weight of every block max * 2^k: its scale 2^k is exact, and so is the scale after
the largest weight moves by 2^-12 of itself. Inside a cell the penalty is a quadratic in every weight and in
the scale, so central differences of any step that stays inside the cell have no truncation error.
"""

from __future__ import annotations

import numpy as np

GRIDS = {
    "int8": np.arange(-127, 128) * 1.0,
    "int4": np.arange(-7, 8) * 1.0,
    "int3": np.arange(-3, 4) * 1.0,
    "fp4": np.array([-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]),
}


def grid_of(name: str) -> np.ndarray:
    """The element values of a quantizer's preset name."""
    return GRIDS[name.split("_")[0]]


def blocks(shape, block):
    """The index of every block of an array of that shape; block is an int, "row" or "tensor"."""
    if block == "tensor":
        yield (Ellipsis,)
        return
    size = shape[-1] if block == "row" else block
    for outer in np.ndindex(*shape[:-1]):
        for start in range(0, shape[-1], size):
            yield (*outer, slice(start, start + size))


def neighbours(w, grid, block):
    """(lo, hi): the grid points around each weight, equal where the weight lies on the grid."""
    lo, hi = np.zeros_like(w), np.zeros_like(w)
    for index in blocks(w.shape, block):
        points = grid * float(np.float32(np.abs(w[index]).max() / grid.max()))
        below = np.searchsorted(points, w[index], side="right") - 1
        above = np.searchsorted(points, w[index], side="left")
        lo[index] = points[np.clip(below, 0, len(grid) - 1)]
        hi[index] = points[np.clip(above, 0, len(grid) - 1)]
    return lo, hi


def penalty(w, g, grid, block):
    """1/2 sum g (w - lo)(hi - w)."""
    lo, hi = neighbours(w, grid, block)
    return 0.5 * float((g * (w - lo) * (hi - w)).sum())


def nearest(w, grid, block):
    lo, hi = neighbours(w, grid, block)
    return np.where(w - lo <= hi - w, lo, hi)


def weights(shape, grid, block, seed):
    """Weights at random places inside their cells, at least a tenth of a cell from either end; block maxima
    max 2^k.
    """
    rng = np.random.default_rng(seed)
    w = np.zeros(shape)
    for number, index in enumerate(blocks(shape, block)):
        size = w[index].size
        cell = rng.integers(0, len(grid) - 1, size)
        place = rng.uniform(0.1, 0.9, size)
        z = grid[cell] * (1 - place) + grid[cell + 1] * place
        z[rng.integers(size)] = grid.max() * rng.choice([-1, 1])
        w[index] = (z * 2.0 ** (-3 - number % 3)).reshape(w[index].shape)
    return w
