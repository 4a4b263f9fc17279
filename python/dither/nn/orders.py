"""Block scales in the arithmetic orders of torchao and Transformer Engine, in pure torch.

Mirrors rust/numerics/src/orders.rs: a power of two or an 8-bit float that is stored, and the fp32 factor that
elements are multiplied by before they are rounded. All in fp32; infinity counts as a number here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dither.nn.floatbits import FP32, Layout, normalised, power_of_two, round_to_grid
from dither.nn.scales import STORED, Factors, Power
from dither.quantizer import Quantizer

_LN2 = 0.6931471805599453


def dialect_scale(q: Quantizer, absmax: Tensor, tensor_absmax: Tensor | None, layout: Layout) -> Factors:
    """The scales of blocks whose magnitude bits peak at `absmax`, in q's dialect (torchao, or te without a
    second level)."""
    value = layout.value(absmax)
    if q.scale_format != "e8m0":
        whole = None if tensor_absmax is None else layout.value(tensor_absmax).to(torch.float32)
        return _torchao_float(q, value, whole, layout)
    peak = value.to(torch.float32)
    if q.dialect == "te":
        exponent, encode = _te_power(q, peak)
    elif q.scale_rule == "rceil":
        exponent = _ceil_log2(peak / torch.full((), q.format.max, device=peak.device))
        encode = torch.where(exponent == -127, 0, -exponent)
    else:
        exponent = _torchao_exponent(q, peak)
        encode = -exponent.clamp(min=-126)
    return _factors(_power(encode), _power(exponent), layout)


def prescaled(q: Quantizer, scale: Power, absmax: Tensor, layout: Layout) -> Factors:
    """A power of two 2^e under a pre-scale: the factors `prescale 2^-e` and `2^e / prescale`, in fp32."""
    exponent = scale.exponent.to(torch.int32)
    encode = _power(-exponent) * q.prescale
    decode = _power(exponent) / torch.full((), q.prescale, device=absmax.device)
    return Factors(encode.to(layout.dtype), decode.to(layout.dtype), True, absmax == 0)


def _factors(encode: Tensor, decode: Tensor, layout: Layout) -> Factors:
    none = torch.zeros_like(decode, dtype=torch.bool)
    return Factors(encode.to(layout.dtype), decode.to(layout.dtype), True, none)


def _power(exponent: Tensor) -> Tensor:
    return FP32.value(power_of_two(exponent, FP32))


def _torchao_exponent(q: Quantizer, peak: Tensor) -> Tensor:
    bits = FP32.bits(peak)
    if q.scale_rule == "even":
        bits = (bits + (1 << (22 - q.format.mbits))) & 0x7F800000
    carry = (bits & 0x7FFFFF) != 0 if q.scale_rule == "ceil" else torch.zeros_like(bits)
    return ((bits >> 23) - 127 + carry.to(bits.dtype) - q.format.emax).clamp(-127, 128)


def _ceil_log2(x: Tensor) -> Tensor:
    """ceil(log2 x) with a logarithm rounded to fp32, which loses what lies close above an integer."""
    floor, fraction = normalised(FP32.bits(x), FP32)
    size = floor.abs()
    width = FP32.bits(size.to(torch.float32)) >> 23  # floor(log2 |k|) + 127
    halved = (floor < 0) & ((size & (size - 1)) == 0)
    # Fractions are multiples of 2^-23; the largest that is lost, in those units, is below spacing/2 ln 2.
    lost = (_power(width - 128 - halved.to(width.dtype)) * _LN2).to(torch.int32)
    exponent = floor + torch.where(size == 0, fraction > 0, fraction > lost).to(floor.dtype)
    exponent = torch.where(x == 0, -127, torch.where(torch.isinf(x), 127, exponent))
    return exponent.clamp(-127, 127)


def _te_power(q: Quantizer, peak: Tensor) -> tuple[Tensor, Tensor]:
    one = torch.ones((), device=peak.device)
    bits = FP32.bits(peak * (one / (one * q.format.max)))
    field, fraction = bits >> 23, bits & 0x7FFFFF
    up = (fraction > 0) & (field < 0xFE) & ~((field == 0) & (fraction <= 0x400000))
    exponent = (field + up.to(field.dtype)).clamp(max=0xFE) - 127
    return exponent, torch.where(exponent == -127, 0, -exponent)


def _torchao_float(q: Quantizer, absmax: Tensor, whole: Tensor | None, layout: Layout) -> Factors:
    """Divided twice, clamped to [smallest normal, max], multiplied by a reciprocal."""
    stored, one = STORED[str(q.scale_format)], torch.ones((), device=absmax.device)
    wanted = (absmax / torch.full((), q.format.max, dtype=layout.dtype, device=absmax.device)).to(one.dtype)
    decode = one
    if q.scale_rule == "static":
        decode = one * float(q.scale or 1)
    elif whole is not None:
        decode = whole / (one * (stored.max * q.format.max))
    if q.tensor_scale:
        wanted = wanted / decode
    limited = wanted.clamp(2.0**stored.emin, stored.max)
    bits = FP32.bits(limited)
    rounded = round_to_grid(bits, bits < 0, stored.emin, stored.mbits, "nearest_even", FP32)
    block = FP32.value(rounded).clamp(max=stored.max)
    block = torch.where(torch.isnan(wanted), wanted, block)
    return _factors((one / decode) / block, decode * block, layout)
