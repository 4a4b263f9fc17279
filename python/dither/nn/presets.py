"""The recipes by name: what each is made of and where it comes from. docs/recipes has their pages."""

from __future__ import annotations

from typing import Any, NamedTuple

from dither.linalg import Accumulator
from dither.nn.operand import Delayed, Hadamard, Operand
from dither.nn.streams import OPERANDS
from dither.quantizer import Quantizer


class Preset(NamedTuple):
    """The fields of a Recipe that the name stands for, and its source."""

    source: str
    fields: dict[str, Any]


def _all(value: Any, **others: Any) -> dict[str, Any]:
    return dict.fromkeys(OPERANDS, value) | others


def _hybrid(forward: Any, gradient: Any, **others: Any) -> dict[str, Any]:
    """The same operands forward and backward, with another format for gradients."""
    return _all(forward, dgrad_g=gradient, wgrad_g=gradient) | others


def _straight(weight: Any, activation: Any = None) -> dict[str, Any]:
    """Quantized in the forward alone; the backward multiplies by what the forward did."""
    backward = {"dgrad_w": "fprop"} | ({"wgrad_x": "fprop"} if activation else {})
    return {"fprop_w": weight, "fprop_x": activation} | backward


def _mx(name: str, element: str) -> dict[str, Preset]:
    """The variants with which arXiv 2506.20752 looks for what makes MX training unstable."""
    paper = "arXiv 2506.20752"
    return {
        name: Preset("OCP MX v1.0", _all(element)),
        f"{name}_weights": Preset(f"weights alone; {paper}", _straight(element)),
        f"{name}_forward": Preset(
            f"forward alone, gradients of the unquantized operands; {paper}",
            {"fprop_x": element, "fprop_w": element},
        ),
        f"{name}_bf16_activations": Preset(
            f"quantized weights, activations and gradients in bf16; {paper}",
            _all("bf16", fprop_w=element, dgrad_w=element),
        ),
        f"{name}_bump": Preset(
            f"scales rounded up, so that nothing clips; {paper} and 2506.08027",
            _all(Quantizer(element, scale_rule="rceil")),
        ),
    }


_E4M3, _E5M2 = "fp8_e4m3", "fp8_e5m2"
_LATE = Delayed()
_E4M3_LATE, _E5M2_LATE = (Operand(q, delayed=_LATE) for q in (_E4M3, _E5M2))
_ROW, _TILE = (Operand(q, least=1e-4) for q in ("fp8_1x128", "fp8_128x128"))
_BLOCKWISE = _all(_ROW, fprop_w=_TILE, dgrad_w="fprop")
_NVFP4_TILE = Quantizer("nvfp4", block=(16, 16))
_NVFP4_SR = Quantizer("nvfp4", rounding="stochastic")
_UNBIASED = Quantizer("mxfp4", rounding="stochastic", prescale=0.75)
_NO_CLIP = Quantizer("mxfp4", scale_rule="rceil")
_NO_CLIP_SR = Quantizer(_NO_CLIP, rounding="stochastic")
_UE5M3 = Quantizer(format="e2m1", block=32, scale_format="ue5m3", tensor_scale=True)
_UE5M3_SR = Quantizer(_UE5M3, rounding="stochastic")

