"""One tensor of a checkpoint as it lies in a file, and how its values are read without torch.

dtype words are those of safetensors (`F32`, `BF16`, `I64`, `U8`, ...); GGUF's own block types appear as
`GGUF:Q4_0` and so on. Values come as float32 (float64 for F64), which holds every bf16 and fp16 exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dither.errors import UserError

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
}  # fmt: skip
FLOATS = {"F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16"}
"""The dtypes whose tensors can be quantized, with this package's words for them."""

_CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `nbytes` bytes at `offset` of the file `path`, in C order, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return count(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


def count(shape: tuple[int, ...]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


def read_bytes(info: TensorInfo) -> np.ndarray:
    """The bytes of a tensor as a new uint8 array. Raises UserError where the file became shorter."""
    raw = np.empty(info.nbytes, np.uint8)
    with open(info.path, "rb", buffering=0) as file:
        file.seek(info.offset)
        view, done = raw.data, 0
        while done < info.nbytes:
            got = file.readinto(view[done : done + (1 << 30)])
            if not got:
                raise UserError(
                    f"{info.path} ends within {info.name!r}: the file was cut off or is being written"
                )
            done += got
    return raw


def chunks(info: TensorInfo) -> Iterator[bytes]:
    """The bytes of a tensor in pieces, for copying."""
    with open(info.path, "rb", buffering=0) as file:
        file.seek(info.offset)
        left = info.nbytes
        while left:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise UserError(
                    f"{info.path} ends within {info.name!r}: the file was cut off or is being written"
                )
            left -= len(piece)
            yield piece


def read_values(info: TensorInfo) -> np.ndarray:
    """The values of a floating-point tensor: float32, or float64 for F64."""
    return widen(read_bytes(info), info.dtype).reshape(info.shape)


def read_array(info: TensorInfo) -> np.ndarray:
    """A tensor of any dtype in its shape: floats as `read_values`, integers as they are, the rest as
    bytes."""
    if info.is_float:
        return read_values(info)
    raw, words = read_bytes(info), {"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
    return (
        raw if info.dtype.startswith("GGUF:") else raw.view(words.get(info.dtype, "u1")).reshape(info.shape)
    )


def widen(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes of a floating-point dtype as flat float32 (float64 for F64): exact."""
    if dtype == "BF16":
        bits = raw.view("<u2").astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    return raw.view("<f4" if dtype == "F32" else "<f8")


def narrow(x: np.ndarray, dtype: str) -> np.ndarray:
    """Values as the bytes of a floating-point dtype, rounded to nearest, ties to even; beyond its range
    infinite, NaN stays NaN."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40  # a NaN whose payload lies in the low half would become infinite
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        return np.where(is_nan, quiet, rounded).astype("<u2").reshape(-1).view(np.uint8)
    kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x).astype(kind, copy=False).reshape(-1).view(np.uint8)


_TOP_EXPONENT = {"F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F32": ("<u4", 0x7F800000)}


def overflows(x: np.ndarray, raw: np.ndarray, dtype: str) -> bool:
    """Whether a number became infinite in `raw = narrow(x, dtype)`."""
    if dtype not in _TOP_EXPONENT:
        return False
    word, top = _TOP_EXPONENT[dtype]
    return not np.array_equal((raw.view(word) & top) != top, np.isfinite(x.reshape(-1)))
