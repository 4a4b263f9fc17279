"""Counterparts for modules of any class, which the user names (prepare_'s `also`): norms and outputs.

The class is mixed into the module's own, whose forward runs as it is. Attention is in attention.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither.errors import UserError
from dither.nn import history
from dither.nn.factors import DGRAD_G, FPROP_X, Operand, Operands
from dither.nn.layers import Quantized
from dither.nn.products import quantized, remembered


class QuantNormOf(Quantized):
    """A norm with a `weight`: whoever reads the attribute, above all its forward, gets the quantized values,
    as with torch's parametrizations; the parameter itself is in `parameters()`."""

    parts = (("", "norm"),)

    @property
    def weight(self) -> Tensor:
        parameter = self._parameters["weight"]
        assert parameter is not None
        return self.quantized_weight(parameter)


class _Cast(torch.autograd.Function):
    """fprop_x on the way forward, dgrad_g on the gradient, both in blocks along the last axis."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rng: Tensor | None,
        scales: Tensor | None,
        state: Tensor | None,
        operands: Operands,
    ) -> Tensor:
        ctx.save_for_backward(rng, scales)
        ctx.operands, ctx.state = operands, state
        y = quantized(x, operands.six[FPROP_X], -1, rng, FPROP_X, scales=scales)
        return y.view_as(x) if y is x else y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        rng, scales = ctx.saved_tensors
        operand = ctx.operands.six[DGRAD_G]
        if isinstance(operand, Operand) and operand.rule == "delayed":
            history.record_(g, ctx.state[DGRAD_G])
        return quantized(g, operand, -1, rng, DGRAD_G, scales=scales), None, None, None, None


class QuantOutputOf(Quantized):
    """Any module whose output is quantized: a residual block (so the sum that it returns), a softmax, an
    activation. Of a tuple or list the first entry is the output."""

    parts = (("", "output"),)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        result = super().forward(*args, **kwargs)
        if isinstance(result, Tensor):
            return self._cast(result)
        if isinstance(result, tuple | list) and result and isinstance(result[0], Tensor):
            return type(result)((self._cast(result[0]), *result[1:]))
        raise UserError(
            f"the output of {self.dither_site.owner!r} is to be quantized, but it returns a "
            f"{type(result).__name__} without a tensor in front; leave it out of also="
        )

    def _cast(self, x: Tensor) -> Tensor:
        operands, rng, state = self.part()
        scales = remembered(x, operands, FPROP_X, state)
        return _Cast.apply(x, None if rng is None else rng.clone(), scales, state, operands)
