"""Checkpoints that survive a kill at any moment.

    checkpoints/step-00000100.safetensors   model.*, optimizer.*, method.*, recipe.* tensors
    checkpoints/step-00000100.json          step, length of metrics.jsonl, scalars, size and SHA-256 of the
    tensors

The tensors are written aside, synced and renamed; only then the JSON, in the same way. A checkpoint exists
when its JSON does, and is valid when the tensors match it, so a half-written one is never taken for a whole
one, and an older one is removed only after a newer one is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dither.nn as dnn
from dither.errors import UserError
from dither.files import disk_errors, replacing, write_json

FOLDER = "checkpoints"
FULL = "Free some space, then resume the run; the checkpoints before it are valid."


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: `header` is the JSON, `tensors` the content of the safetensors file `path`."""

    path: Path
    header: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def step(self) -> int:
        return self.header["step"]


def save(
    run_dir: Path,
    step: int,
    metrics_bytes: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Mapping[str, Any],
    keep: int,
) -> None:
    """Write the checkpoint of `step`, then remove all but the newest `keep`."""
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{name}.{key}"] = value
    tensors |= {f"recipe.{name}": value for name, value in dnn.state_dict(model).items()}
    scalars = {}
    for name, value in method.items():
        if isinstance(value, Tensor):
            tensors[f"method.{name}"] = value
        else:
            scalars[name] = value
    path = folder / f"step-{step:08d}.safetensors"
    with disk_errors(path, FULL):
        with replacing(path) as aside:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside)
        header = {
            "step": step,
            "metrics_bytes": metrics_bytes,
            "method": scalars,
            "size": path.stat().st_size,
            "sha256": _sha256(path),
        }
        write_json(path.with_suffix(".json"), header)
    for old in sorted(folder.glob("step-*.json"), reverse=True)[keep:]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)


def load_newest(run_dir: Path, metrics_size: int, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest valid checkpoint, None where none was ever written; leftovers of a killed writer are
    removed.

    A damaged one is passed over with a message. Raises UserError when every checkpoint is damaged.
    `metrics_size` is the length of metrics.jsonl: a checkpoint whose rows are lost cannot be continued
    from."""
    folder = run_dir / FOLDER
    if not folder.is_dir():
        return None
    for leftover in folder.glob("*.tmp-*"):
        leftover.unlink()
    headers = sorted(folder.glob("step-*.json"), reverse=True)
    for path in headers:
        try:
            return _load(path, metrics_size)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            say(
                f"checkpoint {path.with_suffix('.safetensors')} cannot be used ({error}); trying the one "
                "before"
            )
    if headers:
        raise UserError(
            f"no checkpoint in {folder} can be used (the reasons are above); restore the files from a copy, "
            "or train again in another directory"
        )
    return None


def _load(path: Path, metrics_size: int) -> Checkpoint:
    header = json.loads(path.read_text())
    tensors = path.with_suffix(".safetensors")
    if tensors.stat().st_size != header["size"]:
        raise ValueError(f"it has {tensors.stat().st_size} bytes instead of {header['size']}: it was cut off")
    if _sha256(tensors) != header["sha256"]:
        raise ValueError("its content does not match its SHA-256")
    if header["metrics_bytes"] > metrics_size:
        raise ValueError("metrics.jsonl is shorter than it was then")
    return Checkpoint(tensors, header, load_file(tensors))


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Copy weights, the recipe's scaling history and optimizer state in place (the fresh tensors keep their
    alignment); return the method's state."""
    tensors = checkpoint.tensors
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            prefix = f"optimizer.{name}."
            state = {
                key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
            }
            if state:
                optimizer.state[parameter] = {key: value.clone() for key, value in state.items()}
    dnn.load_state_dict_(model, _under("recipe.", tensors))
    return {**checkpoint.header["method"], **_under("method.", tensors)}


OTHERS = ("scores.", "weight_average.")
"""Beginnings of names in the state beside the method's: dither.train.scoring, dither.train.averaging."""


def of_method(state: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a checkpoint's state for the method."""
    return {name: value for name, value in state.items() if not name.startswith(OTHERS)}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def write_model(run_dir: Path, model: nn.Module) -> None:
    """`model.safetensors`: the trained weights under the model's own names (a tied weight once, under its
    first)."""
    path = run_dir / "model.safetensors"
    with disk_errors(path, FULL):
        with replacing(path) as aside:
            save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, aside)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
