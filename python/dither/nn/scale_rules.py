"""Scales that no quantizer finds by itself: at least so large, from the deviation, or rounded at random.

Kernels on the CPU and torch compositions elsewhere; blocks run along `axis`, a ragged one last.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dither import arrays, eden
from dither.checks import check_axis
from dither.nn import fresh, kernels, ops, scratch
from dither.nn.blocking import Blocks
from dither.nn.differentiable import one_after_the_other
from dither.quantizer import Quantizer

QUEST_CLIP = 2.92247856
"""Deviations at which clipping a normal value to the FP4 grid errs least (arXiv 2505.14669)."""


def at_least(x: Tensor, spec: str, least: float, axis: int, dtype: torch.dtype | None) -> Tensor:
    """Blocks whose absmax is below `least` take the scale of `least` instead of their own."""
    return torch.ops.dither.fake_quant_at_least.default(x, spec, least, axis, dtype or x.dtype)


_LIBRARY = torch.library.Library("dither", "FRAGMENT")
for _schema in (
    "fake_quant_at_least(Tensor x, str q, float least, int axis, ScalarType out_dtype) -> Tensor",
    "ms_eden(Tensor r, int axis, Tensor rng, int offset) -> Tensor",
    "quest(Tensor x, int axis) -> (Tensor, Tensor)",
):
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    one_after_the_other(f"dither::{_schema.partition('(')[0]}", _LIBRARY)


@torch.library.impl(_LIBRARY, "fake_quant_at_least", "CompositeExplicitAutograd")
def _at_least(x: Tensor, spec: str, least: float, axis: int, dtype: torch.dtype) -> Tensor:
    q, blocks = kernels.parse(spec), Blocks(x.shape, kernels.parse(spec).block, axis)
    if not x.numel():
        return torch.empty_like(x, dtype=dtype)
    split = blocks.split(x)
    low = torch.maximum(split.amax(2, keepdim=True), -split.amin(2, keepdim=True)) < least
    if not low.any():
        return ops.apply(x, spec, axis, None, dtype)
    scale = float(np.float32(least) / np.float32(q.format.max))
    fixed = ops.apply(x, str(q.replace(scale_rule="static", scale=scale)), axis, None, dtype)
    if low.all():
        return fixed
    return torch.where(blocks.join(low.expand_as(split)), fixed, ops.apply(x, spec, axis, None, dtype))


@torch.library.register_fake("dither::fake_quant_at_least", lib=_LIBRARY)
def _(x, q, least, axis, out_dtype):
    return x.new_empty(x.shape, dtype=out_dtype)


def quest(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """MXFP4 with the scale 2^floor(log2(2.92 std / 6)) of a block of 32, rounded to nearest; and where it
    does not clip, which is where its gradient passes."""
    if scratch.available(x):
        return _quest_on_cpu(x, axis)
    return torch.ops.dither.quest.default(x, axis)


@torch.library.impl(_LIBRARY, "quest", "CompositeExplicitAutograd")
def _quest(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    z, scale, blocks = _quest_scale(x, axis)
    return blocks.join(ops.apply(z / scale, _FP4) * scale).to(x.dtype), blocks.join(z.abs() < 6 * scale)


@torch.library.impl(_LIBRARY, "quest", "CPU")
def _quest_on_cpu(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    if x.dtype == torch.float64:
        return _quest(x, axis)
    y = fresh.empty(x.shape, torch.float32)
    mask = _quest_into(kernels.source(x.float()), y, axis)
    return y.to(x.dtype), mask


def quest_(r: Tensor, axis: int) -> Tensor:
    """`quest` in place, of a contiguous fp32 CPU tensor; returns where it does not clip."""
    return _quest_into(kernels.buffer(r), r, axis)


def _quest_into(x: arrays.Buffer, y: Tensor, axis: int) -> Tensor:
    mask = torch.empty(y.shape, dtype=torch.bool)
    if y.numel():
        trusted = kernels.buffer(mask.view(torch.uint8))
        arrays.run_quest(x, kernels.buffer(y), trusted, check_axis(axis, y.dim()))
    return mask


@torch.library.register_fake("dither::quest", lib=_LIBRARY)
def _(x, axis):
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=torch.bool)


_FP4 = str(Quantizer(format="e2m1"))


def _quest_scale(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Blocks]:
    blocks = Blocks(x.shape, 32, axis)
    z = blocks.split(x.to(torch.float64 if x.dtype == torch.float64 else torch.float32))
    deviation = z.double().std(dim=2, correction=0, keepdim=True).to(z.dtype) * (QUEST_CLIP / 6) + 1e-8
    _, exponent = torch.frexp(deviation)  # in [2^(e-1), 2^e)
    return z, torch.ldexp(torch.ones_like(deviation), exponent - 1), blocks


def ms_eden(r: Tensor, axis: int, rng: Tensor, offset: int) -> Tensor:
    """`dither.ms_eden` of what is rotated already; `rng` = [seed, stream] of the scales, `offset` the index
    of the first element in the whole operand."""
    return torch.ops.dither.ms_eden.default(r, axis, rng, offset)


def ms_eden_(r: Tensor, axis: int, rng: Tensor, offset: int) -> Tensor:
    """`ms_eden` in place, of a contiguous CPU tensor."""
    if r.dtype != torch.float32:
        return r.copy_(_ms_eden(r, axis, rng, offset))
    if r.numel():
        memory, place = kernels.buffer(r), check_axis(axis, r.dim())
        arrays.run_ms_eden(memory, memory, place, *kernels.address(rng), offset // eden.BLOCK)
    return r


@torch.library.impl(_LIBRARY, "ms_eden", "CompositeExplicitAutograd")
def _ms_eden(r: Tensor, axis: int, rng: Tensor, offset: int) -> Tensor:
    wide = torch.empty(r.shape, dtype=torch.float32).copy_(r.detach())
    return ms_eden_(wide, axis, rng, offset).to(r.device, r.dtype)


@torch.library.register_fake("dither::ms_eden", lib=_LIBRARY)
def _(r, axis, rng, offset):
    return r.new_empty(r.shape)
