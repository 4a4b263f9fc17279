"""LOTION (arXiv 2510.08757, Eq. 3): descend the loss as randomized rounding would see it, to second order.

    L_GN(w) = L(w) + lambda R(w),   R(w) = 1/2 sum_i g_ii sigma_i^2,   sigma_i^2 = (w_i - lo_i)(hi_i - w_i)

L is the task loss at the full-precision weights. R vanishes on the grid, its minima are grid points, and the
global minima of the quantized problem are kept. The curvature g is held fixed in the gradient.
The scale of a block moves with the block's largest weight; `scale_grad` (default) differentiates through it,
`scale_grad=False` freezes the lattice. In our replication this choice decides whether LOTION beats
straight-through training under round-to-nearest.

Where the penalty is applied:

    "loss"       penalty(step) returns lambda R(w) with its graph
    "grad"       adjust_grad_ adds lambda dR/dw to .grad: the same step as "loss" without a graph
    "decoupled"  after_step_ moves the weights that the optimizer has just written, in its own measure,
                     w <- w - lr lambda P dR/dw,     P = 1 / (sqrt(v / (1 - beta2^t)) + eps)
                 for Adam and AdamW, v as this step has left it, and P = 1 for SGD. The penalty enters neither
                 momentum nor v. With g = n_eff v / (1 - beta2^t) and a frozen lattice a weight moves by
                 lr lambda n_eff/2 sqrt(v / (1 - beta2^t)) (lo + hi - 2w).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dither import nn as dnn
from dither.errors import UserError, suggest
from dither.methods.base import Method
from dither.methods.blocks import check_along_inputs
from dither.methods.curvature import Curvature, group_numbers, moment_and_bias
from dither.methods.noise import Penalty, add_gradient_, penalty_and_gradient
from dither.methods.ramp import lam_at
from dither.methods.targets import Target
from dither.quantizer import Quantizer

MODES = ("loss", "grad", "decoupled")


class Lotion(Method):
    """The penalty 1/2 lambda sum g sigma^2 on the target weights.

    `curvature`: a `Curvature`. `lam`: a number, or a function of the step such as `Ramp`. `scale_grad`:
    differentiate through the scales. `mode`: "loss", "grad" or "decoupled" (module docstring). `optimizer`:
    needed by "decoupled" unless the curvature is `AdamSecondMoment`, which knows it.

    UserError for a quantizer that clips, frozen target weights, or an optimizer whose preconditioner is
    unknown.
    """

    name = "lotion"
    needs_unbiased = True
    trains = True

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        curvature: Curvature,
        lam: float | Callable[[int], float] = 1.0,
        scale_grad: bool = True,
        mode: str = "loss",
        optimizer: torch.optim.Optimizer | None = None,
        sites: Sequence[str] = ("linear",),
        exempt: Sequence[str] = (),
    ) -> None:
        super().__init__(model, quantizer, sites=sites, exempt=exempt)
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}{suggest(mode, MODES)}; known: {', '.join(MODES)}")
        if not callable(lam):
            lam_at(lam, 0)
        self.curvature, self.lam, self.scale_grad, self.mode = curvature, lam, scale_grad, mode
        curvature.bind(self.targets)
        self.optimizer = optimizer if optimizer is not None else getattr(curvature, "optimizer", None)
        self._adam = _adam_groups(self.optimizer, self.targets) if mode == "decoupled" else None

    def check(self) -> None:
        super().check()
        check_along_inputs(self.quantizer)

    @property
    def scale_derivative(self) -> str:
        """What stands for ds/damax: "exact" (fp32 scale), "proportional" (s/amax, the scale before rounding)
        or "frozen".
        """
        if not self.scale_grad:
            return "frozen"
        return "exact" if self.quantizer.scale_format == "fp32" else "proportional"

    @property
    def label(self) -> str:
        """ "LOTION"; the frozen lattice and the extension to quantized scales are named."""
        if self.quantizer.scale_format != "fp32":
            return (
                f"LOTION (extension: {self.quantizer.scale_format} scale, {self.scale_derivative} derivative)"
            )
        return "LOTION" if self.scale_grad else "LOTION (frozen scale)"

    def describe(self) -> str:
        """One line: quantizer, targets, curvature, lambda, mode and scale derivative."""
        text = (
            f"{super().describe()}; curvature: {self.curvature}; "
            f"lambda: {getattr(self.lam, '__name__', self.lam)}; "
            f"mode: {self.mode}; scale derivative: {self.scale_derivative}"
        )
        if self.quantizer.scale_format != "fp32":
            text += "; the paper treats scales of full precision only: this is an extension of its method"
        return text

    def value(self, step: int) -> float:
        """lambda R(w) as a number, in every mode."""
        with torch.no_grad():
            return float(self._weighted_penalty(lam_at(self.lam, step)))

    def observe(self, step: int, logits: Callable[[], Tensor], labels: Tensor | None = None) -> None:
        if self.curvature.differentiates_twice and dnn.sites(self.model):
            raise UserError(
                f"{self.curvature} differentiates twice, which the products of a recipe do not allow: "
                "dither.nn.restore_(model), or choose another curvature"
            )
        self.curvature.observe(step, logits, labels)

    def penalty(self, step: int) -> Tensor:
        if self.mode != "loss":
            return super().penalty(step)
        value = self._weighted_penalty(lam_at(self.lam, step))
        self.last_penalty = float(value.detach())
        return value

    def adjust_grad_(self, step: int) -> None:
        if self.mode != "grad":
            return
        total = 0.0
        for target, g, factor in self._active(lam_at(self.lam, step)):
            weight = target.weight
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            elif not weight.grad.is_contiguous():
                weight.grad = weight.grad.contiguous()
            out = target.rows(weight.grad)
            value = add_gradient_(
                out, target.rows(weight), g, self.quantizer, scale_grad=self.scale_grad, factor=factor
            )
            total += factor * float(value)
        self.last_penalty = total

    @torch.no_grad()
    def after_step_(self, step: int, lr: float) -> None:
        if self.mode != "decoupled":
            return
        assert self.optimizer is not None
        total = 0.0
        for target, g, factor in self._active(lam_at(self.lam, step)):
            weight = target.weight
            value, gradient = penalty_and_gradient(
                target.rows(weight), g, self.quantizer, scale_grad=self.scale_grad
            )
            total += factor * float(value)
            gradient = target.like(gradient)
            if self._adam is None:
                weight.add_(gradient.to(weight.dtype), alpha=-lr * factor)
                continue
            group = self.optimizer.param_groups[self._adam[target.name]]
            found = moment_and_bias(self.optimizer, weight, group)
            if found is None:
                continue  # no step was taken for this weight yet
            # sqrt(v / bias) + eps, with the bias taken out: a pass over memory less
            root = math.sqrt(found[1])
            denominator = found[0].sqrt().add_(group["eps"] * root)
            if gradient.dtype == weight.dtype == denominator.dtype:
                weight.addcdiv_(gradient, denominator, value=-lr * factor * root)
            else:
                weight.add_((gradient / denominator).to(weight.dtype), alpha=-lr * factor * root)
        self.last_penalty = total

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            f"curvature.{key}": value for key, value in self.curvature.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        prefix = "curvature."
        self.curvature.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )

    def _active(self, lam: float) -> Iterator[tuple[Target, Tensor, float]]:
        """The targets whose curvature is known, with g in rows and the factor that lambda g is of it; none at
        all while lambda is 0.
        """
        for target in self.found if lam > 0.0 else ():
            found = self.curvature.scaled(target.name, target.weight)
            if found is not None:
                yield target, target.rows(found[0]), lam * found[1]

    def _weighted_penalty(self, lam: float) -> Tensor:
        total = super().penalty(0)
        for target, g, factor in self._active(lam):
            rows = target.rows(target.weight)
            value: Tensor = Penalty.apply(rows, g, self.quantizer, self.scale_grad)  # type: ignore[assignment]
            total = total + factor * value.to(total.device)
        return total


def _adam_groups(
    optimizer: torch.optim.Optimizer | None, targets: Mapping[str, nn.Parameter]
) -> dict[str, int] | None:
    """The parameter group whose Adam denominators precondition each target; None for SGD, which has no
    denominators.
    """
    if optimizer is None:
        raise UserError('mode="decoupled" moves the weights beside the optimizer: pass optimizer=')
    groups = group_numbers(optimizer, targets)
    if isinstance(optimizer, torch.optim.SGD):
        return None
    if not all("betas" in group and "eps" in group for group in optimizer.param_groups):
        raise UserError(
            'mode="decoupled" knows the preconditioners of Adam, AdamW and SGD, '
            f"not of {type(optimizer).__name__}; "
            'use mode="grad"'
        )
    return groups
