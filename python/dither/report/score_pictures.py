"""The pictures of a report on scores: examples in a grid, agreement of scores, noise curve, Manhattan plot,
data map. Figures of matplotlib, as in `curves`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dither.report.curves import COLOURS, MARKERS, colour_and_style, drawing

COLUMNS = 8


def gallery(images: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Images in rows of 8, each with its caption; pixels are shown as they are, not smoothed."""
    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(9.2, 1.55 * rows), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        cell = figure.add_subplot(rows, COLUMNS, place + 1)
        cell.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        cell.set_title(caption, fontsize=7, pad=2)
        cell.set_axis_off()
    return figure


def agreement(names: Sequence[str], matrix: np.ndarray) -> Figure:
    """Spearman of every two scores between independent runs; the diagonal is each one's own consistency."""
    side = 2.2 + 0.5 * len(names)
    figure = Figure(figsize=(side + 0.8, side), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    cells = figure.add_subplot()
    shown = cells.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    cells.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    cells.set_yticks(range(len(names)), names, fontsize=8)
    for (i, j), value in np.ndenumerate(matrix):
        colour = "white" if abs(value) > 0.6 else "black"
        cells.text(
            j, i, f"{value:.2f}".replace("0.", "."), ha="center", va="center", fontsize=7, color=colour
        )
    figure.colorbar(shown, ax=cells, shrink=0.7, label="rank correlation")
    return figure


def noise(curves: Mapping[str, np.ndarray]) -> Figure:
    """AUC for finding planted label errors with the mean rank of 1, 2, ... runs."""
    figure, plot = drawing(7.2, 3.6)
    for look, (name, values) in enumerate(curves.items()):
        colour, style = colour_and_style(look)
        marker = MARKERS[look % len(MARKERS)]
        runs = np.arange(1, len(values) + 1)
        plot.plot(runs, values, color=colour, linestyle=style, marker=marker, markersize=4, label=name)
    plot.axhline(0.5, color="#777777", linewidth=0.8)
    most = max(map(len, curves.values()))
    plot.text(most, 0.515, "chance", fontsize=8, ha="right", va="bottom", color="#555555")
    plot.set_xlabel("runs whose ranks are averaged")
    plot.set_ylabel("AUC of the planted errors")
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def manhattan(
    p: np.ndarray, significant: np.ndarray, smallest: float, labels: np.ndarray | None = None
) -> Figure:
    """-log10 p of every example, side by side by class where labels are given; filled points are significant.

    smallest: the least p that the number of runs allows."""
    figure, plot = drawing(9.2, 3.6)
    order = np.arange(len(p)) if labels is None else np.argsort(labels, kind="stable")
    height = -np.log10(p[order])
    place = np.arange(len(p))
    if labels is None:
        plot.scatter(place, height, s=5, color="#9a9a9a", linewidths=0)
        plot.set_xlabel("example, in the order of the ids")
    else:
        groups, starts = np.unique(labels[order], return_index=True)
        ends = [*starts[1:], len(p)]
        for turn, (start, end) in enumerate(zip(starts, ends, strict=True)):
            shade = "#8a8a8a" if turn % 2 else "#bdbdbd"
            plot.scatter(place[start:end], height[start:end], s=5, color=shade, linewidths=0)
        middle = [(start + end) / 2 for start, end in zip(starts, ends, strict=True)]
        plot.set_xticks(middle, [str(g) for g in groups], fontsize=8)
        plot.set_xlabel("examples by class")
    found = significant[order]
    plot.scatter(place[found], height[found], s=12, color=COLOURS[2], label="significant")
    plot.axhline(-np.log10(smallest), color=COLOURS[1], linestyle="--", linewidth=0.9)
    plot.text(
        len(p), -1.04 * np.log10(smallest), "least p these runs allow", fontsize=8, ha="right", va="bottom",
        color=COLOURS[1],
    )  # fmt: skip
    plot.set_ylabel("-log10 p")
    plot.set_ylim(0, -np.log10(smallest) * 1.15)
    plot.margins(x=0.01)
    return figure


def data_map(variability: np.ndarray, confidence: np.ndarray, correctness: np.ndarray | None) -> Figure:
    """Cartography (2009.10795): mean against standard deviation of p_y over training."""
    figure, plot = drawing(6.4, 4.4)
    points = {"s": 6, "linewidths": 0, "alpha": 0.7}
    if correctness is None:
        plot.scatter(variability, confidence, color=COLOURS[1], **points)
    else:
        shown = plot.scatter(variability, confidence, c=correctness, cmap="viridis", vmin=0, vmax=1, **points)
        figure.colorbar(shown, ax=plot, label="share of visits that were correct")
    plot.set_xlabel("variability: standard deviation of p_y over the visits")
    plot.set_ylabel("confidence: mean of p_y")
    for x, y, name in ((0.02, 0.97, "easy"), (0.97, 0.4, "ambiguous"), (0.25, 0.03, "hard to learn")):
        across, along = "right" if x > 0.5 else "left", "top" if y > 0.9 else "bottom"
        plot.text(x, y, name, transform=plot.transAxes, fontsize=9, color="#333333", ha=across, va=along)
    return figure
