"""Methods that change the forward: modules compute with what the method makes of their weight and input.

While such a method is attached, a target's module has a subclass of its own class whose attribute `weight`
(of attention `in_proj_weight`) is, during the forward that multiplies by it, what `Forward.weight` returned;
outside of it, and for everybody else, it is the parameter. Parameters, their order and the names in the state
dict stay, and a recipe that the module carries already (`dither.nn.prepare_`) goes on quantizing the other
operands: its products find the method's weight in place of the parameter, and autograd carries their gradient
on to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.base import Method
from dither.methods.targets import Target
from dither.nn import ops
from dither.nn.streams import OPERANDS, signed, stream
from dither.quantizer import Quantizer

_WEIGHT = OPERANDS.index("fprop_w")
_PRODUCTS = ("linear", "head", "conv", "grouped")


class _Seen(nn.Module):
    """Mixed into a target module's class: the weight is what the method shows to the forward."""

    dither_seen: Tensor | None


class _SeenWeight(_Seen):
    @property
    def weight(self) -> Any:
        return self._parameters["weight"] if self.dither_seen is None else self.dither_seen


class _SeenInProjection(_Seen):
    @property
    def in_proj_weight(self) -> Any:
        return self._parameters["in_proj_weight"] if self.dither_seen is None else self.dither_seen


_SEEN = {"weight": _SeenWeight, "in_proj_weight": _SeenInProjection}
_made: dict[type[nn.Module], type[nn.Module]] = {}


def _seeing(own: type[nn.Module], attribute: str) -> type[nn.Module]:
    if own not in _made:
        bases = (_SEEN[attribute], own)
        _made[own] = type(f"Seeing{own.__name__}", bases, {"__module__": own.__module__})
    return _made[own]


class Forward(Method):
    """A method that shows the forward another weight, and if asked another input.

    `activations`: a quantizer for the inputs of the target linears and convolutions, or None. `start`: the
    step from which the forward is changed; before it the model trains plainly (for `fused_cooldown`).
    `seed`: of stochastic roundings.

    UserError where a recipe on the model quantizes a target's weight (or, with `activations`, its input)
    itself: it would be quantized twice.
    """

    def __init__(
        self,
        model: nn.Module,
        quantizer: Quantizer | str,
        *,
        activations: Quantizer | str | None = None,
        start: int = 0,
        seed: int = 0,
        sites: Sequence[str] = ("linear",),
        exempt: Sequence[str] = (),
    ) -> None:
        self.activations = Quantizer(activations) if isinstance(activations, str) else activations
        self.start, self.seed, self.step, self.microbatch = start, seed, 0, 0
        self._handles: list[Any] = []
        super().__init__(model, quantizer, sites=sites, exempt=exempt)

    def weight(self, target: Target, w: Tensor) -> Tensor:
        """What the forward multiplies by in place of the parameter `w`, with its gradient."""
        raise NotImplementedError

    def activation(self, target: Target, x: Tensor) -> Tensor:
        """What a target's module sees in place of its input `x`: fake-quantized, straight-through."""
        assert self.activations is not None
        rng = _rng(self, target, OPERANDS.index("fprop_x")) if self.activations.is_stochastic else None
        return ops.fake_quant(x, self.activations, axis=1 if target.kind == "conv" else -1, rng=rng)

    def describe(self) -> str:
        text = super().describe()
        if self.activations is not None:
            text += f"; activations to {self.activations}"
        return text + (f"; from step {self.start}" if self.start else "")

    def attach(self) -> None:
        self._check_recipe()
        for target in self.found:
            for module, caller in zip(target.modules, target.callers, strict=True):
                module.__class__ = _seeing(type(module), target.attribute)
                module.dither_seen = None  # pyright: ignore[reportArgumentType]
                self._handles += [
                    caller.register_forward_pre_hook(_Before(self, target, module)),
                    caller.register_forward_hook(_After(module), always_call=True),
                ]

    def detach(self) -> None:
        modules = [(target.name, module) for target in self.found for module in target.modules]
        for name, module in modules:
            if type(module) not in _made.values():
                raise UserError(f"{name} ({type(module).__name__}): {_OUT_OF_ORDER}")
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for _, module in modules:
            del module.dither_seen
            module.__class__ = type(module).__bases__[1]

    def set_step(self, step: int, microbatch: int = 0) -> None:
        self.step, self.microbatch = step, microbatch

    @property
    def active(self) -> bool:
        """Whether the forward is changed at the step that `set_step` named."""
        return self.step >= self.start

    def _check_recipe(self) -> None:
        for target in self.found:
            for module in target.modules:
                if isinstance(module, _Seen):
                    raise UserError(
                        f"{target.name} is in the hands of a method already: call its detach() first, or "
                        "exempt it"
                    )
                if getattr(module, "max_norm", None) is not None:
                    raise UserError(f"{target.name} is renormalised in place (max_norm); exempt it")
                if self.activations is not None and not target.sees_inputs:
                    raise UserError(
                        f"{target.name}: attention multiplies by it without calling a module, so that its "
                        "input cannot be quantized; exempt it, or leave activations= to a recipe"
                    )
                _refuse_twice(self, target, module)


