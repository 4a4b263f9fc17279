"""Unit scaling of the linears of a model (u-muP, arXiv 2407.17465): weights, activations and gradients of a
size near one at the start, so that plain casts to FP8 need no scales.

                     hidden linear          output linear
    initial weight   N(0, 1)                N(0, 1)
    forward          y = W x fan_in^-1/2    y = W x / fan_in
    backward         dx = W' g fan_in^-1/2  the same
    Adam             lr fan_in^-1/2         lr

Multipliers stand outside the products, which therefore see numbers of size one: the output is scaled on its
way forward and the input's gradient on its way back. Gradients of weights lack the constant factor, which
Adam does not see. Linears in residual branches learn at depth^-1/2 of the rate, and biases and norms at the
full rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.nn.differentiable import Function, apply_to
from dither.nn.sites import covers


class _Scale(Function):
    """x times one number forward, g times another backward."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _Scale.keep(ctx, inputs, None)
        return _Scale.compute(*inputs)

    @staticmethod
    def compute(x: Tensor, forward: float, backward: float) -> Tensor:
        return x * forward if forward != 1 else x.view_as(x)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.factor = inputs[2]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return (g * ctx.factor if ctx.factor != 1 else g), None, None


class _Before:
    def __init__(self, back: float) -> None:
        self.back = back

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (apply_to(_Scale, args[0], 1.0, self.back), *args[1:])


class _After:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, module: Any, args: Any, y: Tensor) -> Tensor:
        y = apply_to(_Scale, y, self.scale, 1.0)
        # the bias went through the multiplier, and belongs behind it
        return y if module.bias is None else y + (1 - self.scale) * module.bias.detach()


def unit_scale_(
    model: nn.Module, *, output: Iterable[str] | str = "*.head", generator: torch.Generator | None = None
) -> nn.Module:
    """Draw the weights of all linears from N(0, 1), set biases to zero, and give them their multipliers, in
    place; returns `model`.

    `output`: globs of the names of output linears ("*.head" also means a top-level "head"). Linears stay what
    they are, so `prepare_` finds them. Raises UserError where a linear has its multiplier already.
    """
    globs = [output] if isinstance(output, str) else list(output)
    linears = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    for name, module in linears:
        if hasattr(module, "unit_output"):
            raise UserError(f"{name!r} is unit-scaled already")
    with torch.no_grad():
        for name, module in linears:
            module.weight.normal_(generator=generator)
            if module.bias is not None:
                module.bias.zero_()
            is_output = _matches(name, globs)
            forward = module.in_features ** (-1.0 if is_output else -0.5)
            module.unit_output = is_output  # type: ignore[assignment]
            module.register_forward_pre_hook(_Before(module.in_features**-0.5))
            module.register_forward_hook(_After(forward))
    return model


def parameter_groups(
    model: nn.Module, lr: float, *, branches: Iterable[str] | str = (), depth: int = 1
) -> list[dict[str, Any]]:
    """Groups for Adam: each parameter once, at `lr` times its factor.

    `branches`: globs of the names of linears in residual branches, which learn at depth^-1/2 of the rate;
    `depth` is the number of branches.
    """
    globs = [branches] if isinstance(branches, str) else list(branches)
    factors: dict[int, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and hasattr(module, "unit_output"):
            factor = 1.0 if module.unit_output else module.in_features**-0.5
            factors[id(module.weight)] = factor * (depth**-0.5 if _matches(name, globs) else 1.0)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": found, "lr": lr * factor} for factor, found in groups.items()]


def _matches(name: str, globs: list[str]) -> bool:
    return any(covers(glob, name) for glob in globs)
