"""What the callbacks for other libraries' loops share: a method that begins, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dither.errors import UserError
from dither.methods import EmpiricalFisher, Hutchinson, Method, SampledFisher

Make = Callable[[Any, Any], Method]
"""(model, optimizer) -> the method on the model."""


def begun(make: Make, model: Any, optimizer: Any) -> Method:
    """The method; UserError for one that a callback cannot drive."""
    method = make(model, optimizer)
    curvature = getattr(method, "curvature", None)
    if isinstance(curvature, SampledFisher | EmpiricalFisher | Hutchinson):
        raise UserError(f"{type(curvature).__name__} needs passes of its own; use AdamSecondMoment here")
    if next(method.parameters(), None) is not None:
        raise UserError(f"{method.label} learns parameters, which the loop's optimizer does not have")
    return method


def add_gradient_(method: Method, step: int) -> None:
    """Add the gradient of the penalty to that of the loss, and let the method change the sum."""
    term = method.penalty(step)
    if term.requires_grad:
        term.backward()
    method.adjust_grad_(step)
