"""Files that are not what they say: each a good file with a change of its header, its description or its
bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Change = Callable[[dict[str, Any], dict[str, Any], bytearray], None]
"""Of the header, the description in it, and the data, in place."""


def split(file: bytes) -> tuple[dict[str, Any], dict[str, Any], bytearray]:
    """Header, description and data of a file."""
    length = struct.unpack("<Q", file[:8])[0]
    header = json.loads(file[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["dither"]), bytearray(file[8 + length :])


def join(header: Any, data: bytes | bytearray) -> bytes:
    """A file of a header (an object or a text) and data."""
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text.encode())) + text.encode() + bytes(data)


def changed(file: bytes, change: Change) -> bytes:
    header, description, data = split(file)
    change(header, description, data)
    if "__metadata__" in header and isinstance(header["__metadata__"], dict):
        header["__metadata__"]["dither"] = json.dumps(description)
    return join(header, data)


def _span(header: dict[str, Any], name: str) -> slice:
    return slice(*header[name]["data_offsets"])


def _write(name: str, values: np.ndarray) -> Change:
    """Other data in a tensor, without a check sum that would tell."""

    def change(header: dict[str, Any], description: dict[str, Any], data: bytearray) -> None:
        span = _span(header, name)
        data[span] = np.resize(values, (span.stop - span.start) // values.itemsize).tobytes()
        _forget(header, description, data)

    return change


def _forget(header: dict[str, Any], description: dict[str, Any], data: bytearray) -> None:
    for item in description["tensors"].values():
        item.pop("crc32", None)


def _describe(**fields: Any) -> Change:
    """Another description of the tensor nv, without its check sum."""

    def change(header: dict[str, Any], description: dict[str, Any], data: bytearray) -> None:
        _forget(header, description, data)
        description["tensors"]["nv"] |= fields

    return change


def _entry(name: str, **fields: Any) -> Change:
    def change(header: dict[str, Any], description: dict[str, Any], data: bytearray) -> None:
        _forget(header, description, data)
        header[name] |= fields

    return change


def _rename(old: str, new: str) -> Change:
    def change(header: dict[str, Any], description: dict[str, Any], data: bytearray) -> None:
        header[new] = header.pop(old)

    return change


def _version(value: Any) -> Change:
    return lambda header, description, data: description.update(version=value)


def _padding(header: dict[str, Any], description: dict[str, Any], data: bytearray) -> None:
    _forget(header, description, data)
    data[_span(header, "odd.codes").stop - 1] |= 0x80


def _flip(name: str) -> Change:
    def change(header: dict[str, Any], description: dict[str, Any], data: bytearray) -> None:
        data[_span(header, name).start] ^= 1

    return change


F32 = np.float32
CHANGES: dict[str, tuple[Change, str]] = {
    "newer version": (_version(2), "install a newer"),
    "version 0": (_version(0), "does not describe"),
    "version as text": (_version("1"), "does not describe"),
    "no tensors": (lambda h, d, b: d.pop("tensors"), "lists no tensors"),
    "tensors as list": (lambda h, d, b: d.update(tensors=[]), "lists no tensors"),
    "description as text": (lambda h, d, b: d.update(tensors={"nv": "nvfp4"}), "not described by"),
    "quantizer missing": (lambda h, d, b: d["tensors"]["nv"].pop("quantizer"), "not described by"),
    "unknown quantizer": (_describe(quantizer="nvfp5"), "unknown preset"),
    "unknown format": (_describe(quantizer="format=e9m9"), "unknown format"),
    "quantizer a number": (_describe(quantizer=4), "the quantizer 4"),
    "another width": (_describe(quantizer="mxfp8_e4m3"), "asks for u8 of shape"),
    "a plain cast": (_describe(quantizer="format=e2m1"), "has no scales"),
    "without tensor scale": (_describe(quantizer="nvfp4:tensor_scale=false"), "has no tensor_scale"),
    "fp32 scales": (_describe(quantizer="format=e2m1,block=16"), "asks for fp32"),
    "another shape": (_describe(shape=[4, 96]), "asks for u8 of shape"),
    "terabytes": (_describe(shape=[1 << 40, 1 << 10]), "asks for u8 of shape"),
    "2^63": (_describe(shape=[1 << 40, 1 << 40]), "no memory holds"),
    "2^63 times 0": (_describe(shape=[0, 1 << 62, 1 << 62]), "no memory holds"),
    "beyond 2^64": (_describe(shape=[1 << 64]), "has the shape"),
    "negative shape": (_describe(shape=[-4, -100]), "has the shape"),
    "shape of floats": (_describe(shape=[4.0, 100.0]), "has the shape"),
    "shape of truths": (_describe(shape=[True, True]), "has the shape"),
    "axis beyond": (_describe(axis=2), "along axis 2"),
    "axis negative": (_describe(axis=-1), "the axis -1"),
    "another axis": (_describe(axis=0), "nv.scales is U8 of shape"),
    "another dtype": (_describe(dtype="int8"), "the type 'int8'"),
    "crc a number": (_describe(crc32=1), "check sum 1"),
    "unknown field": (_describe(colour="blue"), "not described by"),
    "crc wrong": (_describe(crc32="00000000"), "check sum differs"),
    "codes damaged": (_flip("nv.codes"), "check sum differs"),
    "scales damaged": (_flip("nv.scales"), "check sum differs"),
    "tensor scale damaged": (_flip("nv.tensor_scale"), "check sum differs"),
    "relabelled dtype": (lambda h, d, b: d["tensors"]["nv"].update(dtype="fp64"), "check sum differs"),
    "padding": (_padding, "behind the end of a row"),
    "negative fp32 scale": (_write("int.scales", np.array([-1.0], F32)), "negative or infinite"),
    "infinite fp32 scale": (_write("int.scales", np.array([np.inf], F32)), "negative or infinite"),
    "negative e4m3 scale": (_write("nv.scales", np.array([0xB8], np.uint8)), "negative or infinite"),
    "NaN tensor scale": (_write("nv.tensor_scale", np.array([np.nan], F32)), "tensor_scale is nan"),
    "tensor scale 0": (_write("nv.tensor_scale", np.array([0], F32)), "tensor_scale is 0"),
    "negative tensor scale": (_write("nv.tensor_scale", np.array([-1], F32)), "tensor_scale is -1"),
    "infinite tensor scale": (_write("nv.tensor_scale", np.array([np.inf], F32)), "tensor_scale is inf"),
    "codes missing": (_rename("nv.codes", "nv.cods"), "nv.codes is missing"),
    "scales missing": (_rename("nv.scales", "scales"), "nv.scales is missing"),
    "codes of signed bytes": (_entry("nv.codes", dtype="I8"), "is I8"),
    "scales as halves": (_entry("nv.scales", dtype="F16", shape=[4, 3]), "cannot be read"),
    "overlap": (_entry("nv.codes", data_offsets=[0, 200]), "cannot be read"),
    "offsets backwards": (_entry("nv.codes", data_offsets=[200, 0]), "cannot be read"),
    "offsets beyond": (_entry("nv.codes", data_offsets=[1 << 62, (1 << 62) + 200]), "cannot be read"),
    "offsets of floats": (_entry("nv.codes", data_offsets=[0.5, 1.5]), "cannot be read"),
    "shape overflows": (_entry("nv.codes", shape=[1 << 32, 1 << 32]), "cannot be read"),
    "unknown type": (_entry("nv.codes", dtype="U7"), "cannot be read"),
    "metadata a list": (lambda h, d, b: h.update(__metadata__=[]), "cannot be read"),
    "metadata of numbers": (lambda h, d, b: h["__metadata__"].update(x=1), "cannot be read"),
    "cut data": (lambda h, d, b: b.__delitem__(slice(-1, None)), "cannot be read"),
    "longer data": (lambda h, d, b: b.extend(b"\0"), "cannot be read"),
}
"""What is done to a good file, and what the error says."""


def raw(file: bytes) -> dict[str, bytes]:
    """Files that are wrong before their header can be read."""
    header, _, data = split(file)
    text = json.dumps(header)
    name = '"nv.codes":'
    twice = text.replace(name, f'"nv.codes": {json.dumps(header["nv.scales"])}, {name}')
    deep = "[" * 100_000 + "]" * 100_000
    return {
        "empty": b"",
        "seven bytes": file[:7],
        "only a length": file[:8],
        "cut in the header": file[:200],
        "header of 2^63": struct.pack("<Q", 1 << 63) + file[8:],
        "header of 10^11": struct.pack("<Q", 10**11) + file[8:],
        "no JSON": join("{]", data),
        "not UTF-8": struct.pack("<Q", 4) + b"\xff\xfe\xff\xfe",
        "a list": join("[]", data),
        "a name twice": join(twice, data),
        "nested": join(deep, data),
        "nested description": join({"__metadata__": {"dither": deep}}, b""),
        "description no JSON": join({"__metadata__": {"dither": "{"}}, b""),
        "description a number": join({"__metadata__": {"dither": "1"}}, b""),
        "number of 10^5 digits": join(
            {"__metadata__": {"dither": '{"version": ' + "9" * 100_000 + "}"}}, b""
        ),
        "pickle": b"\x80\x04" + file[8:],
    }
