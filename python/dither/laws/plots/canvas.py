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
    """A variable with what it counts: "N (parameters)", "L: loss (nats/token)"."""
    if name not in law.variables:
        return name
    what = law.variables[name]
    return f"{name}: {what}" if "(" in what else f"{name} ({what})"


def shades(values: Any, name: str = "viridis") -> Any:
    """A colour for each value, by its logarithm, darkest first."""
    x = np.log(np.asarray(values, dtype=np.float64))
    share = (x - x.min()) / max(float(np.ptp(x)), 1e-12)
    return require("matplotlib", "plot").colormaps[name](0.9 * share)


def legend(axes: Any, **more: Any) -> None:
    """On a ground that keeps it readable where it covers lines."""
    axes.legend(fontsize=8, **{"framealpha": 0.85, "edgecolor": "none", **more})


def finished(figure: Any) -> Any:
    """The figure, with round ticks on logarithmic axes of less than two decades: powers of ten are too few
    there, and matplotlib's own labels between them run into each other."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                _round_ticks(axis)
    return figure


STEPS = ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0))
"""Of the ticks within a decade, densest first."""

GAPS = {"x": 0.19, "y": 0.09}
"""Between ticks at least, as a share of the axis: labels are wider than high."""


def _round_ticks(axis: Any) -> None:
    low, high = sorted(axis.get_view_interval())
    if high / low >= 100:
        return
    if high / low < 4:
        even = require("matplotlib.ticker", "plot").MaxNLocator
        sets = [even(n, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) for n in (5, 4, 3, 2)]
    else:
        decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        sets = [np.outer(decades, steps).ravel() for steps in STEPS]
    shown = [values[(low <= values) & (values <= high)] for values in sets]
    gap = GAPS[axis.axis_name] * np.log(high / low)
    chosen = next((ticks for ticks in shown if (np.diff(np.log(ticks)) >= gap).all()), shown[-1])
    axis.set_ticks(chosen, [_number(float(v)) for v in chosen])
    axis.set_ticks([], minor=True)


def _number(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.3e}".split("e")
    return f"${float(mantissa):g}\\times10^{{{int(exponent)}}}$"