PRESETS: dict[str, Preset] = {
    "fp32": Preset("nothing quantized", {}),
    "bf16": Preset("bf16 mixed precision; arXiv 1710.03740 with bf16", _all("bf16")),
    "fp8_current": Preset(
        "FP8 with a scale a tensor, E4M3 forward and E5M2 gradients; Transformer Engine",
        _hybrid(_E4M3, _E5M2, dgrad_w="fprop"),
    ),
    "fp8_current_e4m3": Preset("the same in E4M3 throughout", _all(_E4M3, dgrad_w="fprop")),
    "fp8_delayed": Preset(
        "FP8 with scales from the last 1024 steps, E4M3 forward and E5M2 gradients; arXiv 2209.05433, "
        "Transformer Engine",
        _hybrid(_E4M3_LATE, _E5M2_LATE, dgrad_w="fprop"),
    ),
    "fp8_delayed_e4m3": Preset("the same in E4M3 throughout", _all(_E4M3_LATE, dgrad_w="fprop")),
    "fp8_blockwise": Preset("1x128 activations and gradients, 128x128 weights; arXiv 2412.19437", _BLOCKWISE),
    "fp8_blockwise_promoted": Preset(
        "the same, with products added as Hopper does and promoted every 128; slow",
        _BLOCKWISE | {"accumulate": Accumulator(13, group=32, promote_every=128)},
    ),
    **_mx("mxfp8", "mxfp8_e4m3"),
    **_mx("mxfp6", "mxfp6_e2m3"),
    **_mx("mxfp4", "mxfp4"),
    "mxfp4_rht_sr": Preset(
        "bf16 forward, unbiased MXFP4 backward: rotations, stochastic rounding, 3/4; arXiv 2502.20586",
        {
            "fprop_x": "bf16",
            "fprop_w": "bf16",
            **dict.fromkeys(OPERANDS[2:], _UNBIASED),
            "dgrad_hadamard": Hadamard(64),
            "wgrad_hadamard": Hadamard(64),
        },
    ),
    "nvfp4": Preset("NVFP4 on all operands; Transformer Engine's arithmetic", _all("nvfp4")),
    "nvfp4_pretraining": Preset(
        "16x16 weight blocks, rotated wgrad, stochastic gradients, bf16 at the end; arXiv 2509.25149",
        {
            "fprop_x": "nvfp4",
            "fprop_w": _NVFP4_TILE,
            "dgrad_g": _NVFP4_SR,
            "dgrad_w": "fprop",
            "wgrad_g": _NVFP4_SR,
            "wgrad_x": "nvfp4",
            "wgrad_hadamard": Hadamard(16, "fixed"),
            "keep_blocks": (0, 0.15),
            "forward_bf16_from": 0.82,
        },
    ),
    "int8": Preset("INT8 weights in groups of 128, straight-through", _straight("int8")),
    "int4": Preset("INT4 weights in groups of 128, straight-through", _straight("int4")),
    "int8_w8a8": Preset("INT8 weights a row, activations a token", _straight("int8_row", "int8_row")),
    "int4_w4a8": Preset("INT4 weights in groups of 32, INT8 activations", _straight("int4_g32", "int8_row")),
    "int4_w4a4": Preset("INT4 weights and activations in groups of 32", _straight("int4_g32", "int4_g32")),
    "quartet": Preset(
        "MXFP4 in all products: rotated, error-optimal forward, unbiased backward; arXiv 2505.14669",
        {
            "fprop_x": Operand("mxfp4", rule="quest"),
            "fprop_w": Operand("mxfp4", rule="quest"),
            **dict.fromkeys(("dgrad_g", "wgrad_g"), _UNBIASED),
            **dict.fromkeys(("dgrad_w", "wgrad_x"), Operand(_UNBIASED, again=True)),
            "fprop_hadamard": Hadamard(32, "none"),
            "dgrad_hadamard": Hadamard(32),
            "wgrad_hadamard": Hadamard(32),
        },
    ),
    "quartet2": Preset(
        "NVFP4 in all products: 4/6 forward, MS-EDEN backward; arXiv 2601.22813",
        {
            "fprop_x": Quantizer("nvfp4", four_over_six="mse"),
            "fprop_w": Quantizer("nvfp4", four_over_six="mse"),
            **dict.fromkeys(("dgrad_g", "wgrad_g"), Operand("nvfp4", rule="ms_eden")),
            **dict.fromkeys(("dgrad_w", "wgrad_x"), Operand("nvfp4", rule="ms_eden", again=True)),
            "dgrad_hadamard": Hadamard(128),
            "wgrad_hadamard": Hadamard(128),
        },
    ),
    "tetrajet": Preset(
        "MXFP4 in all products: scales that do not clip, stochastic backward of the forward's operands; "
        "arXiv 2502.20853",
        {
            "fprop_x": _NO_CLIP,
            "fprop_w": _NO_CLIP,
            **dict.fromkeys(("dgrad_g", "wgrad_g"), _NO_CLIP_SR),
            **dict.fromkeys(("dgrad_w", "wgrad_x"), Operand(_NO_CLIP_SR, again=True)),
        },
    ),
    "fp4_ue5m3": Preset(
        "FP4 under UE5M3 and tensor scales, stochastic gradients; arXiv 2509.17791",
        _hybrid(_UE5M3, _UE5M3_SR),
    ),
    "fp8_unit_scaled": Preset(
        "plain casts, E4M3 forward and E5M2 gradients, for unit-scaled models; arXiv 2407.17465",
        _hybrid(
            Quantizer(format="e4m3"),
            Quantizer(format="e5m2"),
        ),
    ),
}
