"""LSQ (arXiv 1902.08153): the step sizes are learned with the weights.

    v = s Q(clip(w / s))
    dv/dw = 1 inside the grid's range, 0 outside                                             (Eq. 5)
    dv/ds = Q(w/s) - w/s inside, the end of the grid outside                                 (Eq. 3)

with one step s for every block of the quantizer, and Q rounding to the element format (the paper's integers,
or any other). The gradient of s is scaled by 1/sqrt(n q), n the weights that share it and q the largest
number of the format (section 2.2); s starts at 2 mean|w| / sqrt(q) (section 2.1). Inputs, if quantized, have
one step each, which starts from their first batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.base import of_state, refuse_rounding, stored
from dither.methods.blocks import check_along_inputs, join, split
from dither.methods.casting import cast_weight
from dither.methods.forward import Forward
from dither.methods.grid import Grid
from dither.methods.targets import Target
from dither.nn import ops
from dither.nn.differentiable import refuse_transforms
from dither.nn.packed import PackedTensor, quantize
from dither.quantizer import Quantizer

_SMALLEST = 1e-8  # a step must not become zero or negative


class Lsq(Forward):
    """Learned step sizes. They are `parameters()` of the method: give them to the optimizer,

        optimizer.add_param_group({"params": list(method.parameters()), "weight_decay": 0.0})

    (under DDP average their gradients as well: they are no parameters of the model). UserError for a
    quantizer whose scales are not fp32 along the inputs, and for `activations` with other scales than one
    fp32 for the tensor.
    """

    name = "lsq"
    own_grid = True
    rounds_itself = True

    def __init__(self, model: nn.Module, quantizer: Quantizer | str, **options: Any) -> None:
        self.steps: dict[str, nn.Parameter] = {}
        self.input_steps: dict[str, nn.Parameter] = {}
        self._seen_input: set[str] = set()
        super().__init__(model, quantizer, **options)
        # made here because torch.compile cannot trace how a quantizer is made
        self._points, a = Quantizer(format=self.quantizer.format), self.activations
        self._input_points = None if a is None else Quantizer(format=a.format)
        with torch.no_grad():
            for target in self.found:
                blocks = split(target.rows(target.weight), self.quantizer)
                steps = 2.0 * _mean_magnitude(blocks, target, self.quantizer) / _root(self.quantizer)
                self.steps[target.name] = nn.Parameter(steps.clamp_(min=_SMALLEST))
                if a is not None:
                    self.input_steps[target.name] = nn.Parameter(torch.ones_like(target.weight.view(-1)[0]))

    def check(self) -> None:
        super().check()
        if self.quantizer.scale_format != "fp32" or self.quantizer.zero_point:
            raise UserError(
                f"LSQ learns fp32 scales, and {self.quantizer} has none: use for example 'int4_row'"
            )
        check_along_inputs(self.quantizer)
        a = self.activations
        if a is None:
            return
        if (a.scale_format, a.block) != ("fp32", "tensor"):
            raise UserError(f"LSQ learns one fp32 step for an input: use for example 'int8_tensor', not {a}")
        refuse_rounding("LSQ", a)

    def parameters(self) -> Iterator[nn.Parameter]:
        yield from self.steps.values()
        yield from self.input_steps.values()

    def weight(self, target: Target, w: Tensor) -> Tensor:
        refuse_transforms(_OWN)
        rows, step = target.rows(w), self.steps[target.name]
        blocks = split(rows, self.quantizer)
        factor = 1.0 / math.sqrt(blocks.shape[-1] * self.quantizer.format.max)
        rounded: Tensor = Rounded.apply(blocks, step.unsqueeze(-1), self._points, factor)  # type: ignore[assignment]
        return target.like(join(rounded, rows))

    def activation(self, target: Target, x: Tensor) -> Tensor:
        refuse_transforms(_OWN)
        assert self.activations is not None
        step = self.input_steps[target.name]
        if target.name not in self._seen_input:
            with torch.no_grad():
                step.fill_(float(2.0 * x.abs().mean()) / _root(self.activations)).clamp_(min=_SMALLEST)
            self._seen_input.add(target.name)
        factor = 1.0 / math.sqrt(x.shape[-1] * self.activations.format.max)
        return Rounded.apply(x, step, self._input_points, factor)  # type: ignore[return-value]

    @torch.no_grad()
    def after_step_(self, step: int, lr: float) -> None:
        for parameter in self.parameters():
            parameter.clamp_(min=_SMALLEST)

    def grid(self, target: Target) -> Grid:
        """The grid of the learned steps."""
        rows = target.rows(target.weight.detach()).float()
        packed = quantize(rows, self.quantizer.replace(rounding="nearest_even"), -1)
        packed.parts["scales"] = self.steps[target.name].detach().float().view(packed.parts["scales"].shape)
        return Grid(rows, self.quantizer, packed)

    def deploy(self, target: Target, weight: Tensor, rounding: str, seed: int | None) -> Tensor:
        return cast_weight(target, weight, self.grid(target), rounding, seed)

    def packed(self, target: Target) -> PackedTensor:
        rows = target.rows(target.weight.detach()).float()
        return stored(target, self.grid(target).store(rows))

    def state_dict(self) -> dict[str, Any]:
        steps = {f"step.{name}": step.detach().clone() for name, step in self.steps.items()}
        inputs = {f"input_step.{name}": self.input_steps[name].detach().clone() for name in self._seen_input}
        return super().state_dict() | steps | inputs

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name, step in self.steps.items():
            step.copy_(of_state(state, f"step.{name}"))
        self._seen_input = {name for name in self.input_steps if f"input_step.{name}" in state}
        for name in self._seen_input:
            self.input_steps[name].copy_(state[f"input_step.{name}"])


def _root(quantizer: Quantizer) -> float:
    return math.sqrt(quantizer.format.max)


def _mean_magnitude(blocks: Tensor, target: Target, quantizer: Quantizer) -> Tensor:
    """mean|w| of every block, the filling of a ragged one left out."""
    counts = split(torch.ones_like(target.rows(target.weight)), quantizer).sum(-1)
    return blocks.abs().sum(-1) / counts


_OWN = "a learned step has a gradient of its own"


class Rounded(torch.autograd.Function):
    """s Q(clip(x / s)) with the gradients of the module's docstring; `s` broadcasts against `x`, and `points`
    is the plain cast to the element format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, points: Quantizer, factor: float) -> Tensor:  # type: ignore[override]
        z = x / s
        rounded = ops.fake_quant(z.detach(), points)
        ctx.save_for_backward(z, rounded, s)
        ctx.fmt, ctx.factor = points.format, factor
        return rounded * s

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        z, points, s = ctx.saved_tensors
        inside = (z >= ctx.fmt.min) & (z <= ctx.fmt.max)
        slope = torch.where(inside, points - z, points)
        dx = torch.where(inside, g, 0.0) if ctx.needs_input_grad[0] else None
        ds = (g * slope).sum_to_size(s.shape) * ctx.factor if ctx.needs_input_grad[1] else None
        return dx, ds, None, None
