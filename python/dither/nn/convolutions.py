"""Convolutions as the matrix product they are: a row for every output position, a column for every channel.

    y_MO = x_MK w_OK^T    M = batch x positions, K = (input channels / groups) x taps, channels outermost

x_MK holds the input values under the kernel at each position ("im2col"), w_OK the weight flattened as it
lies in memory. Blocks run along K in the forward, along O in dgrad and along M in wgrad, exactly as for a
linear of these operands, so that whatever a recipe does to operands (rotations that cancel, promotion) holds
here too.
Quantizing the input once along its channels instead, as implicit-GEMM kernels do, would be cheaper and gives
other blocks unless the channels fill whole ones; its wgrad has no blocks along M for kernels beyond 1x1. The
price is memory: x_MK is as many times the input as there are taps, divided by the strides.

With groups there is one such product a group. A transposed convolution multiplies first, x_MC w_CK with K =
(output channels / groups) x taps, and then adds the values that fall on the same position.
"""

from __future__ import annotations

from itertools import product as every
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dither.nn.layers import Quantized
from dither.nn.products import linear, product


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


class _Convolution(Quantized):
    """The product of one or several groups."""

    parts = (("", "conv"),)
    weight: Tensor
    bias: Tensor | None
    groups: int

    def _multiplied(self, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(B, L, K) times (N, K / groups), (B, L, N)."""
        if self.groups == 1:
            return linear(rows, weight, bias, *self.part())
        batch, length = rows.shape[:2]
        a = rows.unflatten(-1, (self.groups, -1)).permute(2, 0, 1, 3).flatten(1, 2)
        y = product(a, weight.unflatten(0, (self.groups, -1)), True, *self.part())
        y = y.unflatten(1, (batch, length)).permute(1, 2, 0, 3).flatten(2)
        return y if bias is None else y + bias


def _batched(layer: Any, run: Any, x: Tensor) -> Tensor:
    """`run` on (B, C, *sizes) for x with or without the batch axis."""
    if x.dim() == layer.weight.dim() - 1:
        return run(x.unsqueeze(0)).squeeze(0)
    return run(x)


class _Forward(_Convolution):
    def forward(self: Any, input: Tensor) -> Tensor:
        return _batched(self, self._run, input)

    def _run(self: Any, x: Tensor) -> Tensor:
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        n = len(self.kernel_size)
        cols = unfolded(x, self.kernel_size, self.stride, self.dilation)
        positions = cols.shape[2 : 2 + n]
        order = (0, *range(2, 2 + n), 1, *range(2 + n, 2 + 2 * n))
        rows = cols.permute(order).flatten(1 + n).flatten(1, n)
        y = self._multiplied(rows, self.weight.flatten(1), self.bias)
        return y.transpose(1, 2).unflatten(2, positions).contiguous()


class _Transposed(_Convolution):
    def forward(self: Any, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        n = len(self.kernel_size)
        extra = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, n, self.dilation
        )
        return _batched(self, lambda x: self._run(x, extra), input)

    def _run(self: Any, x: Tensor, extra: list[int]) -> Tensor:
        positions = x.shape[2:]
        weight = self.weight.unflatten(0, (self.groups, -1)).flatten(2)  # (G, C / G, O / G x taps)
        y = self._multiplied(x.flatten(2).transpose(1, 2), weight.transpose(1, 2).flatten(0, 1), None)
        cols = y.transpose(1, 2).unflatten(2, positions)
        cols = cols.unflatten(1, (-1, *self.kernel_size))  # (B, O, *taps, *positions)
        n = len(self.kernel_size)
        cols = cols.permute(0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n))
        cut = [side for p, e in zip(self.padding, extra, strict=True) for side in (e - p, -p)]
        y = F.pad(folded(cols, self.stride, self.dilation), cut[::-1])
        return y if self.bias is None else y + self.bias.view(-1, *[1] * n)


class QuantConv1d(_Forward, nn.Conv1d):
    pass


class QuantConv2d(_Forward, nn.Conv2d):
    pass


class QuantConv3d(_Forward, nn.Conv3d):
    pass


class QuantConvTranspose1d(_Transposed, nn.ConvTranspose1d):
    pass


class QuantConvTranspose2d(_Transposed, nn.ConvTranspose2d):
    pass


class QuantConvTranspose3d(_Transposed, nn.ConvTranspose3d):
    pass
