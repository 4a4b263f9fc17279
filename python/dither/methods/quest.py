"""QuEST (arXiv 2502.05003): a grid fitted to the spread of the values, and gradients only where it can be
trusted.

    step = 2 c(b) rms / (2^b - 1),   x^ = (floor(clip(x) / step) + 1/2) step,   |clip(x)| <= c(b) rms
    gradient passes where |x^ - x| <= step / 2: the trust mask

rms is the root mean square of a block, c(b) the clip of least squared error for a normal distribution. The
grid has 2^b points and none at zero. With `hadamard`, blocks of that many inputs are rotated first, which
makes the values normal; mask and rounding then act on the rotated values, and the gradient is rotated back.
Where inputs are quantized too, both factors of the product stay rotated (the rotation is orthogonal); where
weights are quantized alone they are rotated back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.base import refuse_rounding
from dither.methods.blocks import check_along_inputs, join, split
from dither.methods.casting import ROUNDINGS
from dither.methods.forward import Forward
from dither.methods.targets import Target
from dither.nn import ops
from dither.nn.differentiable import refuse_transforms
from dither.nn.packed import PackedTensor
from dither.quantizer import Quantizer

CLIP = {2: 1.4935, 3: 2.0511, 4: 2.5139, 5: 2.9161, 6: 3.2766, 8: 3.8849}
"""c(b) by bits, as in the authors' code. (At 8 bits the true optimum is 3.922.)"""


class Quest(Forward):
    """`quantizer` (and `activations`): an integer format for the bits, and blocks; its own scales are not
    used. The paper's is 'int4_row'. `hadamard`: the block of the rotation, a power of two that divides the
    inputs, or 0.
    """

    name = "quest"
    own_grid = True
    can_draw = False
    rounds_itself = True

    def __init__(
        self, model: nn.Module, quantizer: Quantizer | str, *, hadamard: int = 0, **options: Any
    ) -> None:
        self.hadamard = hadamard
        super().__init__(model, quantizer, **options)

    def check(self) -> None:
        super().check()
        hadamard = self.hadamard
        for q in filter(None, (self.quantizer, self.activations)):
            _bits(q)
            check_along_inputs(q)
            refuse_rounding("QuEST", q)
        for target in self.found if hadamard else ():
            inputs = target.rows(target.weight).shape[-1]
            if target.kind == "conv" or hadamard & (hadamard - 1) or inputs % hadamard:
                raise UserError(
                    f"{target.name} with {inputs} inputs cannot be rotated in blocks of {hadamard}; use a "
                    "power of two that divides them, and exempt convolutions"
                )

    def weight(self, target: Target, w: Tensor) -> Tensor:
        rows = self._rotated(target.rows(w))
        rows = fitted(rows, self.quantizer)
        if self.activations is None:
            rows = self._rotated(rows, inverse=True)
        return target.like(rows)

    def activation(self, target: Target, x: Tensor) -> Tensor:
        assert self.activations is not None
        return fitted(self._rotated(x), self.activations)

    def deploy(self, target: Target, weight: Tensor, rounding: str, seed: int | None) -> Tensor:
        if rounding != ROUNDINGS[0]:
            raise UserError("the grid of QuEST is defined for rounding to nearest alone")
        with torch.no_grad():
            rows = fitted(self._rotated(target.rows(weight)), self.quantizer)
            return target.like(self._rotated(rows, inverse=True))

    def packed(self, target: Target) -> PackedTensor:
        raise UserError(
            "no format holds the grid of QuEST, which has no zero: evaluate with method.deployed(), or train "
            "with Lsq or Qat to pack"
        )

    def _rotated(self, x: Tensor, inverse: bool = False) -> Tensor:
        return ops.hadamard(x, self.hadamard, None, inverse=inverse) if self.hadamard else x


def _bits(quantizer: Quantizer) -> int:
    name = quantizer.format.name
    bits = int(name[3:]) if name.startswith("int") and name[3:].isdecimal() else 0
    if bits not in CLIP:
        known = ", ".join(f"int{b}" for b in CLIP)
        raise UserError(f"QuEST knows the formats {known}, not {name}; use for example 'int4_row'")
    return bits


def fitted(x: Tensor, quantizer: Quantizer) -> Tensor:
    """`x` [..., n] on QuEST's grid for blocks along the last axis, with the gradient of its trust mask."""
    refuse_transforms("QuEST's trust mask is a gradient of its own")
    return _Fitted.apply(x, quantizer, _bits(quantizer))  # type: ignore[return-value]


class _Fitted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantizer: Quantizer, bits: int) -> Tensor:  # type: ignore[override]
        blocks = split(x, quantizer)
        counts = split(torch.ones_like(x), quantizer).sum(-1, keepdim=True)
        limit = CLIP[bits] * (blocks.square().sum(-1, keepdim=True) / counts).sqrt()
        step = 2.0 * limit / (2**bits - 1)
        inside = blocks.clamp(-limit, limit)
        points = torch.where(step > 0, (torch.floor(inside / step) + 0.5) * step, 0.0)
        ctx.save_for_backward(join((points - blocks).abs() <= 0.5 * step * (1 + 1e-6), x))
        return join(points, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (trusted,) = ctx.saved_tensors
        return torch.where(trusted, g, 0.0), None, None
