"""This package's own layout: packed safetensors as `dither.load_tensors` reads them (see
`dither.storage`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dither import storage
from dither.blocks import Layout as Blocks
from dither.checkpoints.coded import Coded
from dither.checkpoints.layouts import shards
from dither.checkpoints.layouts.base import Choice, PlannedFile, Stored
from dither.checkpoints.safetensors import Entry
from dither.checkpoints.source import Checkpoint
from dither.checkpoints.tensors import FLOATS, TensorInfo
from dither.errors import UserError
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor, storable


def stored_bytes(shape: tuple[int, ...], q: Quantizer) -> int:
    """Bytes of an array of that shape in packed form; zero points have the width of a code."""
    blocks = Blocks(q, shape, max(len(shape) - 1, 0))
    zeros = int(np.prod(blocks.scales_shape or ())) if q.zero_point else 0
    return blocks.nbytes + -(-zeros * q.format.bits // 8)


class Packed:
    name, suffix = "dither", ".safetensors"

    def check(self, q: Quantizer) -> None:
        storable(q, (1,), 0)

    def obstacle(self, info: TensorInfo, q: Quantizer) -> str | None:
        return None

    def entries(self, info: TensorInfo, q: Quantizer | None) -> list[Entry]:
        if q is None:
            return [shards.copied(info)]
        b = storable(q, info.shape, -1)
        found = [Entry(f"{info.name}.codes", "U8", b.codes_shape, int(np.prod(b.codes_shape)))]
        if b.scales_shape is not None:
            dtype, width = ("F32", 4) if b.scales_word == "fp32" else ("U8", 1)
            found.append(
                Entry(f"{info.name}.scales", dtype, b.scales_shape, int(np.prod(b.scales_shape)) * width)
            )
        if q.tensor_scale:
            found.append(Entry(f"{info.name}.tensor_scale", "F32", (), 4))
        return found

    def encode(self, t: Coded, info: TensorInfo) -> list[np.ndarray]:
        parts = (t.codes, t.scales, t.tensor_scale)
        return [np.asarray(part) for part in parts if part is not None]

    def decode(self, parts: Sequence[np.ndarray], info: TensorInfo, q: Quantizer) -> np.ndarray:
        scales = parts[1] if len(parts) > 1 else None
        tensor_scale = float(parts[2]) if len(parts) > 2 else None
        t = QuantizedTensor(q, info.shape, -1, FLOATS[info.dtype], parts[0], scales, tensor_scale)
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
