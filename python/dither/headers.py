"""The header of a safetensors file: 8 bytes that hold its length, then JSON.

Read here and not by the package of that name, which keeps the last of two tensors of one name and says of a
file that is something else only that its header is too large.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from dither.errors import UserError

MAX_LENGTH = 100_000_000
"""The length above which the safetensors package refuses a header."""

DAMAGED = "it was cut off, or damaged: fetch it again"


def read(path: Path) -> tuple[dict[str, Any], int]:
    """The parsed header and the place where the data begin. Raises UserError for what is none."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > min(size - 8, MAX_LENGTH):
            raise UserError(f"{path} is no safetensors file{_what_it_is(start, size)}")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=no_duplicates)
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no whole safetensors file ({error}); {DAMAGED}") from None
    return header, 8 + length


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads: no name twice (of which it would keep the last)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def is_count(value: Any) -> bool:
    """Whether a value from JSON can be a length, a place or a number of bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _what_it_is(start: bytes, size: int) -> str:
    """What a file that is no safetensors file looks like, and what to do about it."""
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return (
            " but a pickle, which can run any code when it is loaded. Convert it once where you trust it: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')"
        )
    if start.startswith(b"version "):
        return " but a pointer of git-lfs; fetch the file itself with `git lfs pull`"
    if start[:4] == b"GGUF":
        return " but a GGUF file; give it the ending .gguf"
    return ", or it was cut off" if size else ": it is empty"
