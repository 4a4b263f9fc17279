"""The vectors as files: JSON lines that need no knowledge of Python (schema: docs/conformance.md).

Everything that is a bit pattern is a string of hexadecimal words separated by blanks. Files depend on the
version of the vectors alone: the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dither import arrays
from dither.conformance import blockwise, casts
from dither.conformance.case import Case
from dither.errors import UserError
from dither.files import replacing
from dither.packing import quantize
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor

VERSION = 1
"""Raised when the meaning of a field changes; new lines alone do not raise it."""


def words(x: np.ndarray, digits: int) -> str:
    """Unsigned integers in hexadecimal; -1, for what does not exist, as a dash."""
    return " ".join("-" if v < 0 else f"{v:0{digits}x}" for v in x.reshape(-1).tolist())


def floats(x: np.ndarray) -> str:
    """fp32 bit patterns; every NaN is written as the positive quiet one."""
    return words(np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32)), 8)


def patterns(x: np.ndarray) -> str:
    """fp32 bit patterns as they are."""
    return words(x.view(np.uint32), 8)


def _cast(case: Case) -> dict[str, Any]:
    options = dict(case.options)
    random = options.pop("random", None)
    fmt = casts.formats.get(case.what)
    line = {
        "id": case.id,
        "kind": "cast",
        "format": case.what,
        **options,
        "follows": case.clause,
        "input": "fp32",
    }
    line |= {"x": patterns(case.x)} | case.record
    if random is not None:
        line["random"] = words(random, 1)
    assert case.codes is not None
    return line | {"out": floats(case.expected), "codes": words(case.codes, -(-fmt.bits // 4))}


def _decodes() -> Iterator[dict[str, Any]]:
    for fmt, codes, values in casts.decodes():
        yield {
            "id": f"decode/{fmt.name}",
            "kind": "decode",
            "format": fmt.name,
            "width": fmt.bits,
            "codes": words(codes, -(-fmt.bits // 4)),
            "out": floats(values),
        }


def _unpacked(t: QuantizedTensor) -> np.ndarray:
    """One code an element from rows of bits, least significant first."""
    width = t.quantizer.format.bits
    n = t.shape[-1]
    bits = np.unpackbits(t.codes, axis=-1, bitorder="little")[..., : n * width]
    return bits.reshape(*t.shape[:-1], n, width).astype(np.int64) @ (1 << np.arange(width))


def _stored(case: Case, q: Quantizer) -> dict[str, str]:
    """Codes and scales of a block case, as `dither.quantize` holds them; nothing for what it cannot hold."""
    try:
        t = quantize(case.x, q)
    except UserError:  # no layout for it, or a NaN element in a format that has no code for it
        return {}
    assert t.scales is not None
    digits = -(-q.format.bits // 4)
    scales = words(t.scales, 2) if t.scales.dtype == np.uint8 else patterns(t.scales)
    stored = {"codes": words(_unpacked(t), digits), "scales": scales}
    return stored if t.tensor_scale is None else stored | {"tensor_scale": patterns(np.array(t.tensor_scale))}


def _block(case: Case, q: Quantizer) -> dict[str, Any]:
    return {
        "id": case.id,
        "kind": "block",
        "quantizer": case.what,
        "format": q.format.name,
        "block": q.block,
        "scale_format": q.scale_format,
        "scale_rule": q.scale_rule,
        "two_level": q.tensor_scale,
        "rounding": q.rounding,
        "dialect": q.dialect,
        "nan": q.nan,
        "follows": case.clause,
        "rows": len(case.x),
        "x": patterns(case.x),
        **_stored(case, q),
        "out": floats(case.expected),
    }


def _blocks() -> Iterator[dict[str, Any]]:
    for q in blockwise.written():
        for case in blockwise.cases(q, str(q)):
            if str(q) in blockwise.PRESETS or case.family not in ("normal", "wide"):
                yield _block(case, q)


_ADDRESSES = [(0, 0, 0), (1, 0, 0), (7, 3, 255), (2**64 - 1, 2**64 - 1, 2**40 + 1), (12345, 1, 1 << 20)]


def _random() -> Iterator[dict[str, Any]]:
    for seed, stream, first in _ADDRESSES:
        for bits in (1, 3, 8, 12, 16, 32):
            drawn = np.array([arrays.random_bits(seed, stream, first + i, bits) for i in range(80)], np.int64)
            yield {
                "id": f"random/{seed:x}/{stream:x}/{first:x}/{bits}",
                "kind": "random",
                "seed": f"{seed:016x}",
                "stream": f"{stream:016x}",
                "index": f"{first:x}",
                "bits": bits,
                "out": words(drawn, 1),
            }


def generate() -> dict[str, Iterable[dict[str, Any]]]:
    """The lines of every file, by its name."""
    return {
        "casts.jsonl": map(_cast, casts.cases()),
        "decodes.jsonl": _decodes(),
        "blocks.jsonl": _blocks(),
        "random.jsonl": _random(),
    }


def write_vectors(folder: str | Path) -> dict[str, Any]:
    """Write all vectors and `manifest.json` into `folder` (made if need be); return the manifest."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, lines in generate().items():
        text = "".join(json.dumps(line) + "\n" for line in lines).encode()
        with replacing(folder / name) as aside:
            aside.write_bytes(text)
        files[name] = {
            "lines": text.count(b"\n"),
            "bytes": len(text),
            "sha256": hashlib.sha256(text).hexdigest(),
        }
    manifest = {"schema": "dither-conformance-vectors", "version": VERSION, "files": files}
    with replacing(folder / "manifest.json") as aside:
        aside.write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest
