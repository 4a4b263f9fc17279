"""Fake quantization in pure torch: the Rust kernels' twin, bit for bit, for any device and torch.compile.

Written from the arithmetic that rust/numerics states, with integer operations on the bits of floats, so
Inductor can fuse it and no device needs a kernel of its own. It is what non-CPU tensors use. Bit-equality
with Rust is tested on CPU, eager and compiled; it presumes that subnormals are kept (torch's default). On
other devices it has not been run; the one step that depends on the device is division, which must be
correctly rounded (eager CUDA is; Triton is where `torch._inductor.config.eager_numerics.division_rounding` is
set).

All functions take fp32, bf16, fp16 or fp64 tensors, compute in fp32 (fp64 for fp64) and round once to
`out_dtype`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dither.nn.blocking import Blocks
from dither.nn.elements import next_on, round_to
from dither.nn.floatbits import Layout, layout_of
from dither.nn.orders import dialect_scale, prescaled
from dither.nn.philox import random_bits
from dither.nn.scales import Factors, Power, block_scale
from dither.quantizer import STOCHASTIC, Quantizer


def covers(q: Quantizer) -> bool:
    """Whether the twin does what `q` says. A table of values has no arithmetic of its own; the mse search,
    zero points and P3109's quotients are left to the CPU, and so are a few policies."""
    if q.format.kind == "codebook":
        return False
    if q.block is None:
        return True
    small = isinstance(q.block, int) and q.block <= _UNROLLED
    return (
        q.scale_rule != "mse"
        and q.dialect != "p3109"
        and not q.zero_point
        and (q.nan == "block" or (q.zero_scale == "rule" and q.format.signed))
        and (not q.four_over_six or small)
    )


_UNROLLED = 64
"""Elements of a block whose errors are added in rows of lanes."""
_LANES = 8


