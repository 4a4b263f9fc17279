"""A packed array with its last two axes exchanged: what `t.T` and `t.mT` give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dither.tensor import QuantizedTensor


class Transposed:
    """A QuantizedTensor with its last two axes exchanged; a view, which `.T` or `.mT` takes back."""

    __slots__ = ("base",)

    def __init__(self, base: QuantizedTensor) -> None:
        self.base = base

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        *rest, rows, columns = self.base.shape
        return (*rest, columns, rows)

    @property
    def axis(self) -> int:
        """The axis along which blocks run, counted from the front."""
        last, axis = len(self.base.shape) - 1, self.base.axis
        return {last: last - 1, last - 1: last}.get(axis, axis)

    @property
    def nbytes(self) -> int:
        """Bytes held, by the tensor that this is a view of."""
        return self.base.nbytes

    @property
    def T(self) -> QuantizedTensor:
        """The tensor itself."""
        return self.base

    mT = T

    def dequantize(self, dtype: Any = None) -> np.ndarray:
        """The values, as a transposed view of those of the tensor."""
        return self.base.dequantize(dtype).swapaxes(-1, -2)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.base.__array__(dtype, copy).swapaxes(-1, -2)

    def __repr__(self) -> str:
        return f"{self.base!r}.mT"
