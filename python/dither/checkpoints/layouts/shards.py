"""Safetensors files of the output mirror those of the source: every shard becomes one shard of the same
name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dither.checkpoints import safetensors
from dither.checkpoints.layouts.base import PlannedFile
from dither.checkpoints.safetensors import Entry
from dither.checkpoints.source import CONFIG, INDEX, Checkpoint
from dither.checkpoints.tensors import TensorInfo
from dither.errors import UserError


def plan(
    source: Checkpoint,
    out_name: str,
    entries_of: Callable[[TensorInfo], list[Entry]],
    metadata_of: Callable[[Path, Sequence[TensorInfo]], Mapping[str, str]],
) -> list[PlannedFile]:
    """One output file for each file of the source; a single file gets the name `out_name`."""
    files, taken = [], set()
    for path in source.files:
        infos = [info for info in source.tensors.values() if info.path == path]
        parts = {info.name: entries_of(info) for info in infos}
        entries = [entry for part in parts.values() for entry in part]
        for entry in entries:
            if entry.name in taken:
                raise UserError(
                    f"{path} would need the name {entry.name!r} twice: it holds quantized weights already"
                )
            taken.add(entry.name)
        head, places = safetensors.build_header(
            safetensors.sort_for_alignment(entries), metadata_of(path, infos)
        )
        size = max([len(head), *(at + nbytes for at, nbytes in places.values())])
        name = out_name if source.folder is None else path.name
        placed = {k: [(entry, places[entry.name][0]) for entry in part] for k, part in parts.items()}
        files.append(PlannedFile(name, head, size, placed))
    return files


def copied(info: TensorInfo) -> Entry:
    """A tensor that is written as it is."""
    return Entry(info.name, info.dtype, info.shape, info.nbytes)


def index(source: Checkpoint, files: Sequence[PlannedFile]) -> dict[Path, Any]:
    """The index of a sharded folder, where the source has one."""
    if source.index is None:
        return {}
    weight_map = {e.name: f.name for f in files for part in f.parts.values() for e, _ in part}
    total = sum(e.nbytes for f in files for part in f.parts.values() for e, _ in part)
    metadata = {**(source.index.get("metadata") or {}), "total_size": total}
    return {Path(INDEX): {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}}


def config(source: Checkpoint, **changes: Any) -> dict[Path, Any]:
    """config.json of a folder with some keys changed; a key set to None is left out."""
    if source.folder is None or (source.config is None and not any(changes.values())):
        return {}
    merged = {**(source.config or {}), **changes}
    return {Path(CONFIG): {k: v for k, v in merged.items() if not (k in changes and v is None)}}
