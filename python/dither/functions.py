"""The public functions on arrays: numpy in, numpy out; torch tensors go to `dither.nn.ops`, same signatures.

Results are formed in fp32 (fp64 for fp64 input) and rounded once to `out_dtype`, by default the input's
dtype. Strided input is accepted at the price of one copy; `out=` must be C-contiguous, writable and of the
input's shape, and may be the input itself. The accepted dtypes are float32, float64, float16 and bfloat16
(ml_dtypes' in numpy).
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from dither import arrays, formats
from dither.arrays import Buffer, Random
from dither.errors import UserError, require
from dither.formats import Format
from dither.quantizer import Quantizer

_WORDS = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}
_NUMPY = {
    "fp32": "float32",
    "fp64": "float64",
    "fp16": "float16",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
}


def _handler(x: Any) -> Any | None:
    """The module that implements these functions for `x`'s library; None for what numpy can read."""
    for cls in type(x).__mro__:  # a subclass of another library's array can live anywhere
        if name := arrays.HANDLERS.get(cls.__module__.partition(".")[0]):
            return importlib.import_module(name)
    return None


def _quantizer(q: str | Quantizer) -> Quantizer:
    return q if isinstance(q, Quantizer) else Quantizer(q)


def _input(x: Any) -> np.ndarray:
    if hasattr(x, "mask") and isinstance(x, np.ma.MaskedArray):  # np.ma is not loaded before it is needed
        raise TypeError("a masked array has no place for its mask here; pass x.filled(value) or x.data")
    x = np.asarray(x)
    if x.dtype.name not in _WORDS:
        raise TypeError(
            f"float32, float64, float16 and bfloat16 arrays can be quantized, not {x.dtype}; "
            "convert with x.astype('float32')"
        )
    return x if _is_plain(x) else np.array(x, x.dtype.newbyteorder("="), order="C")


def _is_plain(x: np.ndarray) -> bool:
    """Whether the extension can use the memory of `x` as it is."""
    return x.flags.c_contiguous and x.flags.aligned and x.dtype.isnative


def _buffer(x: np.ndarray, word: str | None = None) -> Buffer:
    return Buffer(x.__array_interface__["data"][0], word or _WORDS[x.dtype.name], x.shape, x)


def _dtype(word_or_dtype: Any) -> np.dtype:
    """A dtype word, or anything numpy takes for one, as one of the four dtypes."""
    if word_or_dtype == "bf16":
        return np.dtype(require("ml_dtypes", "safetensors").bfloat16)
    dtype = np.dtype(
        _NUMPY.get(word_or_dtype, word_or_dtype) if isinstance(word_or_dtype, str) else word_or_dtype
    )
    if dtype.name not in _WORDS or not dtype.isnative:
        raise TypeError(f"out_dtype is one of fp32, fp64, fp16 and bf16, not {dtype}")
    return dtype


def _output(x: np.ndarray, out: Any, out_dtype: Any) -> np.ndarray:
    """The array to write: `out` after its checks, or a new one."""
    if out is None:
        y = np.empty(x.shape, x.dtype if out_dtype is None else _dtype(out_dtype))
        arrays.prefer_huge_pages(y.__array_interface__["data"][0], y.nbytes)
        return y
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out= is a numpy array like the input, not {type(out).__name__}")
    if out_dtype is not None and out.dtype != _dtype(out_dtype):
        raise UserError(f"out= holds {out.dtype} but out_dtype asks for {_dtype(out_dtype)}")
    if out.dtype.name not in _WORDS:
        raise TypeError(f"out= holds {out.dtype}; use float32, float64, float16 or bfloat16")
    same = out.__array_interface__["data"][0] == x.__array_interface__["data"][0] and out.dtype == x.dtype
    _check_memory(x, out)
    if not same and np.shares_memory(out, x):
        raise UserError("out= overlaps the input in part: pass the input itself or separate memory")
    return out


