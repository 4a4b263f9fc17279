"""The arrays that a packed array holds: their checks, views of them, and their memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.arguments import NUMPY, buffer
from dither.arrays import Buffer
from dither.blocks import Layout
from dither.errors import UserError


def check_part(layout: Layout, name: str, x: Any) -> np.ndarray | None:
    """A part as memory that the extension can use; None where the quantizer has none.

    Raises UserError where it has not the shape and type that the layout asks for.
    """
    if name not in layout.parts:
        if x is not None:
            raise UserError(f"{layout.quantizer} has no {name}, but {name}= was given")
        return None
    shape, word = layout.parts[name]
    if not isinstance(x, np.ndarray) or x.dtype != NUMPY[word] or x.shape != shape:
        have = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise UserError(f"{name}= is a {NUMPY[word]} array of shape {shape}, not {have}")
    return np.require(x, requirements=["C", "A"])


def locked(part: np.ndarray) -> np.ndarray:
    """A view that cannot be written through."""
    view = part.view()
    view.flags.writeable = False
    return view


def row_bits(codes: np.ndarray, bits: slice) -> np.ndarray:
    """Some bits of each row of codes, as rows that start at a byte and are filled up with zero bits."""
    if bits.start % 8 == 0 and (bits.stop % 8 == 0 or bits.stop > 8 * (codes.shape[-1] - 1)):
        return codes[..., bits.start // 8 : -(-bits.stop // 8)]
    single = np.unpackbits(codes, axis=-1, bitorder="little")[..., bits]
    return np.packbits(single, axis=-1, bitorder="little")


def buffers(layout: Layout, held: Mapping[str, np.ndarray]) -> dict[str, Buffer]:
    """The memory of all parts but the tensor scale."""
    return {k: buffer(part, layout.parts[k][1]) for k, part in held.items() if k != "tensor_scale"}
