"""What recipes, methods and optimizers run: rotations, the quantizers of papers, penalties, steps."""

from __future__ import annotations

from math import prod
from typing import Any

from dither import _core
from dither.arrays.memory import Buffer, handle_of, split_at
from dither.quantizer import Quantizer
from dither.threads import get_num_threads


def run_hadamard(
    x: Buffer, out: Buffer, axis: int, block: int, signs: tuple[int, int, bool] | None, inverse: bool
) -> None:
    """Write the rotated blocks of `x` to `out` (the same memory, or memory that does not overlap it)."""
    _core.hadamard(
        split_at(x.shape, axis),
        block,
        signs,
        inverse,
        (x.ptr, x.dtype),
        (out.ptr, out.dtype),
        get_num_threads(),
    )


def run_ms_eden(x: Buffer, out: Buffer, axis: int, seed: int, stream: int, first: int) -> None:
    """Quantize rotated fp32 elements by MS-EDEN into `out` (the same memory, or memory apart from it); the
    blocks have the random bits from number `first` on."""
    assert x.dtype == out.dtype == "fp32"
    _core.ms_eden(split_at(x.shape, axis), (seed, stream, first), x.ptr, out.ptr, get_num_threads())


def run_quest(x: Buffer, out: Buffer, mask: Buffer, axis: int) -> None:
    """Quantize fp32 blocks of 32 by their deviation into `out` (the same memory, or memory apart from it);
    `mask` (u8) is 1 where nothing clips."""
    assert (x.dtype, out.dtype, mask.dtype) == ("fp32", "fp32", "u8") and x.shape == out.shape == mask.shape
    _core.quest(split_at(x.shape, axis), x.ptr, out.ptr, mask.ptr, get_num_threads())


def lotion_takes(q: Quantizer) -> bool:
    """Whether `run_lotion` has a kernel for the quantizer."""
    return _core.lotion_takes(handle_of(q))


def run_lotion(
    q: Quantizer, w: Buffer, g: Buffer, out: Buffer, factor: float, *, add: bool, through_scale: bool
) -> float:
    """Write `factor` times the gradient of LOTION's penalty to `out`, or add it; returns the penalty.

    Weights `w`, curvature `g` and `out` are fp32 of one shape, `out` memory of its own; blocks run along the
    last axis.
    """
    rows, columns = prod(w.shape[:-1]), (w.shape or (1,))[-1]
    assert {w.dtype, g.dtype, out.dtype} == {"fp32"} and w.shape == g.shape == out.shape
    addresses, how = (w.ptr, g.ptr, out.ptr), (factor, add, through_scale)
    return _core.lotion(handle_of(q), (rows, columns), addresses, how, get_num_threads())


def optimizer_block(block: int) -> bool:
    """Whether packed optimizer state can have blocks of this many elements."""
    return _core.optimizer_block(block)


def run_adamw(parameters: list[dict[str, Any]]) -> int | None:
    """One step of AdamW (rust/quant/src/optim.rs) of parameters as `dither.optim.kernel.describe` has them.

    Returns the first of them with a moment that has no code.
    """
    return _core.adamw(parameters, get_num_threads())


def optimizer_codes(q: Quantizer, codes: Buffer, scales: Buffer, address: tuple[int, int, int]) -> Any:
    """Packed state as `run_adamw` takes it."""
    return handle_of(q), q.block, codes.ptr, scales.ptr, address
