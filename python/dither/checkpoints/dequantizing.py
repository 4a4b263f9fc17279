"""Turn a quantized checkpoint back into plain safetensors, whichever layout it is in."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dither.checkpoints.job import SUMMARY, Job, check_free
from dither.checkpoints.layouts import LAYOUTS, shards
from dither.checkpoints.layouts.base import Layout, Part, PlannedFile, Stored
from dither.checkpoints.quantizing import output, settings_of
from dither.checkpoints.safetensors import Entry
from dither.checkpoints.source import Checkpoint, open_checkpoint
from dither.checkpoints.summary import Observer, Row, Summary, describe
from dither.checkpoints.tensors import FLOATS, ITEM_BYTES, TensorInfo, chunks, narrow, overflows, read_array
from dither.errors import UserError, suggest

WORDS = {word: dtype for dtype, word in FLOATS.items()}
"""fp32 and so on to the words of safetensors."""


def dequantize(
    path: str | os.PathLike[str],
    dtype: str,
    out: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    dry_run: bool = False,
    observer: Observer | None = None,
) -> Summary:
    """Write every quantized tensor of a checkpoint as `dtype` (bf16, fp16, fp32, fp64), the others as they
    are.

    Reads this package's layout, compressed-tensors (its weights; also those of other programs) and the GGUF
    types that `quantize` writes. Raises UserError where nothing is quantized, and where `dtype` cannot hold a
    value.
    """
    if dtype not in WORDS:
        raise UserError(f"--dequantize is one of {', '.join(WORDS)}, not {dtype!r}{suggest(dtype, WORDS)}")
    source = open_checkpoint(path)
    how, found = find(source)
    metadata = {file: _plain_metadata(source, file) for file in source.files}
    plain = replace(source, metadata=metadata, pairs=None)
    target, folder = output(plain, out, dtype, ".safetensors")
    stored = {item.parts[0].name: item for item in found}
    hidden = {part.name for item in found for part in item.parts[1:]}

    def entries(info: TensorInfo) -> list[Entry]:
        if info.name in hidden:
            return []
        item = stored.get(info.name)
        return [shards.copied(info)] if item is None else [_entry(item, WORDS[dtype])]

    plan = shards.plan(plain, target.name, entries, lambda file, _: plain.metadata[file])
    rows = {n: _row(n, source, stored.get(n), part) for f in plan for n, part in f.parts.items() if part}
    plan = [PlannedFile(f.name, f.head, f.size, {n: p for n, p in f.parts.items() if p}) for f in plan]
    if dry_run:
        check_free(target, folder, force)
        return Summary(list(rows.values()), target, "safetensors")
    settings = settings_of(source, {n: str(i.quantizer) for n, i in stored.items()}, dtype, None)
    with Job(target, folder, plan, settings, force) as job:
        resumed = len(job.rows)

        def convert(name: str, part: Part) -> tuple[list[Iterable[Any]], Row]:
            item = stored.get(name)
            pieces = chunks(source.tensors[name]) if item is None else [_values(how, item, WORDS[dtype])]
            return [pieces], rows[name]

        job.run(rows, convert, observer or Observer())
        summary = Summary(list(rows.values()), target, "safetensors", resumed)
        documents = shards.index(plain, plan) | shards.config(plain, quantization_config=None)
        documents |= {Path(SUMMARY): describe(summary)} if folder else {}
        beside = source.other_files() if folder and source.folder is not None else ()
        job.finish(documents, [(source.path / path, path) for path in beside if path.name != SUMMARY])
    return summary


def find(source: Checkpoint) -> tuple[Layout, list[Stored]]:
    """The layout of a quantized checkpoint, and its quantized tensors. Raises UserError where there are
    none."""
    for how in LAYOUTS.values():
        if found := how.find(source):
            return how, found
    raise UserError(f"{source.path} holds no quantized tensors: neither {', nor '.join(LAYOUTS)}")


def _plain_metadata(source: Checkpoint, file: Path) -> dict[str, str]:
    """Without what describes the packed tensors."""
    kept = {k: v for k, v in source.metadata.get(file, {}).items() if not k.startswith("dither")}
    return kept or {"format": "pt"}


def _entry(item: Stored, dtype: str) -> Entry:
    info = item.info
    return Entry(info.name, dtype, info.shape, info.size * ITEM_BYTES[dtype])


def _row(name: str, source: Checkpoint, item: Stored | None, part: Part) -> Row:
    after = sum(entry.nbytes for entry, _ in part)
    if item is None:
        info = source.tensors[name]
        return Row(name, info.shape, info.dtype, None, "not quantized", info.nbytes, after)
    before = sum(part.nbytes for part in item.parts)
    return Row(item.info.name, item.info.shape, part[0][0].dtype, str(item.quantizer), None, before, after)


def _values(how: Layout, item: Stored, dtype: str) -> np.ndarray:
    """The bytes of a quantized tensor in `dtype`."""
    x = how.decode([read_array(part) for part in item.parts], item.info, item.quantizer)
    raw = narrow(x, dtype)
    if overflows(x, raw, dtype):
        raise UserError(
            f"{item.info.name!r} has values up to {np.abs(x).max():.4g}, beyond the range "
            f"of {FLOATS[dtype]}; use fp32"
        )
    return raw
