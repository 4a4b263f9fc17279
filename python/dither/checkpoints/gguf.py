"""The GGUF container (ggml's docs/gguf.md, versions 2 and 3): key-value pairs, tensor records, aligned data.

Read so that a file made by llama.cpp's converter keeps every pair byte for byte (the tokenizer, the shapes of
the model) while its tensors are stored in another type; written with the header first, so that the data can
follow piece by piece. The package `gguf` is used by the tests alone, as a reader that is not ours.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dither.checkpoints.safetensors import Entry
from dither.checkpoints.tensors import TensorInfo, count
from dither.errors import UserError

MAGIC, VERSION, ALIGNMENT = b"GGUF", 3, 32

# name: (number in ggml, elements a block, bytes a block); the first rows are plain dtypes
TYPES: dict[str, tuple[int, int, int]] = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "BF16": (30, 1, 2), "F64": (28, 1, 8),
    "I8": (24, 1, 1), "I16": (25, 1, 2), "I32": (26, 1, 4), "I64": (27, 1, 8),
    "GGUF:Q4_0": (2, 32, 18), "GGUF:Q4_1": (3, 32, 20), "GGUF:Q5_0": (6, 32, 22), "GGUF:Q5_1": (7, 32, 24),
    "GGUF:Q8_0": (8, 32, 34), "GGUF:Q2_K": (10, 256, 84), "GGUF:Q3_K": (11, 256, 110),
    "GGUF:Q4_K": (12, 256, 144), "GGUF:Q5_K": (13, 256, 176), "GGUF:Q6_K": (14, 256, 210),
    "GGUF:MXFP4": (39, 32, 17), "GGUF:NVFP4": (40, 64, 36),
}  # fmt: skip
_BY_NUMBER = {number: name for name, (number, _, _) in TYPES.items()}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UINT32, _STRING, _ARRAY = 4, 8, 9


@dataclass(frozen=True, slots=True)
class Pair:
    """A key-value pair; `raw` is its record in the file. `value` is None for arrays."""

    key: str
    value: Any
    raw: bytes


def type_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of that type. Blocks run along the last axis."""
    _, block, size = TYPES[dtype]
    return count(shape) // block * size


class _Reader:
    """Numbers and texts from a file; what is too long for the file is refused before memory is asked for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def take(self, n: int) -> bytes:
        if n > self.size - self.file.tell():
            raise ValueError("it ends within its header")
        return self.file.read(n)

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            item, n = self.number("I"), self.number("Q")
            if item in _SCALARS:
                self.take(n * struct.calcsize("<" + _SCALARS[item]))
            else:
                if n > self.size:
                    raise ValueError("an array is longer than the file")
                for _ in range(n):
                    self.value(item)
            return None
        if kind not in _SCALARS:
            raise ValueError(f"a value has the unknown type {kind}")
        return self.number(_SCALARS[kind])

    def pair(self) -> Pair:
        begin = self.file.tell()
        key = self.text()
        value = self.value(self.number("I"))
        end = self.file.tell()
        self.file.seek(begin)
        return Pair(key, value, self.file.read(end - begin))

    def tensor(self, path: Path) -> TensorInfo:
        name, dims = self.text(), self.number("I")
        if dims > 8:
            raise ValueError(f"{name!r} has {dims} dimensions")
        shape = tuple(self.number("Q") for _ in range(dims))[::-1]
        number, offset = self.number("I"), self.number("Q")
        if number not in _BY_NUMBER:
            raise ValueError(f"{name!r} has ggml's type {number}, which is not known here")
        dtype = _BY_NUMBER[number]
        if (shape[-1] if shape else 1) % TYPES[dtype][1]:
            raise ValueError(f"the rows of {name!r} are no whole blocks of {dtype}")
        return TensorInfo(name, dtype, shape, path, offset, type_bytes(dtype, shape))


def read_header(path: Path) -> tuple[list[TensorInfo], list[Pair]]:
    """The tensors of a file in the order of their data, and its key-value pairs.

    Raises UserError for anything that is not a whole, consistent little-endian GGUF file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(4) != MAGIC:
            raise UserError(f"{path} is no GGUF file (it does not begin with GGUF)")
        reader = _Reader(file, size)
        try:
            version = reader.number("I")
            if version not in (2, 3):
                raise ValueError(f"version {version} is neither 2 nor 3; a big-endian file is not read")
            tensors, pairs = reader.number("Q"), reader.number("Q")
            found = [reader.pair() for _ in range(pairs)]
            infos = [reader.tensor(path) for _ in range(tensors)]
            align = _alignment(found)
            begin = -(-file.tell() // align) * align
            infos = [_moved(info, begin) for info in infos]
            _check(infos, align, size)
        except (ValueError, struct.error, RecursionError) as error:
            raise UserError(f"{path} is no whole GGUF file ({error}): fetch or convert it again") from None
    return sorted(infos, key=lambda t: t.offset), found


def _moved(info: TensorInfo, begin: int) -> TensorInfo:
    return TensorInfo(info.name, info.dtype, info.shape, info.path, begin + info.offset, info.nbytes)


def _alignment(pairs: Sequence[Pair]) -> int:
    align = next((p.value for p in pairs if p.key == "general.alignment"), ALIGNMENT)
    if not isinstance(align, int) or align <= 0 or align & (align - 1):
        raise ValueError(f"the alignment {align!r} is no power of two")
    return align


def _check(infos: Sequence[TensorInfo], align: int, size: int) -> None:
    end = 0
    for info in sorted(infos, key=lambda t: t.offset):
        if info.offset % align or info.offset < end:
            raise ValueError(f"the data of {info.name!r} overlaps another tensor's or is not aligned")
        end = info.offset + info.nbytes
        if end > size:
            raise ValueError(f"{info.name!r} ends at byte {end}, the file at {size}")
    if len({info.name for info in infos}) != len(infos):
        raise ValueError("a tensor's name stands twice in the header")


def text_pair(key: str, value: str) -> Pair:
    return Pair(key, value, _text(key) + struct.pack("<I", _STRING) + _text(value))


def uint32_pair(key: str, value: int) -> Pair:
    return Pair(key, value, _text(key) + struct.pack("<II", _UINT32, value))


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def build_header(entries: Sequence[Entry], pairs: Sequence[Pair]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The bytes before the data, and (offset in the file, nbytes) of every entry."""
    align = _alignment(pairs)
    head = MAGIC + struct.pack("<IQQ", VERSION, len(entries), len(pairs)) + b"".join(p.raw for p in pairs)
    at, records, relative = 0, [], {}
    for entry in entries:
        dims = entry.shape[::-1]
        record = _text(entry.name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
        records.append(record + struct.pack("<IQ", TYPES[entry.dtype][0], at))
        relative[entry.name] = (at, entry.nbytes)
        at += -(-entry.nbytes // align) * align
    head += b"".join(records)
    head += bytes(-len(head) % align)
    return head, {name: (len(head) + at, nbytes) for name, (at, nbytes) in relative.items()}
