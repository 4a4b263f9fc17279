"""How many elements of an array fall where: between values, on exponents, on the codes of a quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dither import arrays, functions
from dither.arguments import as_input, buffer, handler_of
from dither.errors import UserError, suggest
from dither.packing import quantize
from dither.quantizer import Quantizer

KINDS = ("values", "exponents", "codes")


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of elements.

    `counts` (int64) belong to `bins`: for values the edges, one more than counts (bin i holds
    bins[i] <= x < bins[i + 1], the last one its upper edge too); for exponents the integers floor(log2 |x|)
    that occur, and those between; for codes the value that each code stands for, in the order of the codes.

    `zeros` and `nonfinite` (NaN or infinite; for codes: in a block whose scale is NaN) count elements of the
    whole array; exponents hold no zeros, and nothing that is not finite is in any bin but that of a code of
    its own. `below` and `above` count finite elements outside the edges.
    """

    of: str
    counts: np.ndarray
    bins: np.ndarray
    zeros: int
    nonfinite: int
    below: int = 0
    above: int = 0

    @property
    def shares(self) -> np.ndarray:
        """Counts over their sum."""
        return self.counts / max(int(self.counts.sum()), 1)


def histogram(
    x: Any,
    bins: int | Sequence[float] = 64,
    of: str = "values",
    *,
    range: tuple[float, float] | None = None,
    q: str | Quantizer | None = None,
    axis: int = -1,
    seed: int | None = None,
    stream: int = 0,
    offset: int = 0,
) -> Histogram:
    """Count the elements of `x`, an array or a tensor.

    Args:
        bins: for values, the number of equal bins, or the ascending edges.
        of: "values", "exponents" (floor(log2 |x|)) or "codes" (which codes of the quantizer `q` are used).
        range: of equal bins (default: the smallest to the largest finite element).
        q, axis, seed, stream, offset: for codes, as for `quantize`; formats of at most 16 bits.

    The counts are the same for any number of threads. Raises UserError for edges that do not ascend, and for
    a quantizer whose codes cannot be stored.
    """
    if of not in KINDS:
        raise UserError(f"of={of!r}{suggest(str(of), KINDS)}: a histogram is of {', '.join(KINDS)}")
    if (q is None) == (of == "codes"):
        raise UserError("a histogram of codes needs the quantizer q=; one of values or exponents takes none")
    x = as_input(x if (handler := handler_of(x)) is None else handler.as_numpy(x))
    if of == "codes":
        assert q is not None
        return _codes(x, q, axis, seed, stream, offset)
    if of == "exponents":
        return _exponents(x)
    edges = _edges(x, bins, range)
    counts, (zeros, nonfinite, below, above) = arrays.run_histogram_values(buffer(x), edges.tolist())
    return Histogram("values", np.array(counts, np.int64), edges, zeros, nonfinite, below, above)


def _edges(x: np.ndarray, bins: Any, range: tuple[float, float] | None) -> np.ndarray:
    if np.ndim(bins):
        edges = np.asarray(bins, np.float64)
        if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise UserError("bins= are at least two finite edges in ascending order")
        return edges
    if isinstance(bins, bool) or not hasattr(bins, "__index__") or bins < 1:
        raise UserError(f"bins= is a positive number of bins or a sequence of edges, not {bins!r}")
    low, high = _finite_range(x) if range is None else (float(range[0]), float(range[1]))
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise UserError(f"range= is two finite numbers in ascending order, not {range!r}")
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.unique(np.linspace(low, high, int(bins) + 1))


def _finite_range(x: np.ndarray) -> tuple[float, float]:
    finite = np.isfinite(x)
    if not finite.any():
        return 0.0, 1.0
    return float(np.min(x, where=finite, initial=np.inf)), float(np.max(x, where=finite, initial=-np.inf))


def _exponents(x: np.ndarray) -> Histogram:
    first, (counts, (zeros, nonfinite, _, _)) = arrays.run_histogram_exponents(buffer(x))
    found = np.flatnonzero(counts)
    low, high = (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)
    bins = np.arange(first + low, first + high)
    return Histogram("exponents", np.array(counts[low:high], np.int64), bins, zeros, nonfinite)


def _codes(
    x: np.ndarray, q: str | Quantizer, axis: int, seed: int | None, stream: int, offset: int
) -> Histogram:
    t = quantize(x, q, axis, seed=seed, stream=stream, offset=offset)
    if t.layout.width > 16:
        raise UserError(f"codes of at most 16 bits are counted, those of {t.quantizer.format.name} have more")
    counts = np.array(arrays.run_histogram_codes(t.layout, buffer(t.codes, "u8")), np.int64)
    values = functions.decode(np.arange(len(counts), dtype=np.uint32), t.quantizer.format)
    nonfinite = 0
    if not np.isfinite(x).all():
        nonfinite = int(np.count_nonzero(~np.isfinite(t.dequantize("fp32"))))
        if t.scales is not None:
            counts[0] -= nonfinite  # a block whose scale is NaN stores zeros
    zeros = int(counts[values == 0].sum())
    return Histogram("codes", counts, values, zeros, nonfinite)