def _fixed_output(x: np.ndarray, out: Any, dtype: str) -> np.ndarray:
    """The array of this dtype to write: `out` after its checks, or a new one."""
    if out is None:
        return np.empty(x.shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        have = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out= is a numpy array of {dtype}, not {have}")
    _check_memory(x, out)
    if np.shares_memory(out, x):
        raise UserError("out= overlaps the input: pass separate memory")
    return out


def _check_memory(x: np.ndarray, out: np.ndarray) -> None:
    if out.shape != x.shape:
        raise UserError(f"out= has shape {out.shape}, the input {x.shape}")
    if not out.flags.writeable:
        raise UserError("out= is read-only: pass a writable array, for example a copy of it")
    if not _is_plain(out):
        raise UserError(
            "out= must be C-contiguous, aligned and in native byte order: leave it out and copy the result"
        )


def _random(q: Quantizer, x: np.ndarray, seed: Any, stream: Any, offset: Any, random: Any) -> Random:
    """Where the random bits of a stochastic quantizer come from; None for the others."""
    if not q.is_stochastic:
        return None
    if random is None:
        if seed is None:
            raise UserError("stochastic rounding needs seed= (its bits are addressed, not drawn) or random=")
        return arrays.check_address(seed, stream, offset)
    given = np.asarray(random)
    if given.shape != x.shape or given.dtype.kind not in "iu":
        raise UserError(
            f"random= holds one integer an element: shape {x.shape}, not {given.dtype} of shape {given.shape}"
        )
    if given.size and not (0 <= int(given.min()) and int(given.max()) < 1 << q.bits):
        raise UserError(
            f"random= holds integers from 0 to 2**{q.bits} - 1, as many bits as the quantizer reads"
        )
    return _buffer(np.require(given, np.uint32, ["C", "A"]), "u32")


def fake_quant(
    x: Any,
    q: str | Quantizer,
    axis: int = -1,
    *,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
    out: Any = None,
    out_dtype: Any = None,
) -> Any:
    """Quantize and dequantize: what `x` becomes when it is stored in the format of `q`.

    Args:
        x: array or tensor of any shape.
        q: quantizer or preset name.
        axis: the axis along which blocks run.
        seed, stream, offset: the address of the random bits of stochastic rounding: element i in C order
            reads index `offset + i` of `stream` under `seed`, on every device and for any number of threads.
            Seed and stream are unsigned 64-bit integers; the offset is below 2**63.
        random: the random integers themselves, of x's shape and below 2**q.bits, instead of an address.
        out: where to write (may be `x` itself).
        out_dtype: dtype of the result (default: that of `out`, else of `x`).

    Returns an array of x's shape. NaN or infinity in a block makes the whole block NaN; without a block scale
    they follow the overflow mode. Raises UserError (a ValueError) for what cannot be done and TypeError for
    wrong dtypes.
    """
    if (handler := _handler(x)) is not None:
        return handler.fake_quant(
            x, q, axis, seed=seed, stream=stream, offset=offset, random=random, out=out, out_dtype=out_dtype
        )
    q = _quantizer(q)
    x = _input(x)
    axis = arrays.check_axis(axis, x.ndim)
    y = _output(x, out, out_dtype)
    arrays.warn_inexact(q, _WORDS[y.dtype.name])
    bits = _random(q, x, seed, stream, offset, random)
    given = bits if isinstance(bits, Buffer) else None
    address = bits if isinstance(bits, tuple) else (0, 0, 0)
    if x.size:
        arrays.run_fake_quant(q, _buffer(x), _buffer(y), axis, *address, random=given)
    return y


def _cast(fmt: str | Format, rounding: str, bits: int | None, overflow: str | None) -> Quantizer:
    return Quantizer(format=fmt, rounding=rounding, bits=bits, overflow=overflow)


def cast(
    x: Any,
    fmt: str | Format,
    *,
    rounding: str = "nearest_even",
    bits: int | None = None,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
    overflow: str | None = None,
    out: Any = None,
    out_dtype: Any = None,
) -> Any:
    """Round every element to the format, without any scale; the values come back in x's dtype.

    `overflow`: "saturate" (default to 8 bits), "ieee" (default for bf16, fp16, tf32) or "propagate". NaN
    stays NaN even in a format that has no code for it. A rounded number beyond the result's dtype is infinite
    there, as in any conversion. The other arguments are those of `fake_quant`.
    """
    q = _cast(fmt, rounding, bits, overflow)
    return fake_quant(
        x, q, seed=seed, stream=stream, offset=offset, random=random, out=out, out_dtype=out_dtype
    )


def encode(
    x: Any,
    fmt: str | Format,
    *,
    rounding: str = "nearest_even",
    bits: int | None = None,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
    overflow: str | None = None,
    out: Any = None,
) -> Any:
    """The codes of `cast(x, fmt)`: unsigned integers of 8, 16 or 32 bits, one an element, in the low bits.

    Integers are two's complement in the format's width. NaN becomes the positive quiet NaN; in a format
    without NaN it raises UserError. `out`: where to write, of x's shape and the dtype of the codes.
    """
    if (handler := _handler(x)) is not None:
        return handler.encode(
            x,
            fmt,
            rounding=rounding,
            bits=bits,
            seed=seed,
            stream=stream,
            offset=offset,
            random=random,
            overflow=overflow,
            out=out,
        )
    q = _cast(fmt, rounding, bits, overflow)
    x = _input(x)
    word = arrays.code_dtype(q.format)
    codes = _fixed_output(x, out, _NUMPY[word])
    bits_from = _random(q, x, seed, stream, offset, random)
    if x.size:
        arrays.run_encode(q, _buffer(x), _buffer(codes, word), bits_from)
    return codes


def decode(codes: Any, fmt: str | Format, *, out: Any = None) -> Any:
    """The values of codes: float32, or float64 where that takes it to hold every value (P3109's widest).

    Bits above the format's width are ignored; unused codes of a codebook are NaN. `out`: where to write, of
    the shape of the codes and that dtype. Raises UserError for a number beyond float64, which only formats
    that `exceeds_fp64` have (`Format.value` is exact there).
    """
    if (handler := _handler(codes)) is not None:
        return handler.decode(codes, fmt, out=out)
    fmt = formats.get(fmt)
    word = arrays.code_dtype(fmt)
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise TypeError(f"codes are integers, not {codes.dtype}")
    codes = np.require(codes, _NUMPY[word], ["C", "A"])
    y = _fixed_output(codes, out, "float32" if fmt.exact_in("fp32") else "float64")
    if codes.size:
        arrays.run_decode(fmt, _buffer(codes, word), _buffer(y))
    return y


def neighbours(x: Any, q: str | Quantizer, axis: int = -1) -> tuple[Any, Any]:
    """The values that `q` could return next to each element under the scales it gives `x`.

    Returns (lo, hi) of x's shape: lo the largest at most x, hi the smallest at least x; equal where x lies on
    the grid, and both the nearest end where x lies outside it. Both are NaN where the block holds NaN or
    infinity. For 16-bit dtypes the values are returned as float32 where they are not exact in x's dtype.
    """
    if (handler := _handler(x)) is not None:
        return handler.neighbours(x, q, axis)
    q = _quantizer(q)
    x = _input(x)
    axis = arrays.check_axis(axis, x.ndim)
    word = _WORDS[x.dtype.name]
    dtype = x.dtype if word in ("fp32", "fp64") or q.exact_in(word) else np.dtype("float32")
    lo, hi = np.empty(x.shape, dtype), np.empty(x.shape, dtype)
    if x.size:
        arrays.run_neighbours(q, _buffer(x), _buffer(lo), _buffer(hi), axis)
    return lo, hi


def error_stats(
    x: Any,
    q: str | Quantizer,
    axis: int = -1,
    *,
    per_block: bool = False,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
    random: Any = None,
) -> dict[str, Any]:
    """What quantization does to `x`.

    Returns a dict, over the finite elements:

    - `sqnr_db` (10 log10 of signal over noise power; infinite without noise), `mse`, `max_rel` (largest
      |y - x| / |x|);
    - counts `count` (of all), `nonfinite` (NaN or infinite before or after; left out of everything else),
      `clipped` (x beyond the range that the scale allows, before rounding), `last_bin` (y at an end of that
      range other than zero), `underflowed` (x != 0 that became 0), and `last_bin_share` of the finite;
    - of x itself `absmax`, `crest` (absmax over root mean square) and `kurtosis` (E (x - mean)^4 / var^2: 3
      for a normal distribution; NaN without variance);
    - of the block scales `scale_spread` (log2 of largest over smallest) and `scale_std` (standard deviation
      of log2), over scales that are finite and not zero.

    What has no value (no finite element, no scale) is NaN. With `per_block`, `blocks` holds the same as a
    dict of arrays, axis replaced by blocks, with `scale` (the number that multiplies elements; 0 where the
    block becomes zero, NaN where it is poisoned) instead of the two spreads. Sums are fp64, merged in a
    tree: relative errors stay below 1e-13, and the bits do not depend on the number of threads.
    """
    if (handler := _handler(x)) is not None:
        return handler.error_stats(
            x, q, axis, per_block=per_block, seed=seed, stream=stream, offset=offset, random=random
        )
    q = _quantizer(q)
    x = _input(x)
    axis = arrays.check_axis(axis, x.ndim)
    if not x.size:
        raise UserError("an empty array has no error statistics")
    bits = _random(q, x, seed, stream, offset, random)
    total, blocks = arrays.run_error_stats(q, _buffer(x), axis, bits, per_block)
    return finish_stats(q, x.shape, axis, total, blocks)


def finish_stats(
    q: Quantizer,
    shape: tuple[int, ...],
    axis: int,
    total: dict[str, Any],
    blocks: dict[str, np.ndarray] | None,
) -> dict[str, Any]:
    """Ratios from the sums that the extension returns."""
    scales, lowest, highest, m2 = total.pop("scale")
    stats: dict[str, Any] = {
        name: value.item() for name, value in _ratios({k: np.asarray(v) for k, v in total.items()}).items()
    }
    stats["scale_spread"] = highest - lowest if scales else math.nan
    stats["scale_std"] = math.sqrt(m2 / scales) if scales else math.nan
    if blocks is not None:
        grid = _block_shape(q, shape, axis)
        sums = {name: row.reshape(grid) for name, row in blocks.items()}
        stats["blocks"] = {**_ratios(sums), "scale": sums["scale"]}
    return stats


def _block_shape(q: Quantizer, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    if q.block in (None, "tensor") or not shape:
        return ()
    if isinstance(q.block, tuple):
        return (
            *shape[:-2],
            *(-(-n // size) for n, size in zip(shape[-2:], q.block[-len(shape) :], strict=True)),
        )
    if q.block == "column":
        return tuple(n if d == axis else 1 for d, n in enumerate(shape))
    size = shape[axis] if q.block == "row" else min(int(q.block or 1), shape[axis])
    return (*shape[:axis], -(-shape[axis] // size), *shape[axis + 1 :])


_COUNTS = ("count", "nonfinite", "clipped", "last_bin", "underflowed")


def _ratios(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    finite, signal, noise = sums["count"] - sums["nonfinite"], sums["signal"], sums["noise"]
    with np.errstate(divide="ignore", invalid="ignore"):
        sqnr = np.where(noise > 0, 10 * np.log10(signal / noise), np.where(finite > 0, np.inf, np.nan))
        return {
            "sqnr_db": sqnr,
            "mse": noise / finite,
            "max_rel": np.where(finite > 0, sums["max_rel"], np.nan),
            **{name: sums[name].astype(np.int64) for name in _COUNTS},
            "last_bin_share": sums["last_bin"] / finite,
            "absmax": np.where(finite > 0, sums["absmax"], np.nan),
            "crest": sums["absmax"] / np.sqrt(signal / finite),
            "kurtosis": finite * sums["m4"] / sums["m2"] ** 2,
        }
