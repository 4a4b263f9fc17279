"""Custom ops `dither::*`: how torch calls, traces and differentiates the Rust kernels on CPU tensors.

An op names its quantizer by its print, since operators take strings and not Python objects; parsing is
remembered. `rng` is the int64 tensor [seed, stream], so that a compiled graph reads the position of a run as
data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dither import arrays, checks, formats, quantizer
from dither.arrays import Buffer, Random
from dither.errors import UserError
from dither.formats import Format
from dither.nn import fresh
from dither.nn.differentiable import one_after_the_other
from dither.quantizer import Quantizer

WORDS = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.uint32: "u32",
}
_CODES = {"u8": torch.uint8, "u16": torch.uint16, "u32": torch.uint32}
_UNSIGNED = (1 << 64) - 1


@torch.compiler.assume_constant_result
def parse(spec: str) -> Quantizer:
    """The quantizer that a print names; a constant to torch.compile, which cannot trace the parsing."""
    return quantizer.parse(spec)


@torch.compiler.assume_constant_result
def spec_of(q: Quantizer) -> str:
    """The print of a quantizer, which is what ops take."""
    return str(q)


@torch.compiler.assume_constant_result
def warn_inexact(spec: str, word: str) -> None:
    """checks.warn_inexact; in a traced graph once, when it is traced."""
    checks.warn_inexact(quantizer.parse(spec), word)


_LIBRARY = torch.library.Library("dither", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag,)
for _schema in (
    "fake_quant(Tensor x, str q, int axis=-1, Tensor? rng=None, SymInt offset=0, Tensor? random=None, "
    "ScalarType? out_dtype=None) -> Tensor",
    "neighbours(Tensor x, str q, int axis=-1) -> (Tensor, Tensor)",
    "encode(Tensor x, str q, Tensor? rng=None, SymInt offset=0, Tensor? random=None) -> Tensor",
    "decode(Tensor codes, str fmt) -> Tensor",
):
    _LIBRARY.define(_schema, tags=_TAGS)


def buffer(tensor: Tensor, word: str | None = None) -> Buffer:
    """A contiguous CPU tensor's memory; the Buffer keeps the tensor alive."""
    address = tensor.data_ptr()
    if not address and tensor.numel():
        raise TypeError(f"a {type(tensor).__name__} has no memory of its own: pass a plain tensor")
    return Buffer(address, word or WORDS[tensor.dtype], tensor.shape, tensor)


def on_cpu(tensor: Tensor) -> Tensor:
    """The tensor on the CPU. UserError for one on the meta device, where there is nothing to compute with."""
    if tensor.is_meta:
        raise UserError(
            "a tensor on the meta device holds no values: only fake_quant, cast, encode, decode, neighbours, "
            "quantize and hadamard say what their result would be"
        )
    return tensor.cpu()


def source(tensor: Tensor) -> Buffer:
    """The memory of a CPU tensor to be read: its own, or a copy where it is strided or misaligned."""
    tensor = tensor.contiguous()
    return buffer(tensor if is_aligned(tensor) else tensor.clone())


def is_aligned(tensor: Tensor) -> bool:
    """Whether the memory starts at a multiple of the element size (torch.frombuffer takes any offset)."""
    return tensor.data_ptr() % tensor.element_size() == 0


def draws(rng: Tensor | None, offset: int, random: Tensor | None) -> Random:
    """Where a kernel takes its random bits from: given integers, or an address."""
    if random is not None:
        # int32 holds the same 32 bits; .to keeps the low ones.
        return buffer(random.to(torch.int64).to(torch.int32).contiguous(), "u32")
    return None if rng is None else (*address(rng), offset)


def address(rng: Tensor) -> tuple[int, int]:
    """Seed and stream of the int64 pair `rng`, as the kernels take them."""
    seed, stream = rng.tolist()
    return seed & _UNSIGNED, stream & _UNSIGNED


def fake_quant_into(
    x: Tensor, out: Tensor, q: Quantizer, axis: int, rng: Tensor | None, offset: int, random: Tensor | None
) -> None:
    """Fill the contiguous `out` (x itself, or memory apart from it)."""
    bits = draws(rng, offset, random)
    if bits is None and q.is_stochastic:
        raise ValueError(f"{q} rounds stochastically: the op needs rng or random")
    if x.numel():
        arrays.run_fake_quant(q, source(x), buffer(out), axis, bits)


