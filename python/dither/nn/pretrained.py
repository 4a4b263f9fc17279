"""Models of Hugging Face folders (config.json and safetensors), by the library `transformers`, without
network.

model = dither.nn.from_folder("all-MiniLM-L6-v2")       # train it, under a recipe or a method
dither.nn.to_folder(model, "trained", like="all-MiniLM-L6-v2")
dither.checkpoints.quantize("trained", "int4_g32", "packed", layout="compressed-tensors")
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dither.errors import UserError, require
from dither.nn.packed import PackedTensor


def from_folder(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The model of a folder, of the class that its config.json names, in eval mode; raises UserError where
    the
    folder is none of that kind or `transformers` does not know the class."""
    path = Path(folder)
    if not (path / "config.json").is_file() or not list(path.glob("*.safetensors")):
        raise UserError(f"{path} is no Hugging Face folder: it needs config.json and *.safetensors")
    require("transformers", "hf")
    import transformers

    names = json.loads((path / "config.json").read_text()).get("architectures") or ["AutoModel"]
    kind: Any = getattr(transformers, names[0], None)
    if kind is None:
        raise UserError(
            f"{path}: config.json asks for the class {names[0]!r}, which is not in transformers "
            f"{transformers.__version__}; load the model by its own code, and prepare_ that"
        )
    return kind.from_pretrained(path, dtype=dtype, local_files_only=True, use_safetensors=True)


def to_folder(model: nn.Module, folder: str | Path, *, like: str | Path | None = None) -> None:
    """Write a model of `transformers` as a new folder: config.json and the values of its weights, packed ones
    too. `like`: the folder it came from, whose other files (tokenizer, pooling, ...) are copied.

    Raises UserError where the folder exists or the model is none of `transformers`. Inside
    `method.deployed()` these are the weights on their grid: `dither.checkpoints.quantize` then packs them
    with the same quantizer without changing them, but for the methods with a grid of their own (GPTQ, LSQ,
    ...), whose packed weights `save_model` keeps.
    """
    path = Path(folder)
    if path.exists():
        raise UserError(f"{path} exists already; choose another folder")
    if not hasattr(model, "save_pretrained"):
        raise UserError(
            f"{type(model).__name__} is no model of transformers: use dither.nn.save_model(model, file)"
        )
    if like is not None:
        shutil.copytree(like, path, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin", "config.json"))
    state = {
        name: value.dequantize() if isinstance(value, PackedTensor) else value
        for name, value in model.state_dict().items()
    }
    writer: Any = model
    writer.save_pretrained(path, state_dict=state)
