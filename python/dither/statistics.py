"""What quantization does to an array: sums and counts of the extension, as ratios."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dither import arrays
from dither.arguments import as_input, as_quantizer, buffer, randomness, routed
from dither.blocks import extents, grid
from dither.checks import check_axis
from dither.errors import UserError
from dither.quantizer import Quantizer


@routed
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
    q = as_quantizer(q)
    x = as_input(x)
    axis = check_axis(axis, x.ndim)
    if not x.size:
        raise UserError("an empty array has no error statistics")
    bits = randomness(q, x, seed, stream, offset, random)
    total, blocks = arrays.run_error_stats(q, buffer(x), axis, bits, per_block)
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
        blocks_of = grid(shape, extents(q, shape, axis))
        sums = {name: row.reshape(blocks_of) for name, row in blocks.items()}
        stats["blocks"] = {**_ratios(sums), "scale": sums["scale"]}
    return stats


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
