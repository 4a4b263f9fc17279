"""Packed arrays in safetensors files, described by the file itself.

The array NAME lies in the tensors NAME.codes, NAME.scales, NAME.tensor_scale and NAME.zero_points (those it
has); other tensors may stand beside them. The file's metadata holds one entry, "dither": the JSON text

    {"version": 1, "tensors": {NAME: {"quantizer": "nvfp4", "shape": [64, 256], "axis": 1, "dtype": "bf16",
                                      "crc32": "5d41402a"}}}

where quantizer is the print of the Quantizer, dtype the type of the array before, and crc32 (optional) the
check sum over the description without it (JSON, keys sorted, no spaces) followed by the bytes of the parts in
the order above. Nothing larger than the header is read before the description agrees with the file, and
nothing is returned that no quantizer could have written.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dither import files, headers
from dither.blocks import Layout
from dither.errors import UserError, require
from dither.functions import decode
from dither.quantizer import Quantizer

VERSION = 1
KEY = "dither"
"""Of the metadata entry."""

PARTS = ("codes", "scales", "tensor_scale", "zero_points")
DTYPES = ("fp32", "fp64", "fp16", "bf16")
_WORDS = {"u8": "U8", "fp32": "F32"}
_EIGHT_BITS = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}
"""Types of FP8 in a file, as ml_dtypes calls them."""
_BITS = 1 << 63
"""No file describes an array of so many bits."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A packed array in a file: its description, and (once read) its parts by name."""

    layout: Layout
    dtype_word: str
    crc32: str | None
    parts: Mapping[str, np.ndarray]


