"""What vLLM and transformers read: the formats of the compressed-tensors package (0.20), weights only.

    layout of a module M         tensors                                                   value of an element
    pack-quantized   int2..int8  M.weight_packed (int32 words), M.weight_scale (fp32),     (code - zero) *
                                 scale M.weight_shape, M.weight_zero_point where asymmetric
    float-quantized  e4m3        M.weight (F8_E4M3), M.weight_scale (fp32)                 code * scale
    mxfp8-quantized, mxfp6-, mxfp4-pack-quantized                                          code * 2^(scale -
                                 127) M.weight or M.weight_packed, M.weight_scale (e8m0 bytes)
    nvfp4-pack-quantized         M.weight_packed, M.weight_scale (e4m3),                   code * (scale /
                                 global) M.weight_global_scale (fp32)

Every value is the fake-quantized one bit for bit, with one exception: NVFP4's reader divides by a global
scale where this package multiplies by the tensor scale, and rounds the product to bf16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dither.checkpoints.layouts import bits, shards
from dither.checkpoints.layouts.base import Choice, PlannedFile, Stored
from dither.checkpoints.layouts.compressed_config import quantization_config, quantizer_of, scheme
from dither.checkpoints.safetensors import Entry
from dither.checkpoints.source import Checkpoint
from dither.checkpoints.tensors import TensorInfo, narrow, read_array, widen
from dither.errors import UserError
from dither.functions import decode as decode_codes
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor


class CompressedTensors:
    name, suffix = "compressed-tensors", ".safetensors"

    def check(self, q: Quantizer) -> None:
        scheme(q)

    def obstacle(self, info: TensorInfo, q: Quantizer) -> str | None:
        if not info.name.endswith(".weight"):
            return "its name does not end in .weight"
        if len(info.shape) != 2:
            return f"{len(info.shape)} dimensions"
        if info.shape[1] % scheme(q).columns:
            return f"rows of {info.shape[1]} are no multiple of {scheme(q).columns}"
        return None

    def entries(self, info: TensorInfo, q: Quantizer | None) -> list[Entry]:
        if q is None:
            return [shards.copied(info)]
        module, (rows, columns) = info.name.removesuffix("weight"), info.shape
        found, width = scheme(q), q.format.bits
        kind, shape = found.format, _scale_shape(found.args, rows, columns)
        groups = shape[0] * (shape[1] if len(shape) > 1 else 1)
        packed_bytes = rows * bits.row_bytes(columns, width)
        if kind == "pack-quantized":
            words = -(-columns * width // 32)
            entries = [
                Entry(module + "weight_packed", "I32", (rows, words), rows * words * 4),
                Entry(module + "weight_scale", "F32", shape, groups * 4),
                Entry(module + "weight_shape", "I64", (2,), 16),
            ]
            if not found.args["symmetric"]:
                entries.append(_zero_point_entry(module, shape, width))
            return entries
        if kind == "float-quantized":
            return [
                Entry(info.name, "F8_E4M3", info.shape, packed_bytes),
                Entry(module + "weight_scale", "F32", shape, groups * 4),
            ]
        if kind == "mxfp8-quantized":
            weight = Entry(info.name, "F8_E4M3", info.shape, packed_bytes)
        else:
            weight = Entry(module + "weight_packed", "U8", (rows, packed_bytes // rows), packed_bytes)
        if kind == "nvfp4-pack-quantized":
            return [
                weight,
                Entry(module + "weight_scale", "F8_E4M3", shape, groups),
                Entry(module + "weight_global_scale", "F32", (1,), 4),
            ]
        return [weight, Entry(module + "weight_scale", "U8", shape, groups)]

    def encode(self, t: QuantizedTensor, info: TensorInfo) -> list[np.ndarray]:
        found, (rows, columns) = scheme(t.quantizer), info.shape
        width = t.quantizer.format.bits
        scales = np.asarray(t.scales).reshape(_scale_shape(found.args, rows, columns))
        if found.format != "pack-quantized":
            parts = [t.codes, scales]
            if t.tensor_scale is not None:
                with np.errstate(divide="ignore"):
                    parts.append(np.float32(1) / np.asarray(t.tensor_scale, np.float32).reshape(1))
            return parts
        signed = t.quantizer.format.signed
        codes = bits.turn_high_bits(t.codes, columns, width) if signed else t.codes
        parts = [bits.to_words(codes), scales, np.array([rows, columns], "<i8")]
        if not found.args["symmetric"]:
            zeros = np.asarray(t.zero_points, np.uint8).reshape(scales.shape)
            parts.append(_pack_zero_points(zeros, width))
        return parts

    def decode(self, parts: Sequence[np.ndarray], info: TensorInfo, q: Quantizer) -> np.ndarray:
        found, (rows, columns), width = scheme(q), info.shape, q.format.bits
        if found.format == "pack-quantized":
            codes = np.ascontiguousarray(parts[0]).view(np.uint8).reshape(rows, -1)
            numbers = bits.unpack(codes, columns, width).astype(np.float32)
            if found.args["symmetric"]:
                numbers -= 1 << width - 1
            else:
                zeros = _unpack_zero_points(parts[3], parts[1].shape, width)
                numbers -= _spread(zeros.astype(np.float32), found.args, rows, columns)
        else:
            codes = np.ascontiguousarray(parts[0]).reshape(rows, -1)
            numbers = decode_codes(bits.unpack(codes, columns, width), q.format)
        if found.format == "nvfp4-pack-quantized":
            factors = decode_codes(parts[1], "e4m3") / parts[2].reshape(1)
            values = numbers * _spread(factors, found.args, rows, columns)
            return widen(narrow(values, "BF16"), "BF16").reshape(info.shape)
        factors = decode_codes(parts[1], "e8m0") if parts[1].dtype == np.uint8 else parts[1]
        return numbers * _spread(factors, found.args, rows, columns)

    def plan(self, source: Checkpoint, choice: Choice, out_name: str) -> list[PlannedFile]:
        if source.folder is None or source.config is None:
            raise UserError(
                f"{source.path} has no config.json, where vLLM and transformers look for the formats; "
                "name the model's folder, or use --layout dither"
            )
        entries = {name: self.entries(info, choice[name]) for name, info in source.tensors.items()}
        metadata = {"format": "pt"}  # transformers refuses files that do not say so
        return shards.plan(source, out_name, lambda info: entries[info.name], lambda *_: metadata)

    def documents(self, source: Checkpoint, choice: Choice, plan: Sequence[PlannedFile]) -> dict[Path, Any]:
        settings = quantization_config(source, choice)
        return shards.index(source, plan) | shards.config(source, quantization_config=settings)

    def find(self, source: Checkpoint) -> list[Stored]:
        settings = (source.config or {}).get("quantization_config")
        if not isinstance(settings, dict) or settings.get("quant_method") != "compressed-tensors":
            return []
        found = []
        for info in source.tensors.values():
            module, _, last = info.name.rpartition(".")
            scale = source.tensors.get(f"{module}.weight_scale")
            if last not in ("weight", "weight_packed") or scale is None:
                continue
            q = quantizer_of(settings, module)
            shape = _shape_of(info, source.tensors.get(f"{module}.weight_shape"), q)
            was = TensorInfo(f"{module}.weight", "F32", shape, info.path, 0, 0)
            names = [e.name for e in self.entries(was, q)]
            if missing := next((n for n in names if n not in source.tensors), None):
                raise UserError(
                    f"{source.path} has no {missing!r}, which {info.name!r} needs; fetch it again"
                )
            found.append(Stored(was, q, [source.tensors[n] for n in names]))
        return found


def _shape_of(info: TensorInfo, shape: TensorInfo | None, q: Quantizer) -> tuple[int, ...]:
    if info.name.endswith(".weight"):
        return info.shape
    if shape is not None:
        return tuple(int(n) for n in read_array(shape).tolist())
    return (info.shape[0], info.shape[1] * 8 // q.format.bits)


def _scale_shape(args: dict[str, Any], rows: int, columns: int) -> tuple[int, ...]:
    if args["strategy"] == "tensor":
        return (1,)
    if args["strategy"] == "channel":
        return (rows, 1)
    if args["strategy"] == "block":
        high, wide = args["block_structure"]
        return (-(-rows // high), -(-columns // wide))
    return (rows, columns // args["group_size"])


def _spread(factors: np.ndarray, args: dict[str, Any], rows: int, columns: int) -> np.ndarray:
    """One factor an element, or what broadcasts to it."""
    if args["strategy"] in ("tensor", "channel"):
        return factors
    high, wide = args.get("block_structure") or (1, args["group_size"])
    return factors.repeat(high, 0)[:rows].repeat(wide, 1)[:, :columns]


def _zero_point_entry(module: str, shape: tuple[int, ...], width: int) -> Entry:
    """Zero points of a group or channel are packed down the rows; that of a whole tensor is an int8."""
    if len(shape) == 1:
        return Entry(module + "weight_zero_point", "I8", shape, shape[0])
    words = -(-shape[0] * width // 32)
    return Entry(module + "weight_zero_point", "I32", (words, shape[1]), words * shape[1] * 4)


def _pack_zero_points(zeros: np.ndarray, width: int) -> np.ndarray:
    if zeros.ndim == 1:
        return (zeros.astype(np.int16) - (1 << width - 1)).astype(np.int8)
    return np.ascontiguousarray(bits.to_words(bits.pack(np.ascontiguousarray(zeros.T), width)).T)


def _unpack_zero_points(stored: np.ndarray, shape: tuple[int, ...], width: int) -> np.ndarray:
    if len(shape) == 1:
        return (stored.astype(np.int16) + (1 << width - 1)).astype(np.uint8)
    words = np.ascontiguousarray(stored.T)
    return bits.unpack(words.view(np.uint8).reshape(shape[1], -1), shape[0], width).T
