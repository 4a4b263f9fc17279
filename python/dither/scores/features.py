"""What the last layer of a torch model reads, caught in passing.

Embeddings for prototypes, nearest neighbours and GraNd of the last layer, without a second forward pass and
without a change of the model.
"""

from __future__ import annotations

from typing import Any

from dither.errors import UserError, require


class Features:
    """Catches the input of a layer in every forward pass of a model.

    with Features(model) as features:
        for index, x, y in loader:
            logits = model(x)
            h = features.last                                   # (b, d), of this forward pass
            grand[index] = grand_last_layer(logits, y, h)

    The layer is the linear one whose output the model returns; or name another, whose input is taken. Hooks
    look on: outputs, gradients, state_dict and random numbers of the model stay what they are. One batch is
    held at a time.
    """

    def __init__(self, model: Any, layer: str | None = None) -> None:
        """layer: as `model.named_modules()` has it. UserError where the model has none of that name, or no
        linear layer at all."""
        torch = require("torch", "torch")
        if not isinstance(model, torch.nn.Module):
            raise UserError(f"a torch model is needed, not {type(model).__name__}")
        modules = dict(model.named_modules())
        if layer is not None and layer not in modules:
            raise UserError(f"the model has no layer {layer!r}; it has {', '.join(n for n in modules if n)}")
        watched = {n: m for n, m in modules.items() if n == layer or (layer is None and _linear(torch, m))}
        if not watched:
            raise UserError("the model has no linear layer; name the layer whose input you want")
        self.layer = layer
        self._calls: list[tuple[str, Any, Any]] = []
        self._found: Any = None
        self._why = "the model was not called yet"
        self._hooks = [model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end)]
        for name, module in watched.items():
            hook = lambda _, given, out, name=name: self._calls.append((name, given, out))  # noqa: E731
            self._hooks.append(module.register_forward_hook(hook))

    @property
    def last(self) -> Any:
        """The input of the layer in the latest forward pass: a detached tensor, on the model's device.

        UserError where there was none, where it is not clear which layer is meant, or where that takes no
        single tensor."""
        if self._found is None:
            raise UserError(self._why)
        return self._found

    def remove(self) -> None:
        """Take the hooks away; `last` stays."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Features:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _begin(self, *_: Any) -> None:
        self._calls, self._found = [], None
        self._why = "the last forward pass did not come to its end"

    def _end(self, _model: Any, _given: Any, out: Any) -> None:
        calls, self._calls = self._calls, []
        if self.layer is None:
            calls = [call for call in calls if _same(call[2], out)]
            if len(calls) != 1:
                self._why = (
                    "the model does not return the output of one linear layer as it is; name the layer whose "
                    "input you want: Features(model, 'head')"
                )
                return
        elif len(calls) != 1:
            self._why = f"layer {self.layer!r} was called {len(calls)} times in one forward pass"
            return
        name, given, _ = calls[0]
        if len(given) != 1 or not hasattr(given[0], "detach"):
            self._why = f"layer {name!r} takes {len(given)} arguments by position, not one tensor"
            return
        self._found = given[0].detach()


def _linear(torch: Any, module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)


def _same(a: Any, b: Any) -> bool:
    """The same numbers in memory: the model may have given them another shape."""
    return (
        hasattr(a, "data_ptr")
        and hasattr(b, "data_ptr")
        and a.data_ptr() == b.data_ptr()
        and a.numel() == b.numel()
    )
