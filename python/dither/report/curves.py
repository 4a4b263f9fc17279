"""The pictures of a report: loss curves, final losses by way of evaluation, slow-down.

Every function returns a matplotlib figure drawn without a display and without global state (no pyplot). The
colours are Okabe and Ito's, distinguishable with any colour vision; line styles and markers repeat what the
colours say.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Curve:
    """A quantity over optimizer steps; `values` may hold NaN where nothing was measured.

    `look` picks colour, line and marker, so that an arm looks the same in every picture.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    look: int


def colour_and_style(look: int) -> tuple[str, str | tuple]:
    """The pair of an arm; beyond the colours the styles move on, so that no two arms look alike."""
    turn, place = divmod(look, len(COLOURS))
    return COLOURS[place], STYLES[(place + turn) % len(STYLES)]


def smooth(values: np.ndarray, span: int) -> np.ndarray:
    """Mean over `span` neighbouring steps, centred; near the ends over as many as there are on both sides.

    Values that are not finite are left out of the means; where all are, the result is NaN.
    """
    n, half = len(values), span // 2
    centre = np.arange(n)
    reach = np.minimum(half, np.minimum(centre, n - 1 - centre))
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    low, high = centre - reach, centre + reach + 1
    found = count[high] - count[low]
    return np.where(found > 0, (total[high] - total[low]) / np.maximum(found, 1), np.nan)


def drawing(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of that size in inches, in the style of all pictures."""
    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _range_of_interest(axes: Axes, curves: Sequence[np.ndarray]) -> None:
    """Cut the y axis above the first tenth of training: the fall from the start hides the differences at
    the end.
    """
    tails = [values[len(values) // 10 :] for values in curves]
    values = np.concatenate(tails) if tails else np.array([])
    values = values[np.isfinite(values)]
    if len(values) > 1 and values.max() > values.min():
        low, high = values.min(), values.max()
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def loss_over_steps(curves: Sequence[Curve], title: str, label: str, smoothing: int = 1) -> Figure:
    """Lines of loss over steps, one an arm; with `smoothing` > 1 the raw values stand faintly behind the
    average.
    """
    figure, axes = drawing(8, 4.2)
    shown = []
    for curve in curves:
        colour, style = colour_and_style(curve.look)
        values = smooth(curve.values, smoothing)
        if smoothing > 1:
            axes.plot(curve.steps, curve.values, color=colour, alpha=0.12, linewidth=0.6)
        marker = MARKERS[curve.look % len(MARKERS)] if smoothing <= 1 and len(values) < 40 else None
        axes.plot(
            curve.steps,
            values,
            color=colour,
            linestyle=style,
            linewidth=1.6,
            label=curve.name,
            marker=marker,
            markersize=4,
        )
        shown.append(values)
    _range_of_interest(axes, shown)
    axes.set(title=title, xlabel="optimizer step", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if len(curves) > 1:
        figure.legend(frameon=False, loc="outside right upper", handlelength=3.2)
    return figure


def final_losses(losses: Mapping[str, Mapping[str, float]], title: str, label: str) -> Figure:
    """A row for each arm, a marker for each way of evaluation (full precision, casts), joined by a line.

    losses[arm][evaluation] is a loss; an evaluation that an arm lacks or that is not finite is left out.
    """
    evaluations = list(dict.fromkeys(name for row in losses.values() for name in row))
    figure, axes = drawing(8, 1.6 + 0.42 * len(losses))
    for y, row in enumerate(losses.values()):
        finite = [value for value in row.values() if np.isfinite(value)]
        if finite:
            axes.plot([min(finite), max(finite)], [y, y], color="#bbbbbb", linewidth=2, zorder=1)
    for i, evaluation in enumerate(evaluations):
        points = [
            (row[evaluation], y)
            for y, row in enumerate(losses.values())
            if np.isfinite(row.get(evaluation, np.nan))
        ]
        axes.scatter(
            [x for x, _ in points],
            [y for _, y in points],
            marker=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
            s=46,
            label=evaluation,
            zorder=2 + len(evaluations) - i,
        )
    axes.set_yticks(range(len(losses)), list(losses))
    axes.set_ylim(len(losses) - 0.5, -0.5)
    axes.set(title=title, xlabel=label)
    axes.grid(axis="y", visible=False)
    figure.legend(
        *axes.get_legend_handles_labels(),
        frameon=False,
        loc="outside lower center",
        ncols=min(4, len(evaluations)),
    )
    return figure


def slowdown(ratios: Mapping[str, float], title: str, baseline: str) -> Figure:
    """Bars of time per token relative to `baseline` (1 = as fast)."""
    figure, axes = drawing(8, 1.2 + 0.42 * len(ratios))
    names, values = list(ratios), [ratios[name] for name in ratios]
    bars = axes.barh(
        names, values, color=["#999999" if name == baseline else COLOURS[1] for name in names], height=0.62
    )
    axes.bar_label(bars, labels=[f" {value:.2f}x" for value in values])
    axes.axvline(1, color="#444444", linewidth=0.8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * max([1.0, *(value for value in values if np.isfinite(value))]))
    axes.set(title=title, xlabel=f"time per token relative to {baseline}")
    axes.grid(axis="y", visible=False)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG, without a creation date: the same data give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def span(steps: int) -> int:
    """How many steps the moving average of a training curve covers: a thirtieth of the run, at most 50."""
    return min(50, max(1, steps // 30))


def intervals(bars: Sequence[tuple[str, float, float, float]], title: str, label: str) -> Figure:
    """A row for each (name, mean, low, high), with a line at zero."""
    figure, axes = drawing(8, 1.2 + 0.36 * len(bars))
    for y, (_, mean, low, high) in enumerate(bars):
        axes.plot([low, high], [y, y], color=COLOURS[1], linewidth=2.5, solid_capstyle="butt")
        axes.plot([mean], [y], marker="o", color=COLOURS[1], markersize=6)
    axes.axvline(0, color="#444444", linewidth=0.9)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set(title=title, xlabel=label)
    axes.grid(axis="y", visible=False)
    return figure
