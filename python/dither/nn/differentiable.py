"""autograd.Functions that are cheap to call and that torch.func can transform.

torch has two shapes of an autograd.Function: `forward` takes the context, or is apart from `setup_context`.
grad, vmap and the other transforms of torch.func ask for the second, and a call of that takes some 35 us
more, as long as a small layer. A function here is stated once, as `compute` and `keep`, and called in the
shape that is needed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from dither.errors import UserError


class Function(torch.autograd.Function):
    """Its `forward(ctx, *inputs)` is `compute(*inputs)`, then `keep(ctx, inputs, output)`. What these and
    `backward` do are operations that vmap has a rule for."""

    @staticmethod
    def compute(*inputs: Any) -> Any:
        raise NotImplementedError

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        raise NotImplementedError


def apply_to(function: type[Function], *inputs: Any) -> Any:
    """`function.apply`, also within torch.func."""
    return (_apart(function) if is_transformed() else function).apply(*inputs)


@cache
def _apart(function: type[Function]) -> type[torch.autograd.Function]:
    parts = {
        "forward": staticmethod(function.compute),
        "setup_context": staticmethod(function.keep),
        "backward": staticmethod(function.backward),
        "generate_vmap_rule": True,
    }
    return type(function.__name__, (torch.autograd.Function,), parts)


def is_transformed() -> bool:
    """Whether this runs within grad, vmap or another transform of torch.func."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def refuse_transforms(why: str) -> None:
    """UserError within torch.func."""
    if is_transformed():
        raise UserError(f"{why}, so torch.func cannot transform it: differentiate with backward()")


def one_after_the_other(op: str, library: torch.library.Library) -> None:
    """vmap's rule for a custom op: what it gives for each entry by itself, with the random bits of that."""
    namespace, _, name = op.partition("::")

    def rule(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        call = getattr(getattr(torch.ops, namespace), name).default
        results = [
            call(*(x if dim is None else x.select(dim, i) for x, dim in zip(inputs, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(part) for part in zip(*results, strict=True)), (0,) * len(results[0])
        return torch.stack(results), 0

    torch.library.register_vmap(op, rule, lib=library)