def describe(
    layout: Layout, dtype_word: str, parts: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """The description of one packed array, with a check sum where its parts are given."""
    q, shape = str(layout.quantizer), list(layout.shape)
    text = {"quantizer": q, "shape": shape, "axis": layout.axis, "dtype": dtype_word}
    return text if parts is None else text | {"crc32": _checksum(text, parts)}


def metadata(descriptions: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """The metadata of a file that holds the described arrays."""
    return {KEY: json.dumps({"version": VERSION, "tensors": dict(descriptions)}, separators=(",", ":"))}


def _checksum(description: Mapping[str, Any], parts: Mapping[str, np.ndarray]) -> str:
    crc = zlib.crc32(json.dumps(description, sort_keys=True, separators=(",", ":")).encode())
    for name in PARTS:
        if name in parts:
            crc = zlib.crc32(np.ascontiguousarray(parts[name]).reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def flat(name: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an array by their names in a file."""
    return {f"{name}.{part}": value for part, value in parts.items()}


def add(entries: dict[str, Any], name: str, new: Mapping[str, Any]) -> None:
    """Add the tensors of `name` to those of a file. UserError where a name would stand twice."""
    for entry, value in new.items():
        if entry in entries or entry == "__metadata__":
            raise UserError(f"the file cannot hold {name!r}: the name {entry!r} is taken; rename one of them")
        entries[entry] = value


def write(path: Path, tensors: Mapping[str, Any], described: Mapping[str, str], framework: str) -> None:
    """Write a file whole: aside, fsync, rename. `framework`: "numpy" or "torch", what the tensors are."""
    library, package = (
        require(f"safetensors.{framework}", "safetensors"),
        require("safetensors", "safetensors"),
    )
    with files.disk_errors(path, "free some space and save again"), files.replacing(path) as aside:
        try:
            library.save_file(dict(tensors), str(aside), metadata=dict(described))
        except package.SafetensorError as error:
            if "Unknown dtype" not in str(error):
                raise
            raise UserError(f"{path} cannot hold these tensors: {error}") from error


def read(path: Path, framework: str) -> tuple[dict[str, Stored], dict[str, Any], dict[str, str]]:
    """The packed arrays of a file, the other tensors in it (as arrays of `framework`: "np" or "pt"), and its
    metadata.

    Raises UserError for a file that is damaged, cut off, or describes what it does not hold.
    """
    package = require("safetensors", "safetensors")
    try:
        header, begin = headers.read(path)  # no name twice
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    try:
        with package.safe_open(str(path), framework="np") as file:
            names = set(file.keys())
            entries = {name: file.get_slice(name) for name in names}
            shapes = {name: (tuple(e.get_shape()), e.get_dtype()) for name, e in entries.items()}
            metadata = dict(file.metadata() or {})
            found = descriptions(metadata)
            parts = {f"{name}.{part}" for name, stored in found.items() for part in stored.layout.parts}
            for name, stored in found.items():
                _check_entries(name, stored.layout, shapes)
            packed = {name: _load(file, name, stored) for name, stored in found.items()}
        if framework == "np" and any(dtype.startswith(("BF", "F8", "F4")) for _, dtype in shapes.values()):
            require("ml_dtypes", "safetensors")  # which teaches numpy these types
        with package.safe_open(str(path), framework=framework) as file:
            special = ("F8", "F4") if framework == "np" else ()
            plain = {
                name: _small_floats(path, begin, name, header[name])
                if shapes[name][1].startswith(special)
                else file.get_tensor(name)
                for name in sorted(names - parts)
            }
        return packed, plain, metadata
    except (ValueError, RecursionError, OSError, package.SafetensorError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _small_floats(path: Path, begin: int, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    """A plain tensor of FP8, which the safetensors package looks for in numpy itself."""
    if entry["dtype"] not in _EIGHT_BITS:
        raise UserError(f"{name!r} is {entry['dtype']}, for which numpy has no type: load it with torch")
    dtype = np.dtype(_EIGHT_BITS[entry["dtype"]])
    start, end = entry["data_offsets"]
    return np.fromfile(path, dtype, end - start, offset=begin + start).reshape(entry["shape"])


def descriptions(metadata: Mapping[str, str]) -> dict[str, Stored]:
    """The packed arrays that a file's metadata describes, without their parts; none in other files.

    Raises UserError for a description that cannot be true.
    """
    if KEY not in metadata:
        return {}
    text = json.loads(metadata[KEY], object_pairs_hook=headers.no_duplicates)
    if not isinstance(text, dict) or not isinstance(text.get("version"), int) or text["version"] < 1:
        raise UserError(f"the metadata entry {KEY!r} does not describe packed arrays")
    if text["version"] > VERSION:
        raise UserError(
            f"it has version {text['version']} of the packed layout and this package knows {VERSION}: "
            "install a newer dither"
        )
    if not isinstance(text.get("tensors"), dict):
        raise UserError(f"the metadata entry {KEY!r} lists no tensors")
    return {name: _description(name, item) for name, item in text["tensors"].items()}


def _description(name: str, item: Any) -> Stored:
    fields = {"quantizer", "shape", "axis", "dtype"}
    if not isinstance(item, dict) or item.keys() - {"crc32"} != fields:
        raise UserError(f"{name!r} is not described by quantizer, shape, axis and dtype alone")
    shape, axis, crc32 = item["shape"], item["axis"], item.get("crc32")
    if not isinstance(shape, list) or not all(headers.is_count(n) for n in [*shape, axis]):
        raise UserError(f"{name!r} has the shape {shape!r} and the axis {axis!r}")
    if axis >= max(len(shape), 1):
        raise UserError(f"{name!r} has blocks along axis {axis}, but {len(shape)} dimensions")
    if item["dtype"] not in DTYPES or not isinstance(item["quantizer"], str):
        raise UserError(f"{name!r} has the type {item['dtype']!r} and the quantizer {item['quantizer']!r}")
    if crc32 is not None and not isinstance(crc32, str):
        raise UserError(f"{name!r} has the check sum {crc32!r}")
    bits = 32
    for n in shape:
        bits *= max(n, 1)
    if bits >= _BITS:
        raise UserError(f"{name!r} has the shape {shape!r}, which no memory holds")
    return Stored(Layout(Quantizer(item["quantizer"]), tuple(shape), axis), item["dtype"], crc32, {})


def _check_entries(name: str, layout: Layout, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """The file holds the parts that the description asks for, in their shapes, and no others of that name."""
    for part in PARTS:
        have, want = shapes.get(f"{name}.{part}"), layout.parts.get(part)
        if have is not None and want is None:
            raise UserError(f"{name!r} under {layout.quantizer} has no {part}, but the file does")
        if want is not None and have != (want[0], _WORDS[want[1]]):
            is_there = f"is {have[1]} of shape {have[0]}" if have else "is missing"
            raise UserError(
                f"{name}.{part} {is_there}; {layout.quantizer} asks for {want[1]} of shape {want[0]}"
            )


def _load(file: Any, name: str, stored: Stored) -> Stored:
    parts = {part: file.get_tensor(f"{name}.{part}") for part in stored.layout.parts}
    described = describe(stored.layout, stored.dtype_word, parts)
    if stored.crc32 not in (None, described["crc32"]):
        raise UserError(
            f"the data of {name!r} are damaged: their check sum differs from the one stored with them"
        )
    check_content(name, stored.layout, parts)
    return Stored(stored.layout, stored.dtype_word, stored.crc32, parts)


def check_content(name: str, layout: Layout, parts: Mapping[str, np.ndarray]) -> None:
    """Refuse what no quantizer writes: bits beyond the end of a row, scales that are negative or infinite, a
    NaN tensor scale beside blocks that are not NaN."""
    q = layout.quantizer
    used = (layout.shape[-1] if layout.shape else 1) * layout.width % 8
    if used and (parts["codes"][..., -1] >> used).any():
        raise UserError(f"{name}.codes has bits set behind the end of a row")
    if q.block is None:
        return
    scales = parts["scales"] if q.scale_format == "fp32" else decode(parts["scales"], str(q.scale_format))
    if np.signbit(scales).any() or np.isinf(scales).any():
        raise UserError(f"{name}.scales holds negative or infinite numbers")
    tensor = parts.get("tensor_scale", np.ones(()))
    if "zero_points" in parts and (parts["zero_points"] > q.format.max).any():
        raise UserError(f"{name}.zero_points holds more than the largest code, {q.format.max:.0f}")
    if q.dialect == "torchao" and not tensor < 0:
        return  # there the tensor scale is a plain quotient, which can be 0 or infinite
    if not 0 < tensor < np.inf and not (np.isnan(tensor) and np.isnan(scales).all()):
        raise UserError(f"{name}.tensor_scale is {tensor}, which no array has that is not NaN throughout")
