"""The presets: names of quantizers that are in use, as the parts they are made of."""

from __future__ import annotations

from typing import Any

from dither.scaling import Block


def _mx(fmt: str) -> dict[str, Any]:
    return {"format": fmt, "block": 32, "scale_format": "e8m0"}


def _fp32_scale(fmt: str, block: Block) -> dict[str, Any]:
    return {"format": fmt, "block": block, "scale_format": "fp32"}


def _int_presets() -> dict[str, dict[str, Any]]:
    blocks: dict[str, Block] = {"_g128": 128, "_g32": 32, "_row": "row", "_tensor": "tensor", "": 128}
    names = ("int8", "int4", "int3", "int2")
    return {fmt + suffix: _fp32_scale(fmt, block) for fmt in names for suffix, block in blocks.items()}


PRESETS: dict[str, dict[str, Any]] = {
    **{name: {"format": name} for name in ("fp32", "tf32", "bf16", "fp16")},
    "fp8_e4m3": _fp32_scale("e4m3", "tensor"),
    "fp8_e5m2": _fp32_scale("e5m2", "tensor"),
    "fp8_1x128": _fp32_scale("e4m3", 128),
    "fp8_128x128": _fp32_scale("e4m3", (128, 128)),
    "mxfp8_e4m3": _mx("e4m3"),
    "mxfp8_e5m2": _mx("e5m2"),
    "mxfp6_e3m2": _mx("e3m2"),
    "mxfp6_e2m3": _mx("e2m3"),
    "mxfp4": _mx("e2m1"),
    "mxint8": _mx("mxint8"),
    "nvfp4": {"format": "e2m1", "block": 16, "scale_format": "e4m3", "tensor_scale": True},
    "fp4_g32": _fp32_scale("e2m1", 32),
    **_int_presets(),
}
"""Every preset as the parts it is made of. MX presets use the floor rule of OCP MX v1.0 section 6.3."""


def presets_of(fmt: str) -> list[str]:
    """Presets that store their elements in that format, under a scale."""
    return [name for name, parts in PRESETS.items() if parts["format"] == fmt and "block" in parts]
