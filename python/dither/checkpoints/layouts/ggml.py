"""What llama.cpp reads: GGUF with ggml's block types.

    type    quantizer                       a block                                  value of an element
    Q8_0    int8_g32                        fp16 d, 32 int8                          d * code
    Q4_0    int4_g32                        fp16 d, 32 nibbles                       d * (nibble - 8)
    Q4_1    asymmetric int4, block 32       fp16 d, fp16 m, 32 nibbles               d * nibble + m
    MXFP4   mxfp4                           e8m0 scale, 32 nibbles                   2^(scale - 127) * e2m1
    NVFP4   nvfp4 (also without the         4 e4m3 scales, 64 nibbles; the tensor    scale * e2m1 (*
            NAME.scale) tensor scale)                   scale is a tensor of its own, NAME.scale

The codes are those of the quantizer. Its scales are fp32, those of the Q types fp16: there every value is the
fake-quantized one with its scale (and the minimum m = -d * zero point) rounded to fp16. MXFP4 is exact; NVFP4
is the fake-quantized value once its reader multiplies by NAME.scale, as llama.cpp does after the product.

What is not quantized: of a GGUF source byte for byte; of safetensors F32 becomes F16 where it has two
dimensions or more (ggml keeps vectors in F32), the rest stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dither.checkpoints import gguf
from dither.checkpoints.layouts import bits
from dither.checkpoints.layouts.base import Choice, PlannedFile, Stored
from dither.checkpoints.safetensors import Entry
from dither.checkpoints.source import Checkpoint
from dither.checkpoints.tensors import TensorInfo
from dither.errors import UserError
from dither.functions import decode as decode_codes
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor

HELD = "int8_g32 (Q8_0), int4_g32 (Q4_0), format=uint4,block=32,zero_point=true (Q4_1), mxfp4, nvfp4"
MAX_NAME = 63  # ggml.h: GGML_MAX_NAME is 64 with the terminating zero
_FILE_TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "MXFP4": 38, "NVFP4": 39}  # llama.h: enum llama_ftype
_QUANTIZATION_VERSION = 2  # ggml.h: GGML_QNT_VERSION
_OWN_KEYS = ("general.file_type", "general.quantization_version", "dither.quantizers")


_QUANTIZERS = {
    "Q8_0": "int8_g32", "Q4_0": "int4_g32", "Q4_1": "format=uint4,block=32,zero_point=true",
    "MXFP4": "mxfp4", "NVFP4": "nvfp4:tensor_scale=false",
}  # fmt: skip


def type_of(q: Quantizer) -> str:
    """ggml's type for a quantizer. Raises UserError where ggml has none."""
    key = (q.format.name, str(q.block), str(q.scale_format), q.zero_point)
    found = {
        ("int8", "32", "fp32", False): "Q8_0",
        ("int4", "32", "fp32", False): "Q4_0",
        ("uint4", "32", "fp32", True): "Q4_1",
        ("e2m1", "32", "e8m0", False): "MXFP4",
        ("e2m1", "16", "e4m3", False): "NVFP4",
    }.get(key)
    if found is None or (q.tensor_scale and found != "NVFP4"):
        raise UserError(f"ggml has no type for {q}; it has: {HELD}")
    return found


class Ggml:
    name, suffix = "gguf", ".gguf"

    def check(self, q: Quantizer) -> None:
        type_of(q)

    def obstacle(self, info: TensorInfo, q: Quantizer) -> str | None:
        block = gguf.TYPES[f"GGUF:{type_of(q)}"][1]
        if info.shape[-1] % block:
            return f"rows of {info.shape[-1]} are no multiple of {block}"
        return None

    def entries(self, info: TensorInfo, q: Quantizer | None) -> list[Entry]:
        dtype = _kept_dtype(info) if q is None else f"GGUF:{type_of(q)}"
        found = [Entry(info.name, dtype, info.shape, gguf.type_bytes(dtype, info.shape))]
        if q is not None and q.tensor_scale:
            found.append(Entry(scale_name(info.name), "F32", (1,), 4))
        for entry in found:
            if len(entry.name.encode()) > MAX_NAME:
                raise UserError(f"{entry.name!r} is longer than ggml allows ({MAX_NAME} bytes)")
        return found

    def encode(self, t: QuantizedTensor, info: TensorInfo) -> list[np.ndarray]:
        q = t.quantizer
        kind = type_of(q)
        scales = np.asarray(t.scales).reshape(-1, 1)
        if kind == "NVFP4":
            body = bits.halves(t.codes, 16).reshape(-1, 32)
            parts = [np.concatenate([scales.reshape(-1, 4), body], 1)]
            return parts if t.tensor_scale is None else [*parts, np.float32(t.tensor_scale).reshape(1)]
        if kind == "MXFP4":
            return [np.concatenate([scales, bits.halves(t.codes, 32).reshape(-1, 16)], 1)]
        factor = _half(scales, info, q)
        if kind == "Q8_0":
            return [np.concatenate([factor, t.codes.reshape(-1, 32)], 1)]
        if kind == "Q4_0":
            nibbles = bits.halves(t.codes, 32).reshape(-1, 16) ^ np.uint8(0x88)
            return [np.concatenate([factor, nibbles], 1)]
        zeros = np.asarray(t.zero_points).reshape(-1, 1).astype(np.float32)
        minimum = _half(-(scales * zeros), info, q)
        return [np.concatenate([factor, minimum, bits.halves(t.codes, 32).reshape(-1, 16)], 1)]

    def decode(self, parts: Sequence[np.ndarray], info: TensorInfo, q: Quantizer) -> np.ndarray:
        values = dequantize(parts[0], type_of(q))
        if len(parts) > 1:
            values *= parts[1].reshape(1)
        return values.reshape(info.shape)

    def plan(self, source: Checkpoint, choice: Choice, out_name: str) -> list[PlannedFile]:
        if not out_name.endswith(self.suffix):
            raise UserError(f"--layout gguf writes one file; name it with --out NAME{self.suffix}")
        parts = {name: self.entries(info, choice[name]) for name, info in source.tensors.items()}
        entries = [entry for part in parts.values() for entry in part]
        if len({entry.name for entry in entries}) != len(entries):
            raise UserError(f"{source.path} holds tensors whose names end in .scale already")
        head, places = gguf.build_header(entries, _pairs(source, choice))
        size = max([len(head), *(at + nbytes for at, nbytes in places.values())])
        placed = {k: [(entry, places[entry.name][0]) for entry in part] for k, part in parts.items()}
        return [PlannedFile(out_name, head, size, placed)]

    def documents(self, source: Checkpoint, choice: Choice, plan: Sequence[PlannedFile]) -> dict[Path, Any]:
        return {}

    def find(self, source: Checkpoint) -> list[Stored]:
        found = []
        for info in source.tensors.values() if source.is_gguf else ():
            if info.dtype.startswith("GGUF:"):
                kind = info.dtype.removeprefix("GGUF:")
                if kind not in _QUANTIZERS:
                    raise UserError(
                        f"{info.name!r} is {kind}, which is not read; {', '.join(_QUANTIZERS)} are"
                    )
                scale = source.tensors.get(scale_name(info.name)) if kind == "NVFP4" else None
                q = Quantizer("nvfp4" if scale is not None else _QUANTIZERS[kind])
                parts = [info] if scale is None else [info, scale]
                found.append(Stored(replace(info, dtype="F32"), q, parts))
        return found


