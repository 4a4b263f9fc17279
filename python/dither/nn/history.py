"""Delayed scaling: the state of a layer, how it is used, and how a step of the clock moves it.

The state is one fp32 buffer, a row for each operand (twelve for attention's two products):

    [scale, maximum of this step, maximum of the last step, of the one before, ...]

A forward reads the scales and raises the maxima of this step, so it does not matter how often it runs:
recomputation and microbatches change nothing twice. `advance_` is called where the step changes.
Scales are what values are multiplied by, as in Transformer Engine: y = cast(x scale) (1 / scale).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from dither.nn import kernels, ops, scratch
from dither.nn.differentiable import refuse_transforms
from dither.nn.operand import Delayed
from dither.nn.patches import Patches
from dither.nn.ready import DGRAD_W, FPROP_W, FPROP_X, WGRAD_G, WGRAD_X, Operand, Operands
from dither.quantizer import Quantizer

SCALE, NOW, PAST = 0, 1, 2


def fresh_state(rows: int, history: int) -> Tensor:
    """The state before the first step: scales of 1, nothing recorded."""
    state = torch.zeros(rows, PAST + history)
    state[:, SCALE] = 1
    return state


def record_(x: Tensor, row: Tensor) -> None:
    """Raise the maximum of this step to that of `x`."""
    if x.numel():
        low, high = x.detach().aminmax()
        row[NOW].copy_(torch.maximum(row[NOW], torch.maximum(high, -low)))


def remember(
    x: Tensor, weight: Tensor, operands: Operands, state: Tensor | None, patches: Patches | None
) -> tuple[Tensor | None, Tensor | None]:
    """The scales of this position, and the state where this pass counts: one that is trained on."""
    if state is None:
        return None, None
    scales = state[:, SCALE].clone()
    if not torch.is_grad_enabled():
        return scales, None
    refuse_transforms(_WRITES)
    x = x if patches is None else patches.rows(x.detach())
    record(x, operands, (FPROP_X,), state)
    record(weight, operands, (FPROP_W, DGRAD_W), state)
    if not _is_delayed(operands.six[FPROP_X]):
        record(x, operands, (WGRAD_X,), state)
    return scales, state


def remembered(x: Tensor, operands: Operands, row: int, state: Tensor | None) -> Tensor | None:
    """The scales for an operand without a product, whose maximum is recorded."""
    if state is None:
        return None
    scales = state[:, SCALE].clone()
    if torch.is_grad_enabled():
        refuse_transforms(_WRITES)
        record(x, operands, (row,), state)
    return scales


def record(x: Tensor, operands: Operands, rows: tuple[int, ...], state: Tensor | None) -> None:
    if state is not None:
        for row in rows:
            if _is_delayed(operands.six[row]) and not (row == WGRAD_G and operands.one_gradient):
                record_(x, state[row])


def _is_delayed(operand: Operand | str | None) -> bool:
    return isinstance(operand, Operand) and operand.rule == "delayed"


_WRITES = 'delayed scaling writes down the maxima of every pass ("fp8_current" scales by what it sees)'


def scaled_cast(slot: int | None, x: Tensor, spec: str, scale: Tensor, dtype: torch.dtype | None) -> Tensor:
    """cast(x scale) / scale, saturating, in fp32 and then in `dtype` (default: its own)."""
    dtype, cast = dtype or x.dtype, _cast(spec)
    inverse = scale.reciprocal()
    if x.dtype == dtype == torch.float32 and scratch.available(x):
        out = torch.mul(x, scale, out=scratch.take(slot, x.shape, dtype))
        kernels.fake_quant_into(out, out, kernels.parse(cast), 0, None, 0, None)
        return out.mul_(inverse)
    wide = x if x.dtype == torch.float64 else x.float()
    return (ops.apply(wide * scale, cast) * inverse).to(dtype)


@torch.compiler.assume_constant_result
def _cast(spec: str) -> str:
    return _cast_of(spec)


@lru_cache(maxsize=64)
def _cast_of(spec: str) -> str:
    q = kernels.parse(spec)
    return str(Quantizer(format=q.format, rounding=q.rounding, bits=q.bits))


def advance_(states: list[tuple[Tensor, list[tuple[int, float, Delayed]]]]) -> None:
    """Take the maxima of the step that ended into the histories, and find the scales of the next.

    `states`: of every layer its state and (row, largest value of the format, settings) of its delayed
    operands. Rows that recorded nothing stay as they are. Over ranks the maxima are reduced in one call.
    """
    if not states:
        return
    with torch.no_grad():
        _reduce_([state for state, rows in states if any(how.reduce for _, _, how in rows)])
        alike: dict[tuple[Delayed, torch.device], list[tuple[Tensor, float]]] = {}
        for state, rows in states:
            for number, largest, how in rows:
                alike.setdefault((how, state.device), []).append((state[number], largest))
        for (how, _), rows in alike.items():
            _advance_rows_([row for row, _ in rows], [largest for _, largest in rows], how)


def _reduce_(states: list[Tensor]) -> None:
    if not (states and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    now = torch.cat([state[:, NOW] for state in states])
    dist.all_reduce(now, dist.ReduceOp.MAX)
    for state, reduced in zip(states, now.split([len(state) for state in states]), strict=True):
        state[:, NOW] = reduced


def _advance_rows_(rows: list[Tensor], largest: list[float], how: Delayed) -> None:
    """Rows of one setting together: a few operations, however many layers there are."""
    end = PAST + how.history
    all_ = torch.stack([row[:end] for row in rows])
    now = all_[:, NOW]
    past = torch.where(((now > 0) | now.isnan())[:, None], all_[:, NOW : end - 1], all_[:, PAST:])
    amax = past.amax(1) if how.pick == "max" else past[:, 0]
    scale = torch.tensor(largest, dtype=amax.dtype, device=amax.device) / amax / 2.0**how.margin
    usable = (amax > 0) & amax.isfinite() & scale.isfinite()
    scale = torch.where(usable, scale, all_[:, SCALE])
    moved = torch.cat([scale[:, None], torch.zeros_like(scale)[:, None], past], 1)
    for row, new in zip(rows, moved, strict=True):
        row[:end] = new
