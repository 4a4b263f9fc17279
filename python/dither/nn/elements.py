"""One element on the grid of a format, shifted by a power of two: rounding, the ends of the range, the next
value. By bit operations, as all of the twin."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dither.formats import Format
from dither.nn.floatbits import Layout, round_to_grid, scaled_constant


def round_to(
    x: Tensor,
    fmt: Format,
    shift: int | Tensor,
    rounding: str,
    overflow: str,
    layout: Layout,
    random: Tensor | None = None,
    bits: int = 0,
) -> Tensor:
    """`x` on the format's grid times 2^shift; beyond it, what the overflow mode says; NaN stays NaN."""
    source = layout.bits(x)
    magnitude, sign, negative = source & layout.magnitude, source & layout.sign, source < 0
    by_exponent = fmt.one_nan and fmt.mbits == 0
    least = shift + fmt.emin
    rounded = round_to_grid(
        magnitude, negative, least, fmt.mbits, rounding, layout, random, bits, by_exponent
    )
    exponent = torch.as_tensor(shift, dtype=layout.integer, device=x.device)
    end, below = scaled_constant(fmt.max, exponent, layout), negative
    outside = magnitude == layout.infinity
    if fmt.min != -fmt.max:
        low = scaled_constant(abs(fmt.min), exponent, layout) if fmt.min else torch.zeros_like(end)
        if not fmt.has_zero:  # E8M0: whatever is not positive lies below the range
            below = negative | (rounded < low)
            outside = outside | below
        end = torch.where(below, low, end)
    beyond = _beyond(end, magnitude == layout.infinity, below, fmt, rounding, overflow, layout)
    rounded = torch.where(outside | (rounded > end), beyond, rounded)
    if not fmt.signed:
        sign = torch.zeros_like(sign)
    elif not fmt.has_neg_zero:
        sign = torch.where(rounded == 0, 0, sign)
    return torch.where(magnitude > layout.infinity, float("nan"), layout.value(rounded | sign))


def _beyond(
    end: Tensor, infinite: Tensor, below: Tensor, fmt: Format, rounding: str, overflow: str, layout: Layout
) -> Tensor:
    """Magnitude bits for values beyond an end of the range: it, infinity, or NaN without infinity."""
    if overflow == "saturate":
        return end
    has_inf = (~below | fmt.signed) & fmt.has_inf
    special = torch.where(has_inf, layout.infinity, layout.infinity + 1).to(layout.integer)
    if overflow == "propagate":
        kept = infinite & (has_inf | (not fmt.one_nan))
        return torch.where(kept, special, end)
    if rounding == "toward_zero":
        inwards = torch.ones_like(below)
    elif rounding in ("up", "down"):
        inwards = below if rounding == "up" else ~below
    elif rounding == "to_odd" and fmt.max_code % 2:
        inwards = has_inf
    else:
        return special
    return torch.where(inwards & ~infinite, end, special)


def next_on(r: Tensor, on_grid: Callable[[Tensor, str], Tensor], side: int, layout: Layout) -> Tensor:
    """The next grid value above (side 1) or below (side -1) the grid value r, or r at the end of the grid."""
    bits = layout.bits(r)
    step = torch.where((bits < 0) == (side < 0), 1, -1)  # away from zero or towards it
    nearest = (layout.sign if side < 0 else 0) | 1  # the number next to zero
    moved = torch.where((bits & layout.magnitude) == 0, nearest, bits + step)
    return on_grid(layout.value(moved.to(layout.integer)), "up" if side > 0 else "down")
