"""Quantizers as the compressed-tensors package names them: its formats, QuantizationArgs and config.json
section."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dither.checkpoints.layouts.base import Choice
from dither.checkpoints.source import Checkpoint
from dither.errors import UserError
from dither.quantizer import Quantizer

HELD = (
    "int8 int4 int3 int2 with _g32 _g128 _row _tensor (symmetric; asymmetric as "
    "format=uint4,block=128,zero_point=true), fp8_e4m3, "
    "format=e4m3 with block=row or 128 or 128x128, mxfp8_e4m3, mxfp6_e2m3, mxfp4, nvfp4"
)


@dataclass(frozen=True)
class Scheme:
    """How compressed-tensors names a quantizer: its format and its QuantizationArgs."""

    format: str
    args: dict[str, Any]

    @property
    def columns(self) -> int:
        """What the length of a row has to be a multiple of."""
        return self.args.get("group_size") or 1


def scheme(q: Quantizer) -> Scheme:
    """Raises UserError for a quantizer that compressed-tensors has no format for."""
    kind, name = _kind(q), q.format.name
    if kind is None:
        raise UserError(f"compressed-tensors has no format for {q}; it has: {HELD}")
    args: dict[str, Any] = {
        "num_bits": q.format.bits,
        "type": "int" if kind == "pack-quantized" else "float",
        "symmetric": not getattr(q, "zero_point", False),
        "dynamic": False,
    }
    if kind == "nvfp4-pack-quantized":
        args |= {"strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"}
    elif (name != "e4m3" and kind != "pack-quantized") or kind == "mxfp8-quantized":
        args |= {"strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}
    elif isinstance(q.block, tuple):
        args |= {"strategy": "block", "group_size": None, "block_structure": list(q.block)}
    elif isinstance(q.block, int):
        args |= {"strategy": "group", "group_size": q.block}
    else:
        args |= {"strategy": "channel" if q.block == "row" else "tensor", "group_size": None}
    return Scheme(kind, args)


_MX = {"e4m3": "mxfp8-quantized", "e2m3": "mxfp6-pack-quantized", "e2m1": "mxfp4-pack-quantized"}


def _kind(q: Quantizer) -> str | None:
    name, block, scale = q.format.name, q.block, q.scale_format
    if name == "e2m1" and (block, scale, q.tensor_scale) == (16, "e4m3", True):
        return "nvfp4-pack-quantized"
    if q.tensor_scale:
        return None
    if (block, scale) == (32, "e8m0"):
        return _MX.get(name)
    if scale != "fp32" or block == "column":
        return None
    if name == "e4m3":
        return "float-quantized"
    integers = ("int8", "int4", "int3", "int2")
    fits = name.removeprefix("u") in integers and q.format.signed != q.zero_point
    return "pack-quantized" if fits and not isinstance(block, tuple) else None


def quantization_config(source: Checkpoint, choice: Choice) -> dict[str, Any]:
    """`quantization_config` of config.json.

    One quantizer for all targets `Linear`, so that vLLM's fused modules find it, and lists the others under
    `ignore`; several name their modules.
    """
    chosen = {name: q for name, q in choice.items() if q is not None}
    kinds = list(dict.fromkeys(chosen.values()))
    groups = {}
    for i, q in enumerate(kinds):
        found = scheme(q)
        targets = (
            ["Linear"]
            if len(kinds) == 1
            else [n.removesuffix(".weight") for n, c in chosen.items() if c == q]
        )
        groups[f"group_{i}"] = {
            "targets": targets,
            "weights": found.args,
            "input_activations": None,
            "output_activations": None,
            "format": found.format,
        }
    left = [n for n, i in source.tensors.items() if n not in chosen and len(i.shape) == 2]
    ignore = [name.removesuffix(".weight") for name in left if name.endswith(".weight")]
    if "lm_head.weight" not in source.tensors:  # tied to the embedding: a Linear without a tensor of its own
        ignore.append("lm_head")
    found = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": found.pop() if len(found) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def quantizer_of(settings: dict[str, Any], module: str) -> Quantizer:
    """The quantizer of the group that names the module. Raises UserError for what is not read here."""
    try:
        return _quantizer_of(settings, module)
    except (AttributeError, TypeError, re.error) as error:  # a file by other hands
        raise UserError(
            f"quantization_config is not as compressed-tensors writes it: {error}; fetch config.json again"
        ) from error


def _quantizer_of(settings: dict[str, Any], module: str) -> Quantizer:
    for group in settings.get("config_groups", {}).values():
        targets = group.get("targets", [])
        if not any(_matches(target, module) for target in targets):
            continue
        args = group.get("weights") or {}
        block = args.get("block_structure") or args.get("group_size")
        block = tuple(block) if isinstance(block, list) else block
        if args.get("strategy") in ("channel", "tensor"):
            block = {"channel": "row", "tensor": "tensor"}[args["strategy"]]
        width, floats = args.get("num_bits"), args.get("type") == "float"
        if floats and (width, block) == (4, 16):
            return Quantizer("nvfp4")
        if floats and (width, block) in ((4, 32), (6, 32)):
            return Quantizer("mxfp4" if width == 4 else "mxfp6_e2m3")
        if floats and width == 8:
            mx = "uint8" in str(args.get("scale_dtype"))
            plain = {"format": "e4m3", "block": block, "scale_format": "fp32"}
            return Quantizer("mxfp8_e4m3") if mx else Quantizer(**plain)
        symmetric = args.get("symmetric", True)
        if not floats and width in (2, 3, 4, 8) and block:
            name = f"int{width}" if symmetric else f"uint{width}"
            return Quantizer(format=name, block=block, zero_point=not symmetric)
        raise UserError(f"weights quantized as {args} are not read here")
    raise UserError(f"quantization_config in config.json names no group for {module!r}")


def _matches(target: str, module: str) -> bool:
    if target.startswith("re:"):
        return re.match(target[3:], module) is not None
    return target in ("Linear", module)
