"""Which random stream an operand draws from: one formula, so a resumed or recomputed pass draws alike.

    stream = site << 48 | operand << 44 | microbatch << 32 | step

`site` is the position of the product or weight among all that could be quantized (so exempting one leaves the
others' bits alone), `operand` the position in OPERANDS; `step` counts optimizer steps and `microbatch` the
forwards within one. The element's position in its operand is the index within the stream.

The signs of a rotation come from another key, seed ^ ROTATION: fresh ones from the stream of the product's
first operand, fixed ones from stream 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dither.errors import UserError
from dither.scaling import whole

PRODUCTS = ("fprop", "dgrad", "wgrad")
OPERANDS = ("fprop_x", "fprop_w", "dgrad_g", "dgrad_w", "wgrad_g", "wgrad_x")
ROWS = len(OPERANDS) + len(PRODUCTS)
"""Addresses that a layer holds: those of its operands, then those of the rotations of its products."""
ROTATION = 0x48414441_4D415244  # "HADAMARD"

_FIELDS = (("site", 16), ("operand", 4), ("microbatch", 12), ("step", 32))


def stream(site: int, operand: int, microbatch: int, step: int) -> int:
    """The 64-bit stream of one operand at one position; UserError where a field does not fit its bits."""
    packed = 0
    for (name, width), value in zip(_FIELDS, (site, operand, microbatch, step), strict=True):
        value = whole(value)
        if not isinstance(value, int) or not 0 <= value < 1 << width:
            raise UserError(
                f"{name} = {value} does not fit its {width} bits of the random stream (0..{(1 << width) - 1})"
            )
        packed = packed << width | value
    return packed


def addresses(seed: int, site: int, step: int, microbatch: int, fixed: tuple[bool, ...]) -> Tensor:
    """[seed, stream] of every operand and rotation: int64 (ROWS, 2).

    `fixed`: for fprop, dgrad and wgrad, whether their rotation keeps its signs.
    """
    streams = [stream(site, number, microbatch, step) for number in range(len(OPERANDS))]
    signs = [0 if fixed[product] else streams[2 * product] for product in range(len(PRODUCTS))]
    rows = [[signed(seed), signed(one)] for one in streams]
    rows += [[signed(seed % (1 << 64) ^ ROTATION), signed(one)] for one in signs]
    return torch.tensor(rows, dtype=torch.int64)


def signed(value: int) -> int:
    """A 64-bit unsigned value as the int64 that holds the same bits, which is what torch tensors store."""
    if not -(1 << 63) <= value < 1 << 64:
        raise UserError(f"{value} is not a 64-bit integer; seeds and streams lie in 0..2**64 - 1")
    return value - (1 << 64) if value >= 1 << 63 else value
