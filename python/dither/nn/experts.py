"""Products of several matrices at once: the linears of experts, and a plain product as a module."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dither.errors import UserError
from dither.nn.layers import Quantized
from dither.nn.products import linear, product
from dither.nn.ready import Operand, Operands
from dither.nn.streams import OPERANDS


class GroupedLinear(nn.Module):
    """E linears of the same shape, their weights stacked: y = x W_e^T + b_e.

    Args of `forward`:
        x: (E, M, K), M rows for each expert; or (M, K), rows sorted by expert.
        ends: int64 or int32 (E,), where the rows of each expert end (as torch's grouped_mm takes them); for
            the second form.

    Returns (E, M, N) or (M, N). Prepared, blocks of wgrad run over the rows of one expert and end with them,
    as in a grouped product whose groups are padded. The second form reads `ends` on the host.
    """

    def __init__(
        self,
        experts: int,
        in_features: int,
        out_features: int,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.experts, self.in_features, self.out_features = experts, in_features, out_features
        shape = (experts, out_features, in_features)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(shape[:2], device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As nn.Linear: uniform within 1 / sqrt(K)."""
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, ends: Tensor | None = None) -> Tensor:
        if ends is None:
            y = x @ self.weight.transpose(1, 2)
            return y if self.bias is None else y + self.bias[:, None]
        parts = [F.linear(rows, *self.expert(e)) for e, rows in enumerate(self.rows(x, ends))]
        return torch.cat(parts)

    def expert(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of one expert."""
        return self.weight[number], None if self.bias is None else self.bias[number]

    def rows(self, x: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
        """The rows of each expert. UserError where `ends` do not cover them in order."""
        bounds = [0, *ends.tolist()]
        sizes = [b - a for a, b in pairwise(bounds)]
        if len(sizes) != self.experts or min(sizes) < 0 or bounds[-1] != len(x):
            raise UserError(
                f"ends must rise to the {len(x)} rows of x in {self.experts} steps, not {bounds[1:]}"
            )
        return x.split(sizes)

    def extra_repr(self) -> str:
        return f"{self.experts}, {self.in_features}, {self.out_features}, bias={self.bias is not None}"


class QuantGroupedLinear(Quantized, GroupedLinear):
    parts = (("", "grouped"),)

    def forward(self, x: Tensor, ends: Tensor | None = None) -> Tensor:
        operands, rng, state = self.part()
        if ends is None:
            y = product(x, self.weight, True, operands, rng, state)
            return y if self.bias is None else y + self.bias[:, None]
        parts, first = [], 0
        for e, rows in enumerate(self.rows(x, ends)):
            placed = self._placed(operands, e, first, len(x))
            parts.append(linear(rows, *self.expert(e), placed, rng, state))
            first += len(rows)
        return torch.cat(parts)

    def _placed(self, operands: Operands, expert: int, first: int, total: int) -> Operands:
        """The operands of one expert, their elements counted in the tensors of all (row `first` of
        `total`)."""
        six = []
        for name, operand in zip(OPERANDS, operands.six, strict=True):
            if isinstance(operand, Operand):
                width = self.out_features if name.endswith("g") else self.in_features
                weight = name.endswith("w")
                rows = expert * self.out_features if weight else operand.share * total + first
                operand = operand._replace(share=0, start=rows * width)
            six.append(operand)
        return operands._replace(six=tuple(six))


class MatrixProduct(nn.Module):
    """a b over the last two axes, (..., M, K) and (..., K, N) with the same leading ones: a module, so that a
    recipe can quantize a product that has no weight. b takes the weight's operands."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class QuantMatrixProduct(Quantized, MatrixProduct):
    parts = (("", "product"),)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return product(a, b, False, *self.part())
