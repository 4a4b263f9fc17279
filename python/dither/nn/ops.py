"""The torch face of the numbers: fake_quant, cast, encode, decode, neighbours and error_stats on tensors.

CPU tensors go through custom ops (`torch.ops.dither.*`, opaque to Inductor, with fake kernels and a
straight-through gradient) to the Rust kernels, which read and write the tensors' memory. Tensors elsewhere go
to the pure-torch twin. Contiguous input is read in place; any other is copied once. Results are contiguous.

`rng`, the int64 tensor [seed, stream], can replace `seed` and `stream`: a compiled graph then takes the
position as data and is not compiled again when it changes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from dither import arrays
from dither.errors import UserError
from dither.nn import twin
from dither.nn.streams import signed
from dither.quantizer import Quantizer

_DTYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64",
    torch.uint8: "u8", torch.uint16: "u16", torch.uint32: "u32",
}  # fmt: skip
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_UNSIGNED = (1 << 64) - 1

parse = lru_cache(maxsize=1024)(Quantizer)
"""Quantizer of a printed form, remembered: what an op gets per call is a string."""

_LIB = torch.library.Library("dither", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag,)
_LIB.define(
    "fake_quant(Tensor x, str q, int axis=-1, Tensor? rng=None, SymInt offset=0, Tensor? random=None, "
    "ScalarType? out_dtype=None) -> Tensor",
    tags=_TAGS,
)
_LIB.define("neighbours(Tensor x, str q, int axis=-1) -> (Tensor, Tensor)", tags=_TAGS)
_LIB.define(
    "encode(Tensor x, str q, Tensor? rng=None, SymInt offset=0, Tensor? random=None) -> Tensor", tags=_TAGS
)
_LIB.define("decode(Tensor codes, str fmt) -> Tensor", tags=_TAGS)


def _buffer(tensor: Tensor) -> arrays.Buffer:
    return arrays.Buffer(tensor.data_ptr(), _DTYPES[tensor.dtype], tuple(tensor.shape), tensor)


def _draws(rng: Tensor | None, offset: int, random: Tensor | None) -> dict[str, Any]:
    """What the kernels take to draw random bits."""
    if random is not None:
        return {"random": _buffer(random.contiguous())}
    if rng is None:
        return {}
    seed, stream = rng.tolist()
    return {"seed": seed & _UNSIGNED, "stream": stream & _UNSIGNED, "offset": offset}


@torch.library.impl(_LIB, "fake_quant", "CPU")
def _fake_quant_cpu(
    x: Tensor,
    q: str,
    axis: int = -1,
    rng: Tensor | None = None,
    offset: int = 0,
    random: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    out = torch.empty(x.shape, dtype=out_dtype or x.dtype)
    arrays.run_fake_quant(
        parse(q), _buffer(x.contiguous()), _buffer(out), axis, **_draws(rng, offset, random)
    )
    return out


@torch.library.register_fake("dither::fake_quant", lib=_LIB)
def _fake_quant_fake(
    x: Tensor,
    q: str,
    axis: int = -1,
    rng: Tensor | None = None,
    offset: int = 0,
    random: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    return x.new_empty(x.shape, dtype=out_dtype or x.dtype)


def _keep_dtype(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.dtype = inputs[0].dtype


def _straight_through(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return g.to(ctx.dtype), None, None, None, None, None, None


torch.library.register_autograd("dither::fake_quant", _straight_through, setup_context=_keep_dtype, lib=_LIB)


class _Twin(torch.autograd.Function):
    """The twin with the gradient passed through."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        q: str,
        axis: int,
        rng: Tensor | None,
        offset: int,
        random: Tensor | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        ctx.dtype = x.dtype
        return twin.fake_quant(x, parse(q), axis, rng=rng, offset=offset, random=random, out_dtype=dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return _straight_through(ctx, g)


def apply(
    x: Tensor,
    spec: str,
    axis: int = -1,
    rng: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    offset: int = 0,
    random: Tensor | None = None,
) -> Tensor:
    """fake_quant without checks or conversions, for layers: `spec` is the print of a quantizer."""
    if x.is_cpu:
        return torch.ops.dither.fake_quant.default(x, spec, axis, rng, offset, random, out_dtype)
    return _Twin.apply(x, spec, axis, rng, offset, random, out_dtype)


def _rng(
    q: Quantizer, rng: Tensor | None, seed: int | None, stream: int, random: Tensor | None
) -> Tensor | None:
    """[seed, stream] where the rounding is stochastic and its bits are not given."""
    if q.rounding != "stochastic" or random is not None:
        return None
    if rng is not None:
        return rng
    if seed is None:
        raise UserError(f"{q} rounds stochastically: give seed= (and stream=), rng= or random=")
    return torch.tensor([signed(seed), signed(stream)], dtype=torch.int64)


def fake_quant(
    x: Tensor,
    q: Quantizer | str,
    axis: int = -1,
    *,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Tensor | None = None,
    rng: Tensor | None = None,
    out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Quantize and dequantize `x` (fp32, bf16, fp16 or fp64) with blocks along `axis`.

    The gradient passes straight through. Returns a contiguous tensor of x's shape in `out_dtype` (default
    x's), or `out`, which must be contiguous and on the CPU, filled; `out` takes no part in autograd.

    Stochastic rounding needs `seed` (and `stream`), or `rng` = int64 tensor [seed, stream], or the bits
    themselves in `random` (integers of x's shape below 2^bits). `offset` is the logical index of the first
    element.
    """
    q = q if isinstance(q, Quantizer) else parse(q)
    rng = _rng(q, rng, seed, stream, random)
    if out is None:
        return apply(x, str(q), axis, rng, out_dtype, offset, random)
    if out_dtype not in (None, out.dtype):
        raise TypeError(f"out= is {out.dtype} but out_dtype= is {out_dtype}; give one of them")
    arrays.run_fake_quant(
        q, _buffer(x.detach().contiguous()), _buffer(out), axis, **_draws(rng, offset, random)
    )
    return out
