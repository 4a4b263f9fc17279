"""The interface of a method: how the objective treats the quantizer that the weights will meet after
training.

A method is attached to any `nn.Module` when it is built, and any training loop drives it by five calls, each
a no-op unless the method needs it:

    method = Lotion(model, "int4_g32", curvature=..., lam=...)   # or methods.get("lotion")(model, ...)
    for step in range(steps):
        method.set_step(step)                       # before the forward (and its microbatch, if several)
        method.observe(step, lambda: model(x))      # for a curvature that needs passes of its own
        (task_loss(model) + method.penalty(step)).backward()
        method.adjust_grad_(step)                   # before clipping and the optimizer
        optimizer.step()
        method.after_step_(step, lr)                # before the learning rate changes

A new method is one file with a subclass that overrides the hooks it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.targets import find_targets
from dither.quantizer import Quantizer


class Method:
    """A quantizer applied, in the objective, to the target weights of `model`.

    `quantizer`: a `Quantizer` or its name. `sites`: kinds of sites whose weights are targets (default:
    linears, without the head); `exempt`: globs of module names to leave out. UserError where a glob matches
    nothing, or nothing is left.

    Attributes: `targets` (name -> Parameter, each weight once), `label` (for tables), `quantizer`, `model`.
    """

    name: ClassVar[str]
    needs_unbiased: ClassVar[bool] = False
    """Whether the mathematics needs E[round(w)] = w, so that a quantizer that clips is refused."""

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        sites: Sequence[str] = ("linear",),
        exempt: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.quantizer = quantizer if isinstance(quantizer, Quantizer) else Quantizer(quantizer)
        if self.needs_unbiased:
            _refuse_clipping(type(self).__name__, self.quantizer)
        self.sites = (sites,) if isinstance(sites, str) else tuple(sites)
        self.exempt = (exempt,) if isinstance(exempt, str) else tuple(exempt)
        self.targets = {
            target.name: target.weight for target in find_targets(model, sites=self.sites, exempt=self.exempt)
        }
        self.attach()

    @property
    def label(self) -> str:
        """A short name for tables and legends."""
        return self.name.upper()

    def describe(self) -> str:
        """One line: what is done to which weights."""
        count = sum(weight.numel() for weight in self.targets.values())
        return f"{self.label} to {self.quantizer} on {len(self.targets)} weights ({count:,} parameters)"

    def attach(self) -> None:
        """Make the model's forward what the method wants; called by the constructor."""

    def detach(self) -> None:
        """Undo `attach`: the model is plain again, with the weights it has learned."""

    @contextmanager
    def paused(self) -> Iterator[nn.Module]:
        """Inside the block the model is plain: for evaluation in full precision, or under `cast_weights`."""
        self.detach()
        try:
            yield self.model
        finally:
            self.attach()

    def set_step(self, step: int, microbatch: int = 0) -> None:
        """The position that enters the random streams; before the forward."""

    def observe(self, step: int, logits: Callable[[], Tensor]) -> None:
        """Offer a pass of the model: `logits()` -> [..., classes] with its graph. Called where the method
        needs one.
        """

    def penalty(self, step: int) -> Tensor:
        """What to add to the task loss at `step`: a scalar, 0 for most methods."""
        return torch.zeros((), device=next(iter(self.targets.values())).device)

    def adjust_grad_(self, step: int) -> None:
        """Change the targets' gradients in place; after the backward, before clipping and the optimizer."""

    def after_step_(self, step: int, lr: float) -> None:
        """Change the targets in place; after the optimizer's step with learning rate `lr`."""

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs: a flat dict of tensors, ints, floats and strings."""
        return {"method": self.name, "quantizer": str(self.quantizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; UserError for the state of another method or quantizer."""
        for key, mine in (("method", self.name), ("quantizer", str(self.quantizer))):
            if state.get(key) != mine:
                raise UserError(
                    f"this state was saved with {key} {state.get(key)!r}, but this run has {mine!r}"
                )


def _refuse_clipping(method: str, quantizer: Quantizer) -> None:
    """UserError where the quantizer can put a weight outside its grid: rounding between neighbours would be
    biased.
    """
    if not quantizer.clips:
        return
    if quantizer.block is None:
        remedy = "use a quantizer with a scale, for example 'int4_g32' or 'fp4_g32'"
    else:
        remedy = f"use a rule that never clips: Quantizer('{quantizer.replace(scale_rule='rceil')}')"
    raise UserError(
        f"{method} needs rounding without bias, but {quantizer} clips: the largest weights of a block can "
        f"lie above the largest number of its grid; {remedy}"
    )
