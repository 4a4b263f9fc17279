"""A convolution's input as the left factor of a product: the values under the kernel at every position.

    rows    x (B, C, *sizes) -> (B, L, K), L positions, K = C x taps; with groups (G, B L, K / G)
    back    its transpose, which a gradient takes

Rows are as many times x as there are taps, divided by the strides. So a product keeps x for its backward, as
torch does, and makes the rows again.
"""

from __future__ import annotations

from itertools import product as every
from math import prod
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Patches(NamedTuple):
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    """With zeros, as F.pad takes it: both sides of the last axis first."""
    groups: int

    def rows(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`out`: memory of the shape of the result for it."""
        padded = F.pad(x, self.padding) if any(self.padding) else x
        cols = unfolded(padded, self.kernel, self.stride, self.dilation)
        n = len(self.kernel)
        cols = cols.unflatten(1, (self.groups, -1))  # (B, G, C / G, *positions, *taps)
        cols = cols.permute(1, 0, *range(3, 3 + n), 2, *range(3 + n, 3 + 2 * n))
        shape = self.shape(x)
        return cols.reshape(shape) if out is None else out.view(cols.shape).copy_(cols).view(shape)

    def shape(self, x: Tensor) -> tuple[int, int, int]:
        """Of the rows."""
        batch, channels, length = x.shape[0], x.shape[1], prod(self.positions(x.shape[2:]))
        size = channels // self.groups * prod(self.kernel)
        return (batch, length, size) if self.groups == 1 else (self.groups, batch * length, size)

    def back(self, d: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`d` of the shape of the rows -> the shape of x, values of one place added."""
        n, positions = len(self.kernel), self.positions(shape[2:])
        cols = d.reshape(self.groups, shape[0], *positions, shape[1] // self.groups, *self.kernel)
        cols = cols.permute(1, 0, 2 + n, *range(2, 2 + n), *range(3 + n, 3 + 2 * n)).flatten(1, 2)
        y = folded(cols, self.stride, self.dilation)
        before = self.padding[::2][::-1]
        cut = [
            side
            for size, got, left in zip(shape[2:], y.shape[2:], before, strict=True)
            for side in (size - got + left, -left)
        ]
        return F.pad(y, cut[::-1])

    def positions(self, sizes: tuple[int, ...]) -> list[int]:
        """How often the kernel fits along each axis."""
        both = [a + b for a, b in zip(self.padding[::2], self.padding[1::2], strict=True)][::-1]
        return [
            (size + pad - (k - 1) * d - 1) // s + 1
            for size, pad, k, d, s in zip(sizes, both, self.kernel, self.dilation, self.stride, strict=True)
        ]


def unfolded(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Tensor:
    """The values under the kernel: (B, C, *positions, *taps), a view of x (B, C, *sizes)."""
    for axis, (taps, step, apart) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, (taps - 1) * apart + 1, step)[..., ::apart]
    return x


def folded(cols: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """The transpose of `unfolded`: values (B, C, *positions, *taps) added where they fall, (B, C, *sizes)."""
    n = len(stride)
    positions, kernel = cols.shape[2 : 2 + n], cols.shape[2 + n :]
    sizes = [
        (p - 1) * s + (k - 1) * d + 1 for p, s, k, d in zip(positions, stride, kernel, dilation, strict=True)
    ]
    out = cols.new_zeros(*cols.shape[:2], *sizes)
    for tap in every(*map(range, kernel)):
        where = tuple(
            slice(t * d, t * d + (p - 1) * s + 1, s)
            for t, d, p, s in zip(tap, dilation, positions, stride, strict=True)
        )
        out[(..., *where)] += cols[(..., *tap)]
    return out
