"""Counterparts for modules of any class, which the user names (prepare_'s `also`): norms, outputs, sums.

The class is mixed into the module's own, whose forward runs as it is. Attention is in attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dither.errors import UserError
from dither.nn import history
from dither.nn.differentiable import Function, apply_to
from dither.nn.factors import quantized
from dither.nn.layers import Quantized
from dither.nn.ready import DGRAD_G, FPROP_X, Operands


class QuantNormOf(Quantized):
    """A norm with a `weight`: whoever reads the attribute, above all its forward, gets the quantized values,
    as with torch's parametrizations; the parameter itself is in `parameters()`."""

    parts = (("", "norm"),)

    @property
    def weight(self) -> Tensor:
        parameter = self._parameters["weight"]
        assert parameter is not None
        return self.quantized_weight(parameter)


class _Cast(Function):
    """fprop_x on the way forward, dgrad_g on the gradient, both in blocks along the last axis."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _Cast.keep(ctx, inputs, None)
        return _Cast.compute(*inputs)

    @staticmethod
    def compute(
        x: Tensor,
        rng: Tensor | None,
        scales: Tensor | None,
        state: Tensor | None,
        operands: Operands,
    ) -> Tensor:
        y = quantized(x, operands.six[FPROP_X], -1, rng, FPROP_X, scales=scales)
        return y.view_as(x) if y is x else y

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, rng, scales, ctx.state, ctx.operands = inputs
        ctx.save_for_backward(rng, scales)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        rng, scales = ctx.saved_tensors
        history.record(g, ctx.operands, (DGRAD_G,), ctx.state)
        return (
            quantized(g, ctx.operands.six[DGRAD_G], -1, rng, DGRAD_G, scales=scales),
            None,
            None,
            None,
            None,
        )


class _Casting(Quantized):
    """What quantizes values on their way."""

    def _cast(self, x: Tensor) -> Tensor:
        operands, rng, state = self.part()
        scales = history.remembered(x, operands, FPROP_X, state)
        return apply_to(_Cast, x, None if rng is None else rng.clone(), scales, state, operands)


class QuantOutputOf(_Casting):
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


class _ResidualSums(TorchFunctionMode):
    """While it is entered, sums of the residual stream are cast: one of their terms is a tensor of
    `stream`, that very object, and the other none of `apart`. They join it. A sum that is made in place is
    cast in place, for whoever else holds the tensor."""

    def __init__(self, stream: list[Tensor], apart: list[Tensor], cast: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stream, self.apart, self.cast = stream, apart, cast

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in _ADDITIONS:
            return result
        terms = [*args, *(kwargs[name] for name in ("input", "other") if name in kwargs)][:2]
        if len(terms) < 2 or not self._is_residual(*terms):
            return result
        cast = self.cast(result)
        if result is terms[0] or result is kwargs.get("out"):
            result.copy_(cast)
        else:
            result = cast
        self.stream.append(result)
        return result

    def _is_residual(self, a: Any, b: Any) -> bool:
        if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape):
            return False
        return any(x is a or x is b for x in self.stream) and not any(x is a or x is b for x in self.apart)


_ADDITIONS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)


class QuantResidualOf(_Casting):
    """A block of any class: the sums of the residual stream in its forward, x + f(x), in the middle as at the
    end. The stream is the first tensor that the block is given; what is added to another of its arguments
    (a position, a mask) is no such sum. They all draw the same random bits."""

    parts = (("", "residual"),)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        stream = given[:1]
        with _ResidualSums(stream, [x for x in given[1:] if x is not given[0]], self._cast):
            result = super().forward(*args, **kwargs)
        if len(stream) < 2:
            raise UserError(
                f"{self.dither_site.owner!r} was taken as residual, but its forward adds nothing of its own "
                "to the first tensor that it is given; leave it out of also="
            )
        return result
