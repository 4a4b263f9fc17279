"""Post-training methods on data: what enters each layer, streamed, layer after layer.

For a layer y = W x all that a layer-wise method needs to know of the data is the Gram matrix E[x x^T] of its
inputs. It is summed over the batches in fp64 and never holds more than one batch. Layers are treated in the
order in which the model calls them, and each sees the inputs that the layers before it, already quantized,
give it; layers with the same input (query, key and value) are treated together. For G such groups the model
runs G + 1 times over the batches, each time no further than the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dither.blocks import Layout
from dither.errors import UserError
from dither.methods.base import Method, of_state, stored
from dither.methods.targets import Target
from dither.nn.kernels import WORDS
from dither.nn.packed import PackedTensor
from dither.nn.patches import Patches
from dither.quantizer import Quantizer

_ROWS = 4096  # inputs whose products are summed in fp32 before they enter the fp64 sum


class Calibrated(Method):
    """A method that gives every target weight its final place on a grid, by `calibrate_`.

    A subclass has `solve`. Afterwards the weights in the model are the deployed ones, and `convert_` packs
    them under the scales they were placed with. A failed call leaves every weight as it was.
    """

    needs_data = True
    own_grid = True

    def __init__(self, *args: Any, **options: Any) -> None:
        self.results: dict[str, PackedTensor] = {}
        super().__init__(*args, **options)

    def check(self) -> None:
        super().check()
        unseen = [t.name for t in self.found if not t.sees_inputs] if self.needs_data else []
        if unseen:
            raise UserError(
                f"{self.label} works on the inputs of modules, and torch's attention multiplies by "
                f"{', '.join(unseen)} without calling one: exempt=['*.in_proj', '*.out_proj']"
            )

    def solve(self, target: Target, rows: Tensor, gram: Tensor) -> PackedTensor:
        """The weight `rows` [outputs, inputs] (fp32 or fp64) on its grid; `gram` [inputs, inputs], fp64, is
        the mean of x x^T over the layer's inputs x."""
        raise NotImplementedError

    @torch.no_grad()
    def calibrate_(
        self,
        batches: Iterable[Any],
        forward: Callable[[Any], Any] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        if iter(batches) is batches:
            raise UserError("batches are read once for every layer: pass a list or a DataLoader, no iterator")
        originals = [(t.weight, t.weight.detach().clone()) for t in self.found]
        results: dict[str, PackedTensor] = {}
        try:
            with self.paused(), evaluating(self.model):
                run = forward or (lambda batch: call(self.model, batch))
                groups = groups_of(self.found, first_of(batches), run)
                for group in groups:
                    gram = gram_of(group, batches, run)
                    for target in group.targets:
                        if progress is not None:
                            progress(target.name, len(results), len(self.found))
                        rows = target.rows(target.weight.detach()).to(gram.device)
                        rows = rows if rows.dtype == torch.float64 else rows.float()
                        packed = self.solve(target, rows, gram)
                        target.weight.copy_(target.like(packed.dequantize()))
                        results[target.name] = packed
        except BaseException:
            for weight, original in originals:
                weight.copy_(original)
            raise
        self.results = results

    def result(self, target: Target) -> PackedTensor:
        """What `calibrate_` made of a weight; UserError where it was not called, or the weight has moved."""
        if target.name not in self.results:
            raise UserError(f"{self.label} needs data: call method.calibrate_(batches) after training")
        packed = self.results[target.name]
        if not torch.equal(target.like(packed.dequantize()).to(target.weight), target.weight):
            raise UserError(f"{target.name} has changed since calibrate_: call it again")
        return packed

    def deploy(self, target: Target, weight: Tensor, rounding: str, seed: int | None) -> Tensor:
        self.result(target)
        return weight

    def packed(self, target: Target) -> PackedTensor:
        return stored(target, self.result(target))

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        for name, packed in self.results.items():
            state[f"grid.{name}"] = str(packed.quantizer)
            state |= {f"packed.{name}.{part}": value for part, value in packed.parts.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.results = {}
        for target in self.found:
            prefix = f"packed.{target.name}."
            parts = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if parts:
                rows = target.rows(target.weight)
                dtype = torch.float64 if rows.dtype == torch.float64 else torch.float32
                layout = Layout(
                    Quantizer(of_state(state, f"grid.{target.name}")), tuple(rows.shape), rows.dim() - 1
                )
                self.results[target.name] = PackedTensor(layout, WORDS[dtype], dtype, parts)


class Group:
    """Targets with one input, and how often their modules are called in a forward."""

    def __init__(self, target: Target, source: int) -> None:
        self.targets, self.source, self.calls = [target], source, 0

    @property
    def name(self) -> str:
        return self.targets[0].name

    def modules(self) -> Iterator[nn.Module]:
        """Those whose input counts: of targets that share an input, the first one's."""
        return iter(self.targets[0].modules)


def call(model: nn.Module, batch: Any) -> Any:
    """The model on a batch: a dict as keywords, the first of a tuple or list, anything else as it is."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def first_of(batches: Iterable[Any]) -> Any:
    for batch in batches:
        return batch
    raise UserError("there is no calibration batch: pass at least one, as a list or a DataLoader")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block all modules are in eval mode: no dropout, no running averages."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def watching(modules: Iterable[nn.Module], look: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """Inside the block `look(module, input)` is called before each forward of the modules."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        look(module, args[0] if args else next(iter(kwargs.values())))

    handles = [m.register_forward_pre_hook(before, with_kwargs=True) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def groups_of(targets: list[Target], batch: Any, run: Callable[[Any], Any]) -> list[Group]:
    """The targets in the order of their last use, those with one input together. UserError where the model
    does not use one."""
    of = {id(module): target for target in targets for module in target.modules}
    last: dict[str, int] = {}
    calls: dict[str, list[Tensor]] = {target.name: [] for target in targets}
    clock = 0

    def look(module: nn.Module, x: Tensor) -> None:
        nonlocal clock
        clock += 1
        target = of[id(module)]
        last[target.name] = clock
        calls[target.name].append(x)  # kept, so that no later tensor takes its address

    with watching([m for t in targets for m in t.modules], look):
        run(batch)
    unused = [target.name for target in targets if not calls[target.name]]
    if unused:
        raise UserError(f"the model does not call {', '.join(unused)} on the first batch; exempt it")
    groups: list[Group] = []
    for target in sorted(targets, key=lambda t: last[t.name]):
        inputs = calls[target.name]
        shares = groups and len(inputs) == 1 and groups[-1].calls == 1 and groups[-1].source == id(inputs[0])
        if shares and all(t.kind == "linear" for t in (target, groups[-1].targets[0])):
            groups[-1].targets.append(target)
        else:
            groups.append(Group(target, id(inputs[0])))
            groups[-1].calls = len(inputs)
    return groups


class _Enough(Exception):
    """The layers of interest have been called; the rest of the forward is not needed."""


def gram_of(group: Group, batches: Iterable[Any], run: Callable[[Any], Any]) -> Tensor:
    """The mean of x x^T [inputs, inputs] over the inputs x of a group in all batches, fp64.

    UserError naming batch and layer where an input is NaN or infinite.
    """
    target = group.targets[0]
    inputs = target.rows(target.weight).shape[-1]
    total = torch.zeros(inputs, inputs, dtype=torch.float64, device=target.weight.device)
    count = seen = number = 0

    def look(module: nn.Module, x: Tensor) -> None:
        nonlocal count, seen
        if not torch.isfinite(x).all():
            raise UserError(
                f"calibration batch {number} (from 0): the input of {group.name.removesuffix('.weight')} "
                "holds NaN or infinity; leave the batch out, or look for where the model overflows"
            )
        for part in columns(target, module, x).split(_ROWS):
            total.add_(part.T @ part)
            count += part.shape[0]
        seen += 1
        if seen == group.calls:
            raise _Enough

    with watching(group.modules(), look):
        for number, batch in enumerate(batches):  # noqa: B007 (`look` reads it)
            seen = 0
            try:
                run(batch)
            except _Enough:
                pass
    return total / count


def columns(target: Target, module: nn.Module, x: Tensor) -> Tensor:
    """The inputs of a target's module as [positions, inputs], fp32 or fp64: of a convolution its patches."""
    x = x if x.dtype == torch.float64 else x.float()
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1:
        x = x if x.dim() == module.weight.dim() else x.unsqueeze(0)
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
        none = (0, 0) * len(module.kernel_size)
        return Patches(module.kernel_size, module.stride, module.dilation, none, 1).rows(x).flatten(0, 1)
    if target.kind not in ("linear", "head"):
        raise UserError(
            f"{target.name}: calibration knows linears and convolutions without groups, not {module}; "
            "exempt it"
        )
    return x.flatten(0, -2)
