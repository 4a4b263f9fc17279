"""Convolutions as the matrix product they are: a row for every output position, a column for every channel.

    y_MO = x_MK w_OK^T    M = batch x positions, K = (input channels / groups) x taps, channels outermost

x_MK holds the input values under the kernel at each position ("im2col"), w_OK the weight flattened as it
lies in memory. Blocks run along K in the forward, along O in dgrad and along M in wgrad, exactly as for a
linear of these operands, so that whatever a recipe does to operands (rotations that cancel, promotion) holds
here too.
Quantizing the input once along its channels instead, as implicit-GEMM kernels do, would be cheaper and gives
other blocks unless the channels fill whole ones; its wgrad has no blocks along M for kernels beyond 1x1. The
price is x_MK, which is as many times the input as there are taps, divided by the strides; it lies in memory
for one layer at a time (patches.py). Where nothing but the weight is quantized, torch convolves.

With groups there is one such product a group. A transposed convolution multiplies first, x_MC w_CK with K =
(output channels / groups) x taps, and then adds the values that fall on the same position.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from dither.nn.convolved import How, convolved, weight_rows
from dither.nn.layers import Quantized
from dither.nn.patches import Patches, folded
from dither.nn.products import linear, product


class _Convolution(Quantized):
    """The product of one or several groups."""

    parts = (("", "conv"),)
    weight: Tensor
    bias: Tensor | None
    groups: int

    def _multiplied(self, x: Tensor, patches: Patches, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The rows of x (B, C, *sizes) times those of the weight, (B, L, N)."""
        if self.groups == 1:
            return linear(x, weight, bias, *self.part(), patches)
        y = product(x, weight, True, *self.part(), patches)
        length = prod(patches.positions(x.shape[2:]))
        y = y.unflatten(1, (x.shape[0], length)).permute(1, 2, 0, 3).flatten(2)
        return y if bias is None else y + bias.to(y.dtype)

    def _convolved(self, x: Tensor, how: How) -> Tensor:
        return convolved(x, self.weight, self.bias, *self.part(), how)


def _batched(layer: Any, run: Any, x: Tensor) -> Tensor:
    """`run` on (B, C, *sizes) for x with or without the batch axis."""
    if x.dim() == layer.weight.dim() - 1:
        return run(x.unsqueeze(0)).squeeze(0)
    return run(x)


class _Forward(_Convolution):
    def forward(self: Any, input: Tensor) -> Tensor:
        return _batched(self, self._run, input)

    def _run(self: Any, x: Tensor) -> Tensor:
        padding = tuple(self._reversed_padding_repeated_twice)
        alone = self.dither_operands[0].weight_alone
        if self.padding_mode != "zeros" or (alone and padding[::2] != padding[1::2]):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, padding = F.pad(x, padding, mode=mode), (0,) * len(padding)
        if alone:
            how = How(self.stride, padding[::-2], self.dilation, False, (0,) * len(self.stride), self.groups)
            return self._convolved(x, how)
        patches = Patches(self.kernel_size, self.stride, self.dilation, padding, self.groups)
        y = self._multiplied(x, patches, weight_rows(self.weight, self.groups, False), self.bias)
        return y.transpose(1, 2).unflatten(2, patches.positions(x.shape[2:])).contiguous()


class _Transposed(_Convolution):
    def forward(self: Any, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        n = len(self.kernel_size)
        extra = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, n, self.dilation
        )
        return _batched(self, lambda x: self._run(x, extra), input)

    def _run(self: Any, x: Tensor, extra: list[int]) -> Tensor:
        if self.dither_operands[0].weight_alone:
            how = How(self.stride, self.padding, self.dilation, True, tuple(extra), self.groups)
            return self._convolved(x, how)
        positions = x.shape[2:]
        ones = (1,) * len(positions)
        patches = Patches(ones, ones, ones, (0, 0) * len(positions), self.groups)
        y = self._multiplied(x, patches, weight_rows(self.weight, self.groups, True), None)
        cols = y.transpose(1, 2).unflatten(2, positions)
        cols = cols.unflatten(1, (-1, *self.kernel_size))  # (B, O, *taps, *positions)
        n = len(self.kernel_size)
        cols = cols.permute(0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n))
        cut = [side for p, e in zip(self.padding, extra, strict=True) for side in (e - p, -p)]
        y = F.pad(folded(cols, self.stride, self.dilation), cut[::-1])
        return y if self.bias is None else y + self.bias.view(-1, *[1] * n).to(y.dtype)


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
