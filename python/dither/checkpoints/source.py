"""Open what the user calls a checkpoint: one safetensors file, a Hugging Face folder (whole or in shards), or
a GGUF file.

Only headers are read here; `dither.checkpoints.tensors` reads the values, one tensor at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dither.checkpoints import gguf, safetensors
from dither.checkpoints.tensors import TensorInfo
from dither.errors import UserError

INDEX, CONFIG = "model.safetensors.index.json", "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# weights in other forms, and what tools keep for themselves: not copied beside quantized weights
_NOT_COPIED = (*PICKLES, ".safetensors", ".gguf", ".onnx", ".h5", ".msgpack", ".tflite", ".ot", ".npz")


@dataclass(frozen=True)
class Checkpoint:
    """`tensors` by name, in the order of the files and of the data in them. `folder` is None for a single
    file.

    `metadata` belongs to each safetensors file, `pairs` to a GGUF file, `index` and `config` are the parsed
    JSON files of a folder.
    """

    path: Path
    folder: Path | None
    files: list[Path]
    tensors: dict[str, TensorInfo]
    metadata: dict[Path, dict[str, str]] = field(default_factory=dict)
    pairs: list[gguf.Pair] | None = None
    config: dict[str, Any] | None = None
    index: dict[str, Any] | None = None

    @property
    def is_gguf(self) -> bool:
        return self.pairs is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    def other_files(self) -> Iterator[Path]:
        """What lies beside the weights and goes along: configuration, tokenizer, licence, read-me; relative
        paths. Hidden files and weights in other forms are left out."""
        if self.folder is None:
            return
        for root, folders, names in os.walk(self.folder):
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
            for name in sorted(names):
                path = Path(root, name)
                skipped = name.startswith(".") or path.suffix.lower() in _NOT_COPIED or name.endswith(INDEX)
                if not skipped and path != self.folder / CONFIG and path.is_file():
                    yield path.relative_to(self.folder)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the headers of a checkpoint. Raises UserError for what is none, and says what to do."""
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if path.name == INDEX and path.is_file():
        return _open_folder(path.parent)
    if not path.exists():
        raise UserError(
            f"{path} does not exist; name a .safetensors or .gguf file, or a folder that holds some"
        )
    if path.suffix.lower() == ".gguf":
        tensors, pairs = gguf.read_header(path)
        return Checkpoint(path, None, [path], _by_name(tensors), pairs=pairs)
    tensors, metadata = safetensors.read_header(path)
    return Checkpoint(path, None, [path], _by_name(tensors), {path: metadata})


def _by_name(tensors: list[TensorInfo]) -> dict[str, TensorInfo]:
    return {tensor.name: tensor for tensor in tensors}


def _open_folder(folder: Path) -> Checkpoint:
    index = _read_json(folder / INDEX)
    files = _indexed_files(folder, index) if index is not None else [_only_file(folder)]
    tensors, metadata = {}, {}
    for file in files:
        found, metadata[file] = safetensors.read_header(file)
        for tensor in found:
            if tensor.name in tensors:
                raise UserError(
                    f"{tensor.name!r} lies in {tensors[tensor.name].path.name} and in {file.name}; the "
                    f"folder {folder} mixes two checkpoints: keep one"
                )
            tensors[tensor.name] = tensor
    if index is not None:
        _check_index(folder, index, tensors)
    return Checkpoint(folder, folder, files, tensors, metadata, None, _read_json(folder / CONFIG), index)


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error}); fetch it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object; fetch it again")
    return value


def _indexed_files(folder: Path, index: dict[str, Any]) -> list[Path]:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()) or not places:
        raise UserError(f"{folder / INDEX} has no weight_map; fetch it again")
    files = []
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise UserError(f"{folder / INDEX} names {name!r}, which lies outside the folder")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing, and {INDEX} needs it; fetch it")
        files.append(folder / name)
    return files


def _check_index(folder: Path, index: dict[str, Any], tensors: dict[str, TensorInfo]) -> None:
    for name, file in index["weight_map"].items():
        if name not in tensors or tensors[name].path.name != file:
            raise UserError(
                f"{INDEX} says that {name!r} lies in {file}, and it does not; fetch {folder} again"
            )
    if extra := sorted(tensors.keys() - index["weight_map"].keys()):
        raise UserError(
            f"{extra[0]!r} lies in {tensors[extra[0]].path} but not in {INDEX}; fetch {folder} again"
        )


def _only_file(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if (folder / "model.safetensors").is_file():
        return folder / "model.safetensors"
    if files:
        raise UserError(
            f"{folder} holds {len(files)} safetensors files and no {INDEX} that says how they belong "
            "together; name one of them, or fetch the index"
        )
    if pickles := sorted(p for p in folder.iterdir() if p.suffix.lower() in PICKLES):
        raise UserError(
            f"{folder} holds no safetensors file; {pickles[0].name} is a pickle, which can run any code when "
            "it is loaded. Convert it once where you trust it, for example with transformers: "
            "save_pretrained(folder, safe_serialization=True)"
        )
    if ggufs := sorted(folder.glob("*.gguf")):
        raise UserError(
            f"{folder} holds no safetensors file; for the GGUF file give its own name, {ggufs[0]}"
        )
    raise UserError(
        f"{folder} holds no safetensors file; name a .safetensors or .gguf file or a model's folder"
    )
