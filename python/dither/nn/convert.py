"""Put really packed weights into a model, for inference, and write and read such models.

`convert_` replaces weights and nothing else: classes, hooks and the names in the state dict stay. What the
model computes is, bit for bit, what it computes with fake-quantized weights; what it holds is packed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dither import storage
from dither.errors import UserError, suggest
from dither.nn.checks import dtype_of
from dither.nn.counterparts import is_transposed_linear
from dither.nn.describe import check_recipe, recipe_of
from dither.nn.packed import PackedTensor, parameter, quantize
from dither.nn.prepare import sites
from dither.nn.sites import candidates, matching
from dither.quantizer import Quantizer

_TIED = "dither_tied"
"""Metadata entry: names in the state dict that stand for the tensor of another name."""
_RECIPE = "dither_recipe"
"""Metadata entry: what the weights were trained under, by `recipe_of`."""


def convert_(
    model: nn.Module,
    q: str | Quantizer | None,
    *,
    exempt: Iterable[str] | str = (),
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Replace the weights of all linears but heads by packed ones, in place; returns `model`.

    The new weights take no gradient. Modules that share a weight share the packed one. `None` goes back to
    plain weights: those with the packed values, since the ones before are gone.

    Args:
        q: quantizer or preset name; blocks run along the inputs (of GPT-2's transposed linears the first
        axis,
            else the last). None unpacks.
        exempt: globs of module names to leave out; "*.head" also means a top-level "head".
        filter_fn: called as filter_fn(module, name) for every linear that is left; False leaves it out.
        seed: for stochastic rounding; the stream of a weight is its module's position among the candidates.

    Raises UserError for a prepared model, a glob without a match, no linear left, weights that are packed
    already, and a weight that is shared with a module left out. A failed call changes nothing.
    """
    if q is None:
        return _unpack_(model)
    q = q if isinstance(q, Quantizer) else Quantizer(q)
    if sites(model):
        raise UserError("the model is prepared for training: call dither.nn.restore_(model) first")
    found = candidates(model)
    left_out = matching(found, [exempt] if isinstance(exempt, str) else list(exempt))
    chosen = [
        (index, name, module)
        for index, (name, module, kind) in enumerate(found)
        if kind == "linear"
        and (isinstance(module, nn.Linear) or is_transposed_linear(module))
        and name not in left_out
        and (filter_fn is None or filter_fn(module, name))
    ]
    if not chosen:
        raise UserError("no linear is left to convert: change exempt= or filter_fn=")
    _check_shared(model, {id(module) for _, _, module in chosen})
    packed: dict[int, nn.Parameter] = {}
    for index, name, module in chosen:
        weight: Any = module.weight
        if isinstance(weight, PackedTensor):
            raise UserError(f"the weight of {name!r} is packed already; convert_(model, None) unpacks it")
        if id(weight) not in packed:
            axis = -1 if isinstance(module, nn.Linear) else 0
            packed[id(weight)] = parameter(quantize(weight, q, axis, seed=seed, stream=index))
    for _, _, module in chosen:
        module.weight = packed[id(module.weight)]
    return model


def _check_shared(model: nn.Module, chosen: set[int]) -> None:
    """No weight to be packed is also that of a module that keeps it plain."""
    owners: dict[int, list[tuple[str, bool]]] = {}
    for name, module in model.named_modules():
        for key, value in module.named_parameters(recurse=False):
            converted = id(module) in chosen and key == "weight"
            owners.setdefault(id(value), []).append((f"{name}.{key}".strip("."), converted))
    for names in owners.values():
        if len({converted for _, converted in names}) > 1:
            listing = ", ".join(repr(name) for name, _ in names)
            raise UserError(f"{listing} are one weight, of which a part would be packed: exempt all or none")


def _unpack_(model: nn.Module) -> nn.Module:
    plain: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for key, value in list(module.named_parameters(recurse=False)):
            if isinstance(value, PackedTensor):
                if id(value) not in plain:
                    plain[id(value)] = nn.Parameter(value.dequantize())
                setattr(module, key, plain[id(value)])
    return model


