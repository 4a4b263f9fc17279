"""QuantizedTensor: an array as codes at their true width, with the scales beside them.

    t = dither.quantize(x, "nvfp4", axis=-1)
    t.codes, t.scales, t.tensor_scale, t.nbytes
    t.dequantize()                                # equals dither.fake_quant(x, "nvfp4", axis=-1), bit for bit
    t[8:16], t[..., :64], t.T, t == u, np.asarray(t)
    t.save("w.safetensors"); dither.QuantizedTensor.load("w.safetensors")

Where the bits of a code lie is said in `dither.blocks`, what a file looks like in `dither.storage`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dither import arrays, storage
from dither.arguments import WORDS, as_quantizer, buffer, check_output, dtype_of, fresh, word_of
from dither.blocks import Layout, cut
from dither.checks import check_axis, warn_inexact
from dither.errors import UserError, suggest
from dither.parts import buffers, check_part, locked, row_bits
from dither.quantizer import Quantizer
from dither.transposed import Transposed


class QuantizedTensor:
    """A packed array, made by `dither.quantize`, whose `out=` is the only thing that changes one.

    Args:
        quantizer: how the array was quantized.
        shape, axis: of the array, and the axis along which blocks run.
        dtype_word: fp32, bf16, fp16 or fp64: what the array was, and what `dequantize` returns.
        codes: uint8, rows of the last axis in whole bytes (see `dither.blocks`).
        scales: one a block: uint8 codes of an 8-bit scale format, float32 for fp32, None for a plain cast.
        tensor_scale: the second-level scale, where the quantizer has one.
        zero_points: one a block, uint8, where the quantizer has them.

    Raises UserError where the parts do not have the shapes and types that the others ask for.
    """

    __array_ufunc__ = None  # arithmetic on values that must be made first is written out: np.asarray(t) * 2
    __slots__ = ("_dtype_word", "_held", "_layout")

    def __init__(
        self,
        quantizer: str | Quantizer,
        shape: tuple[int, ...],
        axis: int,
        dtype_word: str,
        codes: np.ndarray,
        scales: np.ndarray | None = None,
        tensor_scale: float | np.floating | np.ndarray | None = None,
        zero_points: np.ndarray | None = None,
    ) -> None:
        q = as_quantizer(quantizer)
        shape = tuple(operator.index(n) for n in shape)
        self._layout = Layout(q, shape, check_axis(axis, len(shape)))
        if dtype_word not in WORDS.values():
            raise UserError(f"dtype_word= is one of {', '.join(WORDS.values())}, not {dtype_word!r}")
        self._dtype_word = dtype_word
        if (tensor_scale is None) == q.tensor_scale:
            have = "a" if q.tensor_scale else "no"
            raise UserError(f"{q} has {have} tensor scale, but tensor_scale= is {tensor_scale!r}")
        second = None if tensor_scale is None else np.asarray(tensor_scale, np.float32)
        given = {"codes": codes, "scales": scales, "tensor_scale": second, "zero_points": zero_points}
        parts = {name: check_part(self._layout, name, part) for name, part in given.items()}
        self._held: dict[str, np.ndarray] = {k: part for k, part in parts.items() if part is not None}

    @property
    def quantizer(self) -> Quantizer:
        """How the array was quantized."""
        return self._layout.quantizer

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self._layout.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def axis(self) -> int:
        """The axis along which blocks run, counted from the front."""
        return self._layout.axis

    @property
    def layout(self) -> Layout:
        """Shapes of the parts, and which elements share a scale."""
        return self._layout

    @property
    def dtype_word(self) -> str:
        """What the array was: fp32, bf16, fp16 or fp64. Values are formed in fp64 for fp64, else in fp32."""
        return self._dtype_word

    @property
    def codes(self) -> np.ndarray:
        """The element codes, uint8, read-only: see `dither.blocks` for where a code lies."""
        return locked(self._held["codes"])

    @property
    def scales(self) -> np.ndarray | None:
        """One scale a block, read-only: uint8 codes, or float32; None for a plain cast."""
        return None if (scales := self._held.get("scales")) is None else locked(scales)

    @property
    def tensor_scale(self) -> np.float32 | None:
        """The second-level scale, where the quantizer has one."""
        return None if (scale := self._held.get("tensor_scale")) is None else np.float32(scale)

    @property
    def zero_points(self) -> np.ndarray | None:
        """One zero point a block, uint8, read-only; where the quantizer has them."""
        return None if (zeros := self._held.get("zero_points")) is None else locked(zeros)

    @property
    def nbytes(self) -> int:
        """Bytes held: codes, scales, tensor scale and zero points."""
        return sum(part.nbytes for part in self._held.values())

    @property
    def T(self) -> Transposed:
        """The transpose of a matrix, as a view: what `dither.matmul(x, w.T)` takes."""
        if self.ndim != 2:
            raise UserError(f"only a matrix has .T, not an array of {self.ndim} dimensions: use .mT")
        return Transposed(self)

    @property
    def mT(self) -> Transposed:
        """The last two axes exchanged, as a view."""
        if self.ndim < 2:
            raise UserError(f"an array of {self.ndim} dimensions has no two axes to exchange")
        return Transposed(self)

    def dequantize(self, dtype: Any = None, *, out: np.ndarray | None = None) -> np.ndarray:
        """The values, in `dtype` (default: that of the array they came from), rounded once to it.

        `out`: a contiguous array of the shape to write to instead, of any of the four float types.
        """
        y = _target(self, dtype, out)
        warn_inexact(self.quantizer, word_of(y.dtype))
        second, wide = self._held.get("tensor_scale"), self._dtype_word == "fp64"
        tensor_scale = None if second is None else float(second)
        arrays.run_dequantize(self._layout, buffers(self._layout, self._held), tensor_scale, wide, buffer(y))
        return y

    to_numpy = dequantize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a packed array has no values in memory to share: drop copy=False")
        values = self.dequantize()
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> QuantizedTensor:
        """Part of the array, still packed: `t[index].dequantize()` is `t.dequantize()[index]`.

        Integers, slices and `...`; along the axis of the blocks whole blocks only (UserError says which
        bounds are the nearest).
        """
        if not self.shape:
            raise IndexError("a packed array without dimensions cannot be indexed")
        part = cut(self._layout, index)
        parts = self.parts()
        for name in {"scales", "zero_points"} & parts.keys():
            parts[name] = parts[name][(*part.scales, ...)]
        parts["codes"] = locked(row_bits(parts["codes"][(*part.codes, ...)], part.bits))
        return QuantizedTensor(self.quantizer, part.layout.shape, part.layout.axis, self._dtype_word, **parts)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a packed array without dimensions has no length")
        return self.shape[0]

    def __eq__(self, other: object) -> bool:
        """The same quantizer, shape, axis and type, and the same bits."""
        if not isinstance(other, QuantizedTensor):
            return NotImplemented
        if (self._layout, self._dtype_word) != (other._layout, other._dtype_word):
            return False
        theirs = other.parts()
        return all(part.tobytes() == theirs[name].tobytes() for name, part in self.parts().items())

    __hash__ = None  # type: ignore[assignment]

    def parts(self) -> dict[str, np.ndarray]:
        """The arrays that are held, by name, read-only: codes, scales, tensor_scale, zero_points, as far as
        there are any."""
        return {name: locked(part) for name, part in self._held.items()}

    def save(self, path: str | Path, name: str = "tensor") -> None:
        """Write a safetensors file that describes itself: see `save_tensors`."""
        save_tensors({name: self}, path)

    @staticmethod
    def load(path: str | Path, name: str | None = None) -> QuantizedTensor:
        """The packed array in a file; where it holds several, the one called `name`. See `load_tensors`."""
        packed = {k: t for k, t in load_tensors(path).items() if isinstance(t, QuantizedTensor)}
        if name is None and len(packed) != 1:
            raise UserError(
                f"{path} holds {len(packed)} packed arrays; give name=, one of: {', '.join(packed)}"
            )
        name = next(iter(packed)) if name is None else name
        if name not in packed:
            raise UserError(f"{path} holds no packed array {name!r}{suggest(name, packed)}")
        return packed[name]

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self._held.get(name) for name in storage.PARTS)
        return QuantizedTensor, (str(self.quantizer), self.shape, self.axis, self._dtype_word, *parts)

    def __repr__(self) -> str:
        held = " + ".join(f"{part.nbytes} {name.replace('_', ' ')}" for name, part in self.parts().items())
        return (
            f"QuantizedTensor({str(self.quantizer)!r}, shape={self.shape}, axis={self.axis}, "
            f"of {self._dtype_word}, {self.nbytes} bytes: {held})"
        )


def save_tensors(tensors: Mapping[str, QuantizedTensor | np.ndarray], path: str | Path) -> None:
    """Write packed arrays, and plain ones beside them, to a safetensors file that describes itself.

    The array NAME lies in NAME.codes, NAME.scales, NAME.tensor_scale (see `dither.storage` for the metadata).
    The file is written aside and renamed, so that a reader finds the old one or the new one. Raises UserError
    for names that would collide and parts made by hand that `load_tensors` would refuse, MissingExtraError
    without safetensors.
    """
    entries: dict[str, Any] = {}
    described = {}
    for name, tensor in tensors.items():
        if not isinstance(name, str) or hasattr(tensor, "quantized"):
            raise TypeError(
                f"arrays are saved by name, a PackedTensor as its .quantized; not {name!r}, a "
                f"{type(tensor).__name__}"
            )
        if isinstance(tensor, QuantizedTensor):
            storage.check_content(name, tensor.layout, tensor.parts())
            storage.add(entries, name, storage.flat(name, tensor.parts()))
            described[name] = storage.describe(tensor.layout, tensor.dtype_word, tensor.parts())
        else:
            storage.add(entries, name, {name: np.asarray(tensor, order="C")})
    storage.write(Path(path), entries, storage.metadata(described), "numpy")


def load_tensors(path: str | Path) -> dict[str, QuantizedTensor | np.ndarray]:
    """Everything in a safetensors file: packed arrays as they were saved, the other tensors as numpy arrays.

    Raises UserError for a file that is damaged, cut off, written by a newer version, or describes what it
    does not hold; nothing large is read before that is known.
    """
    packed, plain, _ = storage.read(Path(path), "np")
    found: dict[str, QuantizedTensor | np.ndarray] = dict(plain)
    for name, s in packed.items():
        layout = s.layout
        found[name] = QuantizedTensor(layout.quantizer, layout.shape, layout.axis, s.dtype_word, **s.parts)
    return found


def _target(t: QuantizedTensor, dtype: Any, out: Any) -> np.ndarray:
    """The array that `dequantize` writes: `out` after its checks, or a new one."""
    if out is None:
        return fresh(t.shape, dtype_of(t.dtype_word if dtype is None else dtype))
    check_output(t.shape, out, dtype)
    if any(np.shares_memory(out, part) for part in t._held.values()):
        raise UserError("out= overlaps the codes or scales that it would be read from")
    return out