def fake_quant(
    x: Tensor,
    q: Quantizer,
    axis: int = -1,
    *,
    rng: Tensor | None = None,
    offset: int = 0,
    random: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Quantize and dequantize `x` with blocks along `axis`; a quantizer without a scale is a plain cast.

    `rng` is the int64 tensor [seed, stream] of a stochastic rounding and `offset` the logical index of the
    first element; `random` gives the bits themselves (integers of x's shape). Returns a contiguous tensor of
    x's shape.
    """
    if x.numel() == 0:
        return torch.empty_like(x, dtype=out_dtype, memory_format=torch.contiguous_format)
    layout = layout_of(x.dtype)
    blocks = Blocks(x.shape, q.block, axis)
    z = blocks.split(x.to(layout.dtype))
    bits = _bits_for(q, x, rng, offset, random)
    if bits is not None:
        bits = blocks.split(bits)
    y = _quantize(z, q, layout, q.rounding, bits)
    return blocks.join(y).to(out_dtype or x.dtype)


def neighbours(
    x: Tensor, q: Quantizer, axis: int = -1, *, out_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The largest value of x's block grid that is at most x and the smallest that is at least x.

    Outside the grid both are its nearest end; in a block with NaN or Inf both are NaN.
    """
    dtype = out_dtype or x.dtype
    if x.numel() == 0:
        return torch.empty_like(x, dtype=dtype), torch.empty_like(x, dtype=dtype)
    layout = layout_of(x.dtype)
    blocks = Blocks(x.shape, q.block, axis)
    lo, hi = _neighbours(blocks.split(x.to(layout.dtype)), q, layout)
    return blocks.join(lo).to(dtype), blocks.join(hi).to(dtype)


def _bits_for(
    q: Quantizer, x: Tensor, rng: Tensor | None, offset: int, random: Tensor | None
) -> Tensor | None:
    if q.rounding not in STOCHASTIC:
        return None
    if random is not None:
        return random.to(torch.int64)
    if rng is None:
        raise ValueError("stochastic rounding needs `rng` or `random`")
    return random_bits(x.numel(), q.bits, rng.to(x.device), offset).view(x.shape)


def _peaks(x: Tensor, q: Quantizer, layout: Layout) -> tuple[Tensor, Tensor | None, Tensor]:
    """Peak magnitude bits of each block and, for a second-level scale, of all; and where the result is NaN.

    As integers NaN > Inf > every number, so one maximum finds the absmax and the specials.
    """
    magnitude = layout.bits(x) & layout.magnitude
    limit = layout.infinity + (1 if _counts_infinity(q) else 0)  # from here on it is no number
    if q.nan != "block":
        magnitude = torch.where(magnitude >= limit, 0, magnitude)
    block = magnitude.amax(dim=2, keepdim=True)
    if not q.tensor_scale:
        return block, None, block >= limit
    whole = block.amax()
    return block, whole, block >= limit if q.scale_rule == "static" else whole >= limit


def _counts_infinity(q: Quantizer) -> bool:
    return q.dialect == "torchao" or (q.dialect == "te" and not q.tensor_scale)


def _scale(q: Quantizer, absmax: Tensor, whole: Tensor | None, layout: Layout) -> Power | Factors:
    if _counts_infinity(q):
        return dialect_scale(q, absmax, whole, layout)
    scale = block_scale(q, absmax, whole, layout)
    return prescaled(q, scale, absmax, layout) if isinstance(scale, Power) and q.prescale != 1 else scale


def _quantize(x: Tensor, q: Quantizer, layout: Layout, rounding: str, random: Tensor | None) -> Tensor:
    """Fake-quantized values of a blocked (or, for a plain cast, any) tensor of the compute type."""
    if q.block is None:
        return round_to(x, q.format, 0, rounding, q.overflow, layout, random, q.bits)
    absmax, whole, poisoned = _peaks(x, q, layout)
    scale = _scale(q, absmax, whole, layout)
    if q.four_over_six and isinstance(scale, Factors):
        scale = _better(x, q, scale, absmax, whole, layout)
    y = _apply(x, q, scale, layout, rounding, random)
    if q.nan != "block":
        y = _specials(x, y, q, scale, absmax)
    return torch.where(poisoned, float("nan"), y)


def _apply(
    x: Tensor,
    q: Quantizer,
    scale: Power | Factors,
    layout: Layout,
    rounding: str,
    random: Tensor | None = None,
) -> Tensor:
    if isinstance(scale, Factors):
        z = _encode(x, scale, layout)
        y = round_to(z, q.format, 0, rounding, q.overflow, layout, random, q.bits) * scale.decode
        return y if q.format.has_zero else torch.where(scale.zero, 0, y)
    y = round_to(x, q.format, scale.exponent, rounding, q.overflow, layout, random, q.bits)
    return torch.where(y == 0, 0, y) if q.dialect == "microxcaling" else y


def _specials(x: Tensor, y: Tensor, q: Quantizer, scale: Power | Factors, absmax: Tensor) -> Tensor:
    """What NaN and infinity become under a policy, where rounding does not give it already."""
    zero = scale.zero if isinstance(scale, Factors) else torch.zeros_like(absmax, dtype=torch.bool)
    if q.nan == "element":
        y = torch.where(zero & ~torch.isfinite(x), float("nan"), y)
        if (q.format.one_nan and not q.format.has_inf) or _counts_infinity(q):
            return y
        kept = x if q.format.has_inf else torch.full_like(x, float("nan"))
        kept = kept * scale.decode if isinstance(scale, Factors) else kept
        return torch.where(torch.isinf(x) & ~zero, kept, y)
    if q.format.has_nan:
        return torch.where(zero & torch.isnan(x), float("nan"), y)
    top = _apply(torch.full_like(x, float("inf")), q, scale, layout_of(x.dtype), "nearest_even")
    return torch.where(torch.isnan(x), torch.where(zero, 0, top), y)


def _better(
    x: Tensor, q: Quantizer, six: Factors, absmax: Tensor, whole: Tensor | None, layout: Layout
) -> Factors:
    """Of the scale that maps the absmax to 6 and 3/2 of it, the one that errs less; 6 where equal."""
    four = block_scale(q, absmax, whole, layout, 1.5)
    assert isinstance(four, Factors)
    rounding = "nearest_even" if q.rounding in STOCHASTIC else q.rounding
    sums = []
    for scale in (six, four):
        error = (_apply(x, q, scale, layout, rounding).double() - x.double()).abs()
        error = torch.where(torch.isfinite(x), error if q.four_over_six == "mae" else error * error, 0)
        sums.append(_in_lanes(error))
    better = sums[1] < sums[0]
    return Factors(
        torch.where(better, four.encode, six.encode),
        torch.where(better, four.decode, six.decode),
        six.reciprocal,
        torch.where(better, four.zero, six.zero),
    )


def _in_lanes(x: Tensor) -> Tensor:
    """The sums of blocks as the CPU adds them: in eight lanes, then by halves."""
    lanes = x[:, :, :_LANES]
    if lanes.shape[2] < _LANES:
        lanes = torch.nn.functional.pad(lanes, (0, 0, 0, _LANES - lanes.shape[2]))
    for start in range(_LANES, x.shape[2], _LANES):
        more = x[:, :, start : start + _LANES]
        lanes = lanes + torch.nn.functional.pad(more, (0, 0, 0, _LANES - more.shape[2]))
    while lanes.shape[2] > 1:
        lanes = lanes[:, :, : lanes.shape[2] // 2] + lanes[:, :, lanes.shape[2] // 2 :]
    return lanes


def _encode(x: Tensor, scale: Factors, layout: Layout) -> Tensor:
    z = x * scale.encode if scale.reciprocal else x / scale.encode
    return torch.where(scale.zero, layout.value(layout.bits(x) & layout.sign), z)


def _neighbours(x: Tensor, q: Quantizer, layout: Layout) -> tuple[Tensor, Tensor]:
    fmt = q.format

    def on_grid(z: Tensor, rounding: str, shift: int | Tensor = 0) -> Tensor:
        return round_to(z, fmt, shift, rounding, "saturate", layout)

    if q.block is None:
        return on_grid(x, "down"), on_grid(x, "up")
    absmax, whole, poisoned = _peaks(x, q, layout)
    scale = _scale(q, absmax, whole, layout)
    if q.four_over_six and isinstance(scale, Factors):
        scale = _better(x, q, scale, absmax, whole, layout)
    if isinstance(scale, Power):
        lo, hi = on_grid(x, "down", scale.exponent), on_grid(x, "up", scale.exponent)
        lo, hi = torch.where(absmax == 0, 0, lo), torch.where(absmax == 0, 0, hi)
    else:
        # The quotient is rounded, so the true neighbours can be one step away from its own.
        # Not by `encode`, which is no reciprocal where it is bounded and in some dialects.
        first = on_grid(torch.where(scale.zero | (scale.decode == 0), 0, x / scale.decode), "down")
        below, above = next_on(first, on_grid, -1, layout), next_on(first, on_grid, 1, layout)
        code = torch.where(
            first * scale.decode > x, below, torch.where(above * scale.decode <= x, above, first)
        )
        upper = torch.where(code * scale.decode >= x, code, next_on(code, on_grid, 1, layout))
        lo = torch.where(scale.zero, 0, code * scale.decode)
        hi = torch.where(scale.zero, 0, upper * scale.decode)
    nan = poisoned | torch.isnan(x)
    return torch.where(nan, float("nan"), lo), torch.where(nan, float("nan"), hi)
