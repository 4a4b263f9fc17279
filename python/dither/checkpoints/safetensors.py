"""The safetensors container: 8 bytes that hold the length of a JSON header, the header, the data.

Written here and not imported, because the package that does it needs torch or ml_dtypes to hold bf16, reads a
file as a whole, and cannot write a file piece by piece. Files written here are read by that package (tested).
Specification: the format section of the safetensors README, v0.4.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dither import headers
from dither.checkpoints.tensors import ITEM_BYTES, TensorInfo, count
from dither.errors import UserError


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor that will be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def read_header(path: Path) -> tuple[list[TensorInfo], dict[str, str]]:
    """The tensors of a file in the order of their data, and its metadata.

    Raises UserError for anything that is not a whole, consistent safetensors file.
    """
    header, begin = headers.read(path)
    try:
        metadata = header.pop("__metadata__", {})
        if not _is_text_map(metadata):
            raise ValueError("__metadata__ is no map of texts")
        tensors = [_tensor(path, name, item, begin) for name, item in header.items()]
        tensors.sort(key=lambda t: (t.offset, t.nbytes))
        _check_data(tensors, begin, path.stat().st_size)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no whole safetensors file ({error}); {headers.DAMAGED}") from None
    return tensors, metadata


def _is_text_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _tensor(path: Path, name: str, item: Any, begin: int) -> TensorInfo:
    dtype, shape, (first, end) = item["dtype"], item["shape"], item["data_offsets"]
    if dtype not in ITEM_BYTES:
        raise ValueError(f"{name!r} has the dtype {dtype!r}, which is not known")
    if not (isinstance(shape, list) and all(map(headers.is_count, [*shape, first, end]))):
        raise ValueError(f"{name!r} has the shape {shape!r}")
    nbytes = count(tuple(shape)) * ITEM_BYTES[dtype]
    if end - first != nbytes:
        raise ValueError(f"{name!r} needs {nbytes} bytes and has {end - first}")
    return TensorInfo(name, dtype, tuple(shape), path, begin + first, nbytes)


def _check_data(tensors: list[TensorInfo], begin: int, size: int) -> None:
    """Without holes and overlaps, and as long as the file."""
    for tensor in tensors:
        if tensor.offset != begin:
            raise ValueError(f"the data of {tensor.name!r} does not follow that before it")
        begin += tensor.nbytes
    if begin != size:
        raise ValueError(f"its header describes {begin} bytes, the file has {size}")


def sort_for_alignment(entries: Sequence[Entry]) -> list[Entry]:
    """Wide elements first, so that every tensor is aligned in the file, as the safetensors package does."""
    return sorted(entries, key=lambda entry: -ITEM_BYTES[entry.dtype])


def build_header(
    entries: Sequence[Entry], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The bytes before the data, and (offset in the file, nbytes) of every entry."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at, places = 0, {}
    for entry in entries:
        assert entry.nbytes == count(entry.shape) * ITEM_BYTES[entry.dtype]
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [at, at + entry.nbytes],
        }
        places[entry.name] = (at, entry.nbytes)
        at += entry.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    return struct.pack("<Q", len(text)) + text, {k: (begin + at, n) for k, (at, n) in places.items()}