def scale_name(name: str) -> str:
    """Where llama.cpp looks for the tensor scale of an NVFP4 weight: `blk.0.ffn_up.weight` has
    `blk.0.ffn_up.scale`."""
    return name.removesuffix(".weight") + ".scale"


def dequantize(data: np.ndarray, kind: str) -> np.ndarray:
    """The values of blocks of a ggml type as flat float32, without NVFP4's tensor scale."""
    blocks = np.ascontiguousarray(data).view(np.uint8).reshape(-1, gguf.TYPES[f"GGUF:{kind}"][2])
    if kind == "NVFP4":
        codes = bits.from_halves(blocks[:, 4:].reshape(-1, 4, 8))
        factors = decode_codes(np.ascontiguousarray(blocks[:, :4]), "e4m3")
        return (decode_codes(codes, "e2m1") * factors[..., None]).reshape(-1)
    if kind == "MXFP4":
        codes = bits.from_halves(blocks[:, 1:])
        return (
            decode_codes(codes, "e2m1") * decode_codes(np.ascontiguousarray(blocks[:, :1]), "e8m0")
        ).reshape(-1)
    factor = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    if kind == "Q8_0":
        return (np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32) * factor).reshape(-1)
    if kind == "Q4_0":
        return ((bits.from_halves(blocks[:, 2:]).astype(np.float32) - 8) * factor).reshape(-1)
    if kind != "Q4_1":
        raise UserError(f"{kind} is not dequantized here; Q4_0, Q4_1, Q8_0, MXFP4 and NVFP4 are")
    minimum = np.ascontiguousarray(blocks[:, 2:4]).view("<f2").astype(np.float32)
    return (bits.from_halves(blocks[:, 4:]).astype(np.float32) * factor + minimum).reshape(-1)


def _half(x: np.ndarray, info: TensorInfo, q: Quantizer) -> np.ndarray:
    """fp32 scales as bytes of fp16. Raises UserError beyond its range."""
    with np.errstate(over="ignore"):
        half = x.astype("<f2")
    if not np.isfinite(half).all():
        raise UserError(
            f"{info.name!r} needs scales up to {np.abs(x).max():.4g}, and {type_of(q)} stores them in fp16 "
            f"(up to 65504): exempt it (--exempt {info.name!r})"
        )
    return half.view(np.uint8)


def _kept_dtype(info: TensorInfo) -> str:
    if info.dtype not in gguf.TYPES:
        raise UserError(f"GGUF has no type for {info.name!r} of dtype {info.dtype}")
    from_gguf = info.path.suffix.lower() == ".gguf"
    return "F16" if info.dtype == "F32" and len(info.shape) > 1 and not from_gguf else info.dtype


def _pairs(source: Checkpoint, choice: Choice) -> list[gguf.Pair]:
    """The pairs of a GGUF source, else the little that safetensors files tell; and how it was quantized."""
    if source.pairs is not None:
        pairs = [pair for pair in source.pairs if pair.key not in _OWN_KEYS]
    else:
        model = (source.config or {}).get("model_type")
        pairs = [gguf.text_pair("general.architecture", model if isinstance(model, str) else "unknown")]
    types = [type_of(q) for q in choice.values() if q is not None]
    most = max(set(types), key=types.count)
    names = ", ".join(dict.fromkeys(str(q) for q in choice.values() if q is not None))
    return [
        *pairs,
        gguf.uint32_pair("general.file_type", _FILE_TYPES[most]),
        gguf.uint32_pair("general.quantization_version", _QUANTIZATION_VERSION),
        gguf.text_pair("dither.quantizers", names),
    ]
