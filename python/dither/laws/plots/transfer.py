"""From one loss to another, and from a loss to a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.fitting import Fit
from dither.laws.loss_to_loss import LossMap
from dither.laws.plots.canvas import BAND, COLOURS, canvas, finished, legend, meaning, shades


def loss_to_loss(
    maps: Mapping[tuple[str, str], LossMap],
    *,
    stars: Mapping[tuple[str, str], tuple[float, float]] | None = None,
) -> Any:
    """A panel a map, (row's y, column's x) -> map: pairs coloured by budget, the curve, dashed beyond them.

    stars: losses (x, y) of a large run that the maps did not see. For train-to-test and test-to-test maps a
    row is a test set.
    """
    if not maps:
        raise UserError("give at least one map")
    rows = list(dict.fromkeys(y for y, _ in maps))
    seen = dict.fromkeys(x for _, x in maps)
    columns = [*(name for name in rows if name in seen), *(name for name in seen if name not in rows)]
    figure, grid = canvas(len(rows), len(columns), width=2.1, height=1.9)
    for (i, j), axes in np.ndenumerate(grid):
        key = rows[i], columns[j]
        if key in maps:
            _panel(axes, maps[key], (stars or {}).get(key))
        else:  # empty, but it may have to hold the name of its row or column
            axes.spines[["left", "bottom"]].set_visible(False)
            axes.grid(False)
            axes.set(xticks=[], yticks=[])
        axes.tick_params(labelsize=7)
    for axes, row in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(f"{row}\n(nats/token)", fontsize=8)
    for axes, column in zip(grid[-1], columns, strict=True):
        axes.set_xlabel(f"{column} (nats/token)", fontsize=8)
    figure.align_labels()
    figure.supxlabel("dark dots: small budgets; dashed: beyond the pairs; star: not fitted", fontsize=8)
    return finished(figure)


def _panel(axes: Any, one: LossMap, star: tuple[float, float] | None) -> None:
    pairs = one.pairs
    axes.scatter(pairs.x, pairs.y, s=5, c=shades(np.prod(pairs.keys, axis=1)))
    inside = np.linspace(pairs.x.min(), pairs.x.max(), 50)
    least = pairs.x.min() if star is None else min(star[0], pairs.x.min())
    below = np.linspace(one.E_x + 0.9 * (least - one.E_x), pairs.x.min(), 30)
    axes.plot(inside, one.predict(inside), color=COLOURS[1], linewidth=1)
    axes.plot(below, one.predict(below), color=COLOURS[1], linewidth=1, linestyle="--")
    if star is not None:
        axes.plot(*star, "*", color=COLOURS[3], markersize=8)
    axes.text(
        0.05,
        0.93,
        f"$\\kappa$ {one.kappa:.2f}, K {one.K:.2f}",
        transform=axes.transAxes,
        fontsize=7,
        va="top",
    )


def translated(observed: Any, predicted: Mapping[str, Any]) -> Any:
    """Losses of a target's runs against predictions: name (translated, skyline, baseline) -> losses."""
    y = np.asarray(observed, dtype=np.float64)
    figure, grid = canvas(1, len(predicted), width=3.6, sharey=True)
    for axes, (name, values), colour in zip(grid.flat, predicted.items(), COLOURS, strict=False):
        value = np.asarray(values, dtype=np.float64)
        r2 = 1 - np.sum((y - value) ** 2) / np.sum((y - y.mean()) ** 2)
        axes.plot([y.min(), y.max()], [y.min(), y.max()], color="#777777", linewidth=1)
        axes.plot(value, y, "o", color=colour, markersize=3)
        axes.set(xlabel="predicted loss (nats/token)", title=f"{name}, R² = {r2:.3f}")
    grid.flat[0].set_ylabel("observed loss (nats/token)")
    return finished(figure)


def task(
    fit: Fit, *, chance: float | None = None, upstream: Fit | None = None, n: int = 200, seed: int = 0
) -> Any:
    """A task's metric over the loss with its law and 95 % band, and a guess's value.

    upstream: a law of that loss over N and D; then a second panel shows the metric over compute at the ratio
    D/N that is the median of its runs, with both laws' uncertainty.
    """
    if list(fit.arrays) != ["L"]:
        raise UserError(f"the metric must be a law of L alone; {fit.law.name} has {', '.join(fit.arrays)}")
    figure, grid = canvas(1, 1 if upstream is None else 2, width=5)
    axes = grid[0, 0]
    own = fit.bootstrap(n, seed=seed)
    drawn = own.kept
    x = np.linspace(fit.arrays["L"].min(), fit.arrays["L"].max(), 80)
    curves = np.array([fit.law.curve(v, {"L": x}) for v in drawn])
    centre = fit.law.vector(fit.params)
    axes.plot(fit.arrays["L"], fit.loss, "o", color="black", markersize=4, label="runs")
    _band(axes, x, fit.law.curve(centre, {"L": x}), curves)
    axes.set(xlabel=meaning(fit.law, "L"), ylabel=fit.law.response)
    if upstream is not None:
        n_runs, d_runs = upstream.arrays["N"], upstream.arrays["D"]
        ratio = float(np.median(d_runs / n_runs))
        flops = np.geomspace((6 * n_runs * d_runs).min(), 10 * (6 * n_runs * d_runs).max(), 60)
        size = np.sqrt(flops / (6 * ratio))
        at = {"N": size, "D": ratio * size}
        above = upstream.bootstrap(n, seed=seed + 1)
        losses = [upstream.law.curve(v, at) for v in above.kept]
        chained = np.array([fit.law.curve(v, {"L": y}) for v, y in zip(drawn, losses, strict=False)])
        middle = fit.law.curve(centre, {"L": upstream.law.curve(upstream.law.vector(upstream.params), at)})
        _band(grid[0, 1], flops, middle, chained)
        grid[0, 1].set(
            xscale="log", xlabel=f"compute C (FLOPs) at D/N = {ratio:.3g}", ylabel=fit.law.response
        )
    for one in grid.flat:
        if chance is not None:
            one.axhline(chance, color="#777777", linestyle=":", label="guess")
        legend(one)
    return finished(figure)


def _band(axes: Any, x: Floats, middle: Floats, curves: Floats) -> None:
    low, high = np.percentile(curves, (2.5, 97.5), axis=0)
    axes.fill_between(x, low, high, color=COLOURS[0], alpha=BAND, lw=0, label="95 %")
    axes.plot(x, middle, color=COLOURS[0], label="law")
