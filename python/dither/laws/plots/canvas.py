"""Empty figures in one style, without a display and without global state (no pyplot)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.errors import require
from dither.laws.law import Law

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
"""Okabe and Ito's, distinguishable with any colour vision."""

BAND = 0.18
"""Opacity of an interval."""


def canvas(rows: int = 1, columns: int = 1, *, width: float = 4.6, height: float = 3.6, **more: Any) -> Any:
    """A figure and its axes (rows, columns), that many inches a panel. UserError without matplotlib."""
    figure = require("matplotlib.figure", "plot").Figure(
        figsize=(width * columns, height * rows), dpi=144, layout="constrained"
    )
    require("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **more)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, grid


def meaning(law: Law, name: str) -> str:
    """A variable with what it counts: "N (parameters)"."""
    return f"{name} ({law.variables[name]})" if name in law.variables else name


def shades(values: Any, name: str = "viridis") -> Any:
    """A colour for each value, by its logarithm, darkest first."""
    x = np.log(np.asarray(values, dtype=np.float64))
    share = (x - x.min()) / max(float(np.ptp(x)), 1e-12)
    return require("matplotlib", "plot").colormaps[name](0.9 * share)


def legend(axes: Any, **more: Any) -> None:
    axes.legend(fontsize=8, frameon=False, **more)


def few_ticks(axis: Any) -> None:
    """On a logarithmic axis of less than two decades: a few round numbers, for powers of ten are too few."""
    low, high = axis.get_view_interval()
    if high / low >= 100:
        return
    steps = np.array([1, 1.5, 2, 3, 4, 5, 7]) if high / low > 4 else np.arange(1, 10, 0.2)
    exponents = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    inside = [v for v in np.unique((10.0 ** exponents[:, None] * steps).round(12)) if low <= v <= high]
    shown = inside[:: max(1, -(-len(inside) // 6))]
    axis.set_ticks(shown, [f"{v:.3g}" for v in shown])
    axis.set_ticks([], minor=True)