def save_model(model: nn.Module, path: str | Path) -> None:
    """Write the state dict of a model, packed weights in packed form, to a safetensors file.

    `dither.load_tensors` reads it as well. A tensor under several names is written once. The header keeps
    what a prepared model trains under (`recipe_of`). Raises UserError where names collide; the file is
    written aside and renamed.
    """
    entries: dict[str, Any] = {}
    described: dict[str, dict[str, Any]] = {}
    first: dict[tuple[Any, ...], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{name!r} of the state dict is no tensor, so safetensors cannot hold it")
        packed = isinstance(tensor, PackedTensor)
        memory = tensor.codes if packed else tensor
        key = (memory.data_ptr(), memory.device, tensor.shape, tensor.stride(), tensor.dtype)
        if memory.numel() and key in first:
            tied[name] = first[key]
        elif isinstance(tensor, PackedTensor):
            held = {part: value.cpu() for part, value in tensor.parts.items()}
            described[name] = storage.describe(
                tensor.packing, tensor.source, {part: value.numpy() for part, value in held.items()}
            )
            storage.add(entries, name, storage.flat(name, held))
        else:
            # A view of another tensor would be refused by safetensors: it gets memory of its own.
            storage.add(
                entries, name, {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)}
            )
        first.setdefault(key, name)
    metadata = storage.metadata(described) | ({_TIED: json.dumps(tied)} if tied else {})
    if recipe := recipe_of(model):
        metadata[_RECIPE] = recipe
    storage.write(Path(path), entries, metadata, "torch")


def load_model_(model: nn.Module, path: str | Path, *, any_recipe: bool = False) -> nn.Module:
    """Fill a model, converted or not, from a file of `save_model`; returns `model`.

    Weights that are packed in the file become packed ones, on the device and of the dtype of the parameter
    they replace; names that the file ties stay one parameter. Raises UserError for a damaged file, where
    names or shapes differ, and where the model is prepared for another recipe than the file's weights were
    trained under, unless `any_recipe`; then nothing is changed. A plain model takes any file, and a prepared
    one the weights of a plain one.
    """
    packed, plain, metadata = storage.read(Path(path), "pt")
    if _RECIPE in metadata and not any_recipe and sites(model):
        check_recipe(model, metadata[_RECIPE], way_out="pass any_recipe=True")
    state: dict[str, Any] = dict(plain)
    for name, stored in packed.items():
        parts = {part: torch.from_numpy(value) for part, value in stored.parts.items()}
        state[name] = PackedTensor(stored.layout, stored.dtype_word, dtype_of(stored.dtype_word), parts)
    now = dict(model.state_dict(keep_vars=True))
    tied = _tied(metadata, state, path)
    _check_names(now, state.keys() | tied.keys(), path)
    for name, value in state.items():
        if now[name].shape != value.shape:
            raise UserError(
                f"{name!r} has shape {tuple(value.shape)} in {path} and {tuple(now[name].shape)} here"
            )
        state[name] = _as(now[name], value)
    state |= {name: state[of] for name, of in tied.items()}
    model.load_state_dict(state, assign=True)
    for p in model.parameters():  # torch gives an assigned parameter the flag of the one before
        if isinstance(p, PackedTensor):
            p.requires_grad_(False)
    return model


def _tied(metadata: dict[str, str], state: dict[str, Any], path: str | Path) -> dict[str, str]:
    tied = json.loads(metadata.get(_TIED, "{}"))
    if not isinstance(tied, dict) or not all(isinstance(of, str) and of in state for of in tied.values()):
        raise UserError(f"{path} ties names to tensors that it does not hold")
    return tied


def _check_names(now: dict[str, Any], have: Iterable[str], path: str | Path) -> None:
    for name in now.keys() - set(have):
        raise UserError(f"{path} lacks {name!r}{suggest(name, have)}")
    for name in set(have) - now.keys():
        raise UserError(f"{path} holds {name!r}, which the model has not{suggest(name, now)}")


def _as(old: Tensor, new: Tensor) -> Tensor:
    """A loaded tensor on the device and in the dtype of the one it replaces; a parameter if that is one."""
    dtype = old.dtype if new.is_floating_point() else new.dtype
    new = new.to(device=old.device, dtype=dtype)
    if isinstance(new, PackedTensor):
        return parameter(new)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
