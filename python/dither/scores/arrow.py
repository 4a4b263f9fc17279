"""Arrow arrays as numpy arrays over the same memory: columns of numbers, and lists of one length as rows.

pyarrow is not imported here: who passes its arrays has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import UserError


def is_arrow(x: Any) -> bool:
    """Whether `x` is an array or a column of pyarrow."""
    return type(x).__module__.partition(".")[0] == "pyarrow" and hasattr(x, "null_count")


def view(x: Any, what: str) -> np.ndarray:
    """`x` where it lies: numbers as (n,), fixed-size lists, lists that happen to have one length, and tensors
    of a fixed shape as (n, length), lists of lists as (n, length, length of those). Copied: columns of
    several chunks, and booleans, which Arrow packs.

    Raises UserError for nulls, lists of different lengths, and types that are no numbers.
    """
    if hasattr(x, "chunks"):
        x = x.chunk(0) if x.num_chunks == 1 else x.combine_chunks()
    if x.null_count:
        raise UserError(f"{what} has {x.null_count} nulls; fill them or leave those rows out")
    x = getattr(x, "storage", x)  # of an extension type, such as a tensor of fixed shape
    if not hasattr(x, "flatten") or not hasattr(x.type, "value_type"):
        return _numbers(x, what)
    lengths = x.type.list_size if hasattr(x.type, "list_size") else _length(x, what)
    inner = view(x.flatten(), what)
    return inner.reshape(len(x), lengths, *inner.shape[1:])


def _length(x: Any, what: str) -> int:
    lengths = np.unique(np.asarray(x.value_lengths()))
    if len(lengths) > 1:
        raise UserError(f"{what} holds lists of different lengths, {lengths[0]} to {lengths[-1]}")
    return int(lengths[0]) if len(lengths) else 0


def _numbers(x: Any, what: str) -> np.ndarray:
    kind = str(x.type)
    if kind == "bool":
        return x.to_numpy(zero_copy_only=False)
    try:
        return x.to_numpy(zero_copy_only=True)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{what} is an Arrow array of {kind}, which holds no plain numbers") from error
