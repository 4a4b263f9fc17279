"""A tensor as rows of blocks, for arithmetic that reduces over the elements of a block."""

from __future__ import annotations

import torch
from torch import Tensor

from dither.scaling import Block


class Blocks:
    """Views a tensor as (before, block, element, after) with zero padding at the ends, and back."""

    def __init__(self, shape: torch.Size, block: Block, axis: int) -> None:
        self.shape, self.block = shape, block
        if block == "tensor":
            self.before, self.length, self.after = 1, shape.numel(), 1
        else:
            axis %= max(len(shape), 1)
            self.before, self.after = shape[:axis].numel(), shape[axis + 1 :].numel()
            self.length = shape[axis] if shape else 1
        if isinstance(block, tuple):
            self.before = shape[:-2].numel()
            self.rows, self.columns = (1, 1, *shape)[-2:]
            self.below, self.right = -self.rows % block[0], -self.columns % block[1]
        self.size = block if isinstance(block, int) else max(self.length, 1)
        self.padding = -self.length % self.size

    def split(self, x: Tensor) -> Tensor:
        if self.block is None:
            return x
        if isinstance(self.block, tuple):
            rows, columns = self.block
            x = x.reshape(self.before, self.rows, self.columns)
            x = torch.nn.functional.pad(x, (0, self.right, 0, self.below))
            tiles = x.view(self.before, -1, rows, (self.columns + self.right) // columns, columns)
            return tiles.transpose(2, 3).reshape(self.before, -1, rows * columns, 1)
        x = x.reshape(self.before, self.length, self.after)
        if self.block == "column":
            return x.transpose(0, 1).reshape(1, self.length, -1, 1)
        if self.padding:
            x = torch.nn.functional.pad(x, (0, 0, 0, self.padding))
        return x.view(self.before, -1, self.size, self.after)

    def join(self, y: Tensor) -> Tensor:
        if self.block is None:
            return y.contiguous()
        if isinstance(self.block, tuple):
            rows, columns = self.block
            y = y.view(self.before, -1, (self.columns + self.right) // columns, rows, columns).transpose(2, 3)
            y = y.reshape(self.before, self.rows + self.below, self.columns + self.right)
            return y[:, : self.rows, : self.columns].reshape(self.shape).contiguous()
        if self.block == "column":
            y = y.view(self.length, self.before, self.after).transpose(0, 1)
            return y.reshape(self.shape).contiguous()
        y = y.reshape(self.before, self.length + self.padding, self.after)
        return y[:, : self.length].reshape(self.shape).contiguous()