@torch.library.impl(_LIBRARY, "fake_quant", "CPU")
def _fake_quant(
    x: Tensor,
    q: str,
    axis: int = -1,
    rng: Tensor | None = None,
    offset: int = 0,
    random: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    out = fresh.empty(x.shape, out_dtype or x.dtype)
    fake_quant_into(x, out, quantizer.parse(q), checks.check_axis(axis, x.dim()), rng, offset, random)
    return out


@torch.library.register_fake("dither::fake_quant", lib=_LIBRARY)
def _(x, q, axis=-1, rng=None, offset=0, random=None, out_dtype=None):
    return x.new_empty(x.shape, dtype=out_dtype or x.dtype)


def _remember_dtype(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.dtype = inputs[0].dtype


def _straight_through(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return g.to(ctx.dtype), None, None, None, None, None, None


torch.library.register_autograd(
    "dither::fake_quant", _straight_through, setup_context=_remember_dtype, lib=_LIBRARY
)
one_after_the_other("dither::fake_quant", _LIBRARY)


def neighbour_dtype(q: Quantizer, dtype: torch.dtype) -> torch.dtype:
    """The dtype of neighbours: fp32 where a 16-bit input's dtype does not hold them exactly."""
    return dtype if WORDS[dtype] in ("fp32", "fp64") or q.exact_in(WORDS[dtype]) else torch.float32


@torch.library.impl(_LIBRARY, "neighbours", "CPU")
def _neighbours(x: Tensor, q: str, axis: int = -1) -> tuple[Tensor, Tensor]:
    parsed = quantizer.parse(q)
    lo, hi = (fresh.empty(x.shape, neighbour_dtype(parsed, x.dtype)) for _ in range(2))
    if x.numel():
        axis = checks.check_axis(axis, x.dim())
        arrays.run_neighbours(parsed, source(x), buffer(lo), buffer(hi), axis)
    return lo, hi


@torch.library.register_fake("dither::neighbours", lib=_LIBRARY)
def _(x, q, axis=-1):
    dtype = neighbour_dtype(quantizer.parse(q), x.dtype)
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape, dtype=dtype)


@torch.library.impl(_LIBRARY, "encode", "CPU")
def _encode(
    x: Tensor, q: str, rng: Tensor | None = None, offset: int = 0, random: Tensor | None = None
) -> Tensor:
    parsed = quantizer.parse(q)
    codes = fresh.empty(x.shape, code_dtype(parsed.format))
    encode_into(x, codes, parsed, rng, offset, random)
    return codes


def encode_into(
    x: Tensor, codes: Tensor, q: Quantizer, rng: Tensor | None, offset: int, random: Tensor | None
) -> None:
    """Write the codes of `x` under the cast `q`; both are CPU tensors, `codes` contiguous and aligned."""
    if x.numel():
        arrays.run_encode(q, source(x), buffer(codes), draws(rng, offset, random))


def code_dtype(fmt: Format) -> torch.dtype:
    """The dtype of codes: the narrowest of uint8, uint16 and uint32."""
    return _CODES[arrays.code_dtype(fmt)]


@torch.library.register_fake("dither::encode", lib=_LIBRARY)
def _(x, q, rng=None, offset=0, random=None):
    return x.new_empty(x.shape, dtype=code_dtype(quantizer.parse(q).format))


def value_dtype(fmt: Format) -> torch.dtype:
    """The dtype of decoded values: fp64 where fp32 does not hold every value of the format."""
    return torch.float32 if fmt.exact_in("fp32") else torch.float64


@torch.library.impl(_LIBRARY, "decode", "CPU")
def _decode(codes: Tensor, fmt: str) -> Tensor:
    stored = formats.get(fmt)
    values = fresh.empty(codes.shape, value_dtype(stored))
    decode_into(codes, values, stored)
    return values


def decode_into(codes: Tensor, values: Tensor, fmt: Format) -> None:
    """Write the values of codes; both are CPU tensors, `values` contiguous and aligned."""
    if codes.numel():
        arrays.run_decode(fmt, source(codes.to(code_dtype(fmt))), buffer(values))


@torch.library.register_fake("dither::decode", lib=_LIBRARY)
def _(codes, fmt):
    return codes.new_empty(codes.shape, dtype=value_dtype(formats.get(fmt)))
