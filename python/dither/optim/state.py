"""What an optimizer keeps between steps, and in how many bits.

A moment is stored as fp32, as bf16, or as codes of the flat tensor under a quantizer with blocks and fp32
scales, rounded stochastically with addressed bits. In few bits a moving average must be rounded without bias:
v' = 0.999 v + 0.001 g^2 differs from v by less than half a step of the grid, so that rounding to nearest
would leave v where it is for ever. (bitsandbytes and torchao round their 8-bit states to nearest.) The price
is noise: on a grid of relative spacing d, v comes out with a relative deviation of about sqrt(d / 2), 0.35
for E5M2, which in the square root of the update is half of that.

The second moment needs range before precision: within a block of 256 it spans many binades, and a v that
becomes zero divides its update by eps. Integers with one scale cannot hold it; bitsandbytes and torchao use a
table with seven decades for it. Here it is E5M2, 32 binades under a scale of its own, which needs no square
root domain. UE5M3, the same without a sign and with one more bit, can be asked for; its kernel is slow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dither import arrays
from dither.blocks import Layout
from dither.errors import UserError, suggest
from dither.nn import PackedTensor
from dither.packing import quantize
from dither.quantizer import Quantizer

_DTYPES = {"u8": torch.uint8, "fp32": torch.float32}

Kind = str | Quantizer
"""How a moment is stored: "fp32", "bf16" or a Quantizer."""

SMALLEST_PACKED = 4096
"""Parameters of fewer elements keep their moments in fp32 (as in bitsandbytes and torchao)."""


def _blocks(fmt: str, block: int) -> Quantizer:
    return Quantizer(
        format=fmt, block=block, scale_format="fp32", scale_rule="absmax", rounding="stochastic", bits=8
    )


PRESETS: dict[str, tuple[Kind, Kind]] = {
    "fp32": ("fp32", "fp32"),
    "bf16": ("bf16", "bf16"),
    "fp8": (_blocks("e4m3", 256), _blocks("e5m2", 256)),
    "int8": (_blocks("int8", 256), _blocks("e5m2", 256)),
    "fp4": (_blocks("e2m1", 32), _blocks("e5m2", 256)),
}


def kinds(state: str | Sequence[Kind]) -> tuple[Kind, Kind]:
    """How the two moments are stored: from the name of a preset, or a pair of "fp32", "bf16" and quantizers.

    UserError for an unknown name and for a quantizer that cannot hold a moment.
    """
    if isinstance(state, str):
        if state not in PRESETS:
            raise UserError(
                f"unknown optimizer state {state!r}{suggest(state, PRESETS)}; known: "
                f"{', '.join(PRESETS)}, or "
                "a pair of quantizers for the first and the second moment"
            )
        return PRESETS[state]
    if isinstance(state, Quantizer) or len(state) != 2:
        raise UserError(f"optimizer state is a name or a pair (first moment, second moment), not {state!r}")
    first, second = (kind if kind in ("fp32", "bf16") else _checked(kind) for kind in state)
    if (first == "bf16") != (second == "bf16"):
        raise UserError(f"optimizer state {tuple(map(str, state))}: bf16 holds both moments or none")
    if isinstance(second, Quantizer) and second.format.min_positive * 2**16 > second.format.max:
        raise UserError(
            f"{second} cannot hold a second moment: its smallest number is {second.format.min_positive:g}, "
            f"its largest {second.format.max:g}, and what is smaller becomes zero; use a format of more "
            "exponent bits such as ue5m3"
        )
    return first, second


def _checked(kind: Kind) -> Quantizer:
    q = kind if isinstance(kind, Quantizer) else Quantizer(kind)
    if (
        not isinstance(q.block, int)
        or not arrays.optimizer_block(q.block)
        or q.scale_format != "fp32"
        or q.tensor_scale
        or q.zero_point
    ):
        raise UserError(
            f"{q} cannot hold optimizer state: it needs fp32 scales and blocks of 8, 16, .. or 32768"
        )
    if not q.is_stochastic:
        raise UserError(
            f"{q} rounds a moving average to nearest, which leaves it where it is; use "
            f"{q.replace(rounding='stochastic')}"
        )
    return q


def kept(parameter: Tensor, kind: Kind) -> Kind:
    """How a moment of this parameter is stored where `kind` was asked for."""
    small = parameter.numel() < SMALLEST_PACKED
    return "fp32" if small and not isinstance(kind, str) else kind


def allocate(name: str, parameter: Tensor, kind: Kind) -> dict[str, Tensor]:
    """Zeros for the moment `name` of a parameter, in C order: {name}, or (packed) its codes and scales."""
    kind = kept(parameter, kind)
    if isinstance(kind, str):
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        return {name: torch.zeros_like(parameter, dtype=dtype, memory_format=torch.contiguous_format)}
    if parameter.device.type != "cpu":
        raise UserError(
            f"packed optimizer state lies on the CPU, and a parameter is on {parameter.device}; use "
            'state="bf16" or "fp32"'
        )
    sizes = Layout(kind, (local(parameter).numel(),), 0).parts
    return {
        f"{name}_{part}": torch.zeros(shape, dtype=_DTYPES[word]) for part, (shape, word) in sizes.items()
    }


def read(state: Mapping[str, Tensor], name: str, shape: Sequence[int], kind: Kind) -> Tensor:
    """The moment as an fp32 tensor of the given shape, which may share memory with the state."""
    if name in state:
        return state[name].float()
    assert isinstance(kind, Quantizer)
    layout = Layout(kind, (math.prod(shape),), 0)
    parts = {part: state[f"{name}_{part}"] for part in layout.parts}
    return PackedTensor(layout, "fp32", torch.float32, parts).dequantize().view(tuple(shape))


def write_(
    state: Mapping[str, Tensor], name: str, value: Tensor, kind: Kind, address: tuple[int, int, int]
) -> None:
    """Store an fp32 moment as its kind says; codes are rounded with the bits of (seed, stream, offset)."""
    if name in state:
        state[name].copy_(value)
        return
    seed, stream, offset = address
    packed = quantize(value.flatten(), kind, seed=seed, stream=stream, offset=offset)
    state[f"{name}_codes"].copy_(packed.codes)
    state[f"{name}_scales"].copy_(packed.scales)


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor (FSDP2's are distributed)."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]
