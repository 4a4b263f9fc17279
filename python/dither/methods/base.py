"""The interface of a method: how the objective treats the quantizer that the weights will meet after
training.

A method is attached to any `nn.Module` when it is built, and any training loop drives it by six calls, each
a no-op unless the method needs it:

    method = Lotion(model, "int4_g32", curvature=..., lam=...)   # or methods.get("lotion")(model, ...)
    optimizer.add_param_group({"params": list(method.parameters())})     # where the method learns something
    for step in range(steps):
        method.set_step(step)                       # before the forward (and its microbatch, if several)
        method.observe(step, lambda: model(x), y)   # for a curvature that needs passes of its own
        (task_loss(model) + method.penalty(step)).backward()
        method.adjust_grad_(step)                   # before clipping and the optimizer
        optimizer.step()
        method.after_step_(step, lr)                # before the learning rate changes
    method.calibrate_(batches)                      # methods that work on data after training

    with method.deployed() as plain:                # the model as it will be deployed, for evaluation
        evaluate(plain)
    method.convert_()                               # really packed weights, in place

A new method is one file with a subclass that overrides the hooks it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.casting import cast_weight, written
from dither.methods.grid import turned
from dither.methods.targets import Target, find_targets
from dither.nn.packed import PackedTensor, parameter, quantize
from dither.quantizer import Quantizer


class Method:
    """A quantizer applied, in the objective, to the target weights of `model`.

    `quantizer`: a `Quantizer` or its name. `sites`: kinds of sites whose weights are targets (default:
    linears, without the head); `exempt`: globs of module names to leave out. UserError where a glob matches
    nothing, or nothing is left.

    Attributes: `targets` (name -> Parameter, each weight once), `found` (the same as `Target`s), `label` (for
    tables), `quantizer`, `model`.
    """

    name: ClassVar[str]
    needs_unbiased: ClassVar[bool] = False
    """Whether the mathematics needs E[round(w)] = w, so that a quantizer that clips is refused."""
    trains: ClassVar[bool] = False
    """Whether the method moves the target weights itself, so that frozen ones are refused."""
    needs_data: ClassVar[bool] = False
    """Whether the weights are not final before `calibrate_`."""
    own_grid: ClassVar[bool] = False
    """Whether the deployed weights lie on another grid than `cast_weights` with the quantizer gives."""
    can_draw: ClassVar[bool] = True
    """Whether the deployed weights can be rounded stochastically."""
    rounds_itself: ClassVar[bool] = False
    """Whether training rounds by a rule of the method, so that a quantizer with another is refused."""

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
        self.sites = (sites,) if isinstance(sites, str) else tuple(sites)
        self.exempt = (exempt,) if isinstance(exempt, str) else tuple(exempt)
        self.found = find_targets(model, sites=self.sites, exempt=self.exempt)
        self.targets = {target.name: target.weight for target in self.found}
        self.check()
        self.last_penalty = 0.0
        self.attach()

    @property
    def label(self) -> str:
        """A short name for tables and legends."""
        return self.name.upper()

    def describe(self) -> str:
        """One line: what is done to which weights."""
        count = sum(weight.numel() for weight in self.targets.values())
        return f"{self.label} to {self.quantizer} on {len(self.targets)} weights ({count:,} parameters)"

    def check(self) -> None:
        """UserError where the quantizer or a weight breaks what the method assumes; called by the constructor
        before anything changes. A subclass adds what it assumes.
        """
        name = type(self).__name__
        if self.needs_unbiased:
            _refuse_clipping(name, self.quantizer)
        if self.trains:
            _refuse_frozen(name, self.targets)
        if self.rounds_itself:
            refuse_rounding(name, self.quantizer)

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

    def observe(self, step: int, logits: Callable[[], Tensor], labels: Tensor | None = None) -> None:
        """Offer a pass of the model: `logits()` -> [..., classes] with its graph, called where the method
        needs one, and the labels of the data, one a position.
        """

    def penalty(self, step: int) -> Tensor:
        """What to add to the task loss at `step`: a scalar, 0 for most methods.

        A method that moves weights or gradients itself leaves the value of what it descends in
        `last_penalty`, for records, when the step is done.
        """
        return torch.zeros((), device=next(iter(self.targets.values())).device)

    def adjust_grad_(self, step: int) -> None:
        """Change the targets' gradients in place; after the backward, before clipping and the optimizer."""

    def after_step_(self, step: int, lr: float) -> None:
        """Change the targets in place; after the optimizer's step with learning rate `lr`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """What the method learns beside the model's weights, for an optimizer; nothing for most methods."""
        return iter(())

    def calibrate_(
        self,
        batches: Iterable[Any],
        forward: Callable[[Any], Any] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Let a post-training method work on data: the target weights become what it makes of them.

        `batches`: can be iterated several times (a list, a DataLoader). `forward(batch)` runs the model
        (default: the model is called with the batch, the first item of a tuple or list, or the items of a
        dict as keywords). `progress(name, done, of)` is called before each weight.
        """

    def deploy(self, target: Target, weight: Tensor, rounding: str, seed: int | None) -> Tensor:
        """The values that stand in for `weight` after training: rounded to the quantizer's grid."""
        return cast_weight(target, weight, self.quantizer, rounding, seed)

    @contextmanager
    def deployed(self, rounding: str = "nearest_even", *, seed: int | None = None) -> Iterator[nn.Module]:
        """Inside the block the model is plain and holds the weights it would be deployed with; afterwards it
        is as before, bit for bit.

        `rounding` and `seed` as for `cast_weights`. Weights that a method has put on its own grid stay.
        """
        with self.paused():
            values = {t.name: self.deploy(t, t.weight.detach(), rounding, seed) for t in self.found}
            with written(self.found, values):
                yield self.model

    def deploys_as(self, cast: Quantizer | str) -> bool:
        """Whether `deployed` stands for a cast with this quantizer, in place of `cast_weights`."""
        return self.own_grid and Quantizer(cast) == self.quantizer

    def packed(self, target: Target) -> PackedTensor:
        """A target weight as it would be deployed, packed; UserError where the grid cannot be stored."""
        check_matrix(target)
        return quantize(target.weight.detach(), self.quantizer, -1 if target.is_rows else 0)

    def convert_(self) -> nn.Module:
        """Detach the method and replace the target weights by packed ones, in place; returns the model."""
        packed = [parameter(self.packed(target)) for target in self.found]
        self.detach()
        for target, weight in zip(self.found, packed, strict=True):
            for module in target.modules:
                setattr(module, target.attribute, weight)
        return self.model

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


def of_state(state: Mapping[str, Any], name: str) -> Any:
    """A part of a saved state; UserError where it is missing."""
    if name not in state:
        raise UserError(f"the saved state lacks {name!r}: it is damaged, or of another model or version")
    return state[name]


def stored(target: Target, rows: PackedTensor) -> PackedTensor:
    """A weight that was packed as rows of inputs in the shape and dtype that its modules hold."""
    check_matrix(target)
    packed = rows if target.is_rows else turned(rows)
    return packed.to(target.weight.dtype)  # type: ignore[return-value]


def check_matrix(target: Target) -> None:
    """UserError for a weight of more than two axes, which cannot be packed."""
    if target.weight.dim() > 2:
        raise UserError(
            f"{target.name}, {tuple(target.weight.shape)}, is no (outputs, inputs) matrix and cannot be "
            "packed; exempt it"
        )


def _refuse_frozen(method: str, targets: Mapping[str, nn.Parameter]) -> None:
    """UserError where the method would move a weight that must not move."""
    frozen = [name for name, weight in targets.items() if not weight.requires_grad]
    if frozen:
        raise UserError(
            f"{method} trains the weights it is given, but these are frozen (requires_grad=False): "
            f"{', '.join(frozen)}; unfreeze them or exempt them"
        )


def refuse_rounding(method: str, quantizer: Quantizer) -> None:
    """UserError where a rounding other than the default would be ignored."""
    if quantizer.rounding != "nearest_even":
        raise UserError(
            f"{method} rounds by a rule of its own, and the {quantizer.rounding} of {quantizer} would be "
            f"ignored: give Quantizer('{quantizer.replace(rounding='nearest_even')}')"
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