class _Before:
    """The hook before the forward that multiplies by the weight of `module`."""

    def __init__(self, method: Forward, target: Target, module: nn.Module) -> None:
        self.method, self.target, self.module = method, target, module

    def __call__(self, caller: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        method, target, module = self.method, self.target, self.module
        if not method.active:
            return None
        if not isinstance(module, _Seen):
            raise UserError(f"{target.name}: {_OUT_OF_ORDER}")
        _refuse_twice(method, target, module)
        module.dither_seen = method.weight(target, module._parameters[target.attribute])  # type: ignore[arg-type]
        if method.activations is None or target.kind not in _PRODUCTS:
            return None
        if not args:
            raise UserError(f"{target.name}: pass the input by position, so that it can be quantized")
        return (method.activation(target, args[0]), *args[1:])


class _After:
    """The hook after it."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, caller: nn.Module, args: Any, output: Any) -> None:
        if isinstance(self.module, _Seen):
            self.module.dither_seen = None


_OUT_OF_ORDER = (
    "its class was changed since the method was attached: call method.detach() before "
    "dither.nn.restore_(model), and attach a method after fully_shard"
)


def _refuse_twice(method: Forward, target: Target, module: nn.Module) -> None:
    """UserError where the module's recipe quantizes what the method quantizes."""
    site = getattr(module, "dither_site", None)
    if site is None:
        return
    if target.attribute == "in_proj_weight":
        site = next(one for one in module.dither_prepared.sites if one.part == "in_proj")  # type: ignore[union-attr]
    for operand, mine in (("fprop_w", method.quantizer), ("fprop_x", method.activations)):
        theirs = getattr(site.recipe, operand)
        if theirs is not None and mine is not None:
            raise UserError(
                f"{target.name}: the recipe {site.recipe.name!r} quantizes {operand} to {theirs}, and "
                f"{type(method).__name__} to {mine}: it would be quantized twice. Give the recipe without "
                f"it: dither.nn.Recipe.get(..., {operand}=None), or choose a method that leaves the forward "
                "alone"
            )


class Positioned(Protocol):
    """A method that knows where in the run it is."""

    seed: int
    step: int
    microbatch: int


def _rng(method: Positioned, target: Target, operand: int) -> Tensor:
    """[seed, stream] of an operand at the method's position in the run."""
    position = stream(target.index, operand, method.microbatch, method.step)
    return torch.tensor([signed(method.seed), signed(position)], device=target.weight.device)


def rounded(method: Positioned, target: Target, w: Tensor, quantizer: Quantizer) -> Tensor:
    """`w` fake-quantized in blocks along its inputs, its gradient passed straight through; a stochastic
    quantizer draws from the target's stream at the method's position in the run.
    """
    rng = _rng(method, target, _WEIGHT) if quantizer.is_stochastic else None
    return target.like(ops.fake_quant(target.rows(w), quantizer, axis=-1, rng=rng))
