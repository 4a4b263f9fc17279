"""This package's own layout: packed safetensors as `dither.load_tensors` reads them (see
`dither.storage`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dither import storage
from dither.blocks import Layout as Blocks
from dither.checkpoints.layouts import shards
from dither.checkpoints.layouts.base import Choice, PlannedFile, Stored
from dither.checkpoints.safetensors import Entry
from dither.checkpoints.source import Checkpoint
from dither.checkpoints.tensors import FLOATS, ITEM_BYTES, TensorInfo, count
from dither.errors import UserError
from dither.packing import storable
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor


def stored_bytes(shape: tuple[int, ...], q: Quantizer) -> int:
    """Bytes of an array of that shape in packed form."""
    return Blocks(q, shape, max(len(shape) - 1, 0)).nbytes


class Packed:
    name, suffix = "dither", ".safetensors"

    def check(self, q: Quantizer) -> None:
        storable(q, (1,), 0)

    def obstacle(self, info: TensorInfo, q: Quantizer) -> str | None:
        return None

    def entries(self, info: TensorInfo, q: Quantizer | None) -> list[Entry]:
        if q is None:
            return [shards.copied(info)]
        found = []
        for part, (shape, word) in storable(q, info.shape, -1).parts.items():
            dtype = {"u8": "U8", "fp32": "F32"}[word]
            found.append(Entry(f"{info.name}.{part}", dtype, shape, count(shape) * ITEM_BYTES[dtype]))
        return found

    def encode(self, t: QuantizedTensor, info: TensorInfo) -> list[np.ndarray]:
        held = t.parts()
        return [np.asarray(held[part]) for part in t.layout.parts]

    def decode(self, parts: Sequence[np.ndarray], info: TensorInfo, q: Quantizer) -> np.ndarray:
        names = storable(q, info.shape, -1).parts
        t = QuantizedTensor(q, info.shape, -1, FLOATS[info.dtype], **dict(zip(names, parts, strict=True)))
        return t.dequantize("fp64" if info.dtype == "F64" else "fp32")

    def plan(self, source: Checkpoint, choice: Choice, out_name: str) -> list[PlannedFile]:
        entries = {name: self.entries(info, choice[name]) for name, info in source.tensors.items()}

        def metadata(path: Path, infos: Sequence[TensorInfo]) -> dict[str, str]:
            described = {
                info.name: storage.describe(storable(q, info.shape, -1), FLOATS[info.dtype])
                for info in infos
                if (q := choice[info.name]) is not None
            }
            kept = {k: v for k, v in source.metadata[path].items() if k != storage.KEY}
            return kept | storage.metadata(described)

        return shards.plan(source, out_name, lambda info: entries[info.name], metadata)

    def documents(self, source: Checkpoint, choice: Choice, plan: Sequence[PlannedFile]) -> dict[Path, Any]:
        return shards.index(source, plan) | shards.config(source)

    def find(self, source: Checkpoint) -> list[Stored]:
        words, found = {word: dtype for dtype, word in FLOATS.items()}, []
        for path, metadata in source.metadata.items():
            for name, about in storage.descriptions(metadata).items():
                q, shape = about.layout.quantizer, about.layout.shape
                was = TensorInfo(name, words[about.dtype_word], shape, path, 0, 0)
                if about.layout.axis != max(len(shape) - 1, 0):
                    raise UserError(f"{name!r} of {path} has its blocks along another axis than the last")
                entries = self.entries(was, q)
                for entry in entries:
                    there = source.tensors.get(entry.name)
                    if there is None or (there.dtype, there.shape) != (entry.dtype, entry.shape):
                        raise UserError(f"{path} has no {entry.name!r} as {name!r} needs it; make it again")
                found.append(Stored(was, q, [source.tensors[entry.name] for entry in entries]))
        return found
