"""What a compute budget buys: isoFLOP parabolas, envelopes, contours, tokens a parameter, reducible loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.fitting import Fit
from dither.laws.isoflop import budgets, parabolas
from dither.laws.law import unusable
from dither.laws.planning import budget
from dither.laws.plots.canvas import BAND, COLOURS, canvas, finished, legend, meaning, shades
from dither.laws.scales import scales

FLOPS = "compute C (FLOPs)"
LOSS = "loss (nats/token)"
SLICES = 6
"""Scales whose slices are shown at most."""

NAMED = 8
"""Budgets whose FLOPs are written beside their curve at most."""

REFERENCES = {"Kaplan, .73": 0.73, "Chinchilla, .50": 0.5}
"""Exponents of the optimal size over compute (2001.08361; 2203.15556, approach 1)."""


def isoflop(N: Any, C: Any, loss: Any) -> Any:
    """Loss over size at each budget with its parabola, and the optimal size and tokens over compute.

    A hollow star has a caution (see `approaches`); minima outside the sizes are no part of the lines over
    compute. UserError where fewer than two budgets have three sizes.
    """
    n, c, y = (np.asarray(v, dtype=np.float64) for v in (N, C, loss))
    if not n.shape == c.shape == y.shape or any(len(unusable(v)) for v in (n, c, y)):
        raise UserError("N, C and loss must be columns of one length, positive and finite")
    found = parabolas(n, c, y)
    if len(found) < 2:
        raise UserError(f"{len(found)} budgets have three sizes or more; isoFLOP curves need two")
    figure, ((left, right),) = canvas(1, 2)
    groups = [at for at in budgets(c) if len(np.unique(np.round(np.log(n[at]), 6))) >= 3]
    colours = shades([one.C for one in found])
    every = -(-len(found) // NAMED)
    for i, (at, one, colour) in enumerate(zip(groups, found, colours, strict=True)):
        x = np.log(n[at])
        fine = np.linspace(x.min(), x.max(), 60)
        left.plot(n[at], y[at], "o", color=colour, markersize=3)
        curve = np.polyval(np.polyfit(x - x.mean(), y[at], 2), fine - x.mean())
        left.plot(np.exp(fine), curve, color=colour, label="" if i % every else f"{one.C:.1e}")
        star = {"markerfacecolor": "none"} if one.cautions else {}
        left.plot(one.N, one.loss, "*", color=colour, markersize=11, **star)
    left.set(xscale="log", xlabel="N (parameters)", ylabel=LOSS)
    if any(one.cautions for one in found):
        left.set_title("hollow: at the edge of its sizes, or no parabola", fontsize=9)
    legend(left, title="FLOPs", title_fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    flops = np.array([one.C for one in found])
    size, inside = np.array([one.N for one in found]), np.array([one.inside for one in found])
    for values, colour, name in ((size, COLOURS[0], "N*"), (flops / (6 * size), COLOURS[1], "D*")):
        _power(right, flops, values, inside, colour, name)
    middle = np.exp(np.log(flops).mean())
    ends = np.array([flops.min() / 2, flops.max() * 2])  # so that they are seen where they meet the points
    for (name, slope), style in zip(REFERENCES.items(), ("--", ":"), strict=True):
        line = np.exp(np.log(size).mean()) * (ends / middle) ** slope
        right.plot(ends, line, color="#777777", linestyle=style, linewidth=1, label=name)
    right.set(xscale="log", yscale="log", xlabel=FLOPS, ylabel="N* (parameters), D* (tokens)")
    right.yaxis.label.set_fontsize(8)
    legend(right)
    return finished(figure)


def _power(axes: Any, flops: Floats, values: Floats, inside: Any, colour: str, name: str) -> None:
    """Points, hollow where the minimum is not inside its sizes, and the line through the logarithms of the
    others, with two standard errors of it."""
    axes.plot(flops[inside], values[inside], "o", color=colour, markersize=4)
    if not inside.all():
        axes.plot(flops[~inside], values[~inside], "o", color=colour, markersize=4, markerfacecolor="none")
    if inside.sum() < 2:
        return
    flops, values = flops[inside], values[inside]
    x, y = np.log(flops) - np.log(flops).mean(), np.log(values)
    slope, level = np.polyfit(x, y, 1)
    axes.plot(flops, np.exp(level + slope * x), color=colour, label=f"{name} ~ C^{slope:.3f}")
    if len(x) > 2:
        variance = np.sum((y - level - slope * x) ** 2) / (len(x) - 2)
        error = 2 * np.sqrt(variance * (1 / len(x) + x**2 / np.sum(x**2)))
        line = level + slope * x
        axes.fill_between(flops, np.exp(line - error), np.exp(line + error), color=colour, alpha=BAND, lw=0)


def envelope(runs: Mapping[str, tuple[Any, Any]]) -> Any:
    """Training curves over compute, name -> (FLOPs, losses), their lower envelope, and who is on it (what
    stands in brackets in a name is not shown).
    """
    if not runs:
        raise UserError("give at least one training curve")
    for name, (c, y) in runs.items():
        if np.shape(c) != np.shape(y) or np.ndim(c) != 1 or len(unusable(c)) or len(unusable(y)):
            raise UserError(f"the curve of {name} must be as many FLOPs as losses, positive and finite")
    figure, ((axes,),) = canvas(width=6)
    low = min(float(np.min(c)) for c, _ in runs.values())
    high = max(float(np.max(c)) for c, _ in runs.values())
    grid = np.geomspace(low, high, 200)
    curves = []
    for c, y in runs.values():
        axes.plot(c, y, color="#9a9a9a", linewidth=0.7)
        curves.append(np.interp(np.log(grid), np.log(c), y, left=np.inf, right=np.inf))
    table = np.array(curves)
    best, on = np.minimum.accumulate(table.min(axis=0)), table.argmin(axis=0)
    axes.plot(grid, np.where(np.isfinite(best), best, np.nan), color=COLOURS[1], label="lower envelope")
    shown = np.linspace(0, len(grid) - 1, 12).astype(int)
    axes.plot(grid[shown], best[shown], "o", color=COLOURS[0], markersize=5, label="approach 1")
    names = [name.split(" (")[0] for name in runs]
    for k, i in enumerate(shown.tolist()):
        if k == 0 or names[on[i]] != names[on[shown[k - 1]]]:
            axes.annotate(
                names[on[i]], (grid[i], best[i]), (-2, -5), textcoords="offset points", fontsize=7,
                rotation=35, ha="right", va="top", rotation_mode="anchor",
            )  # fmt: skip
    axes.set(xscale="log", xlabel=FLOPS, ylabel=LOSS)
    axes.margins(x=0.1, y=0.2)  # room for the names
    legend(axes)
    return finished(figure)


def _has_size_and_data(fit: Fit) -> None:
    if set(fit.arrays) != {"N", "D"}:
        raise UserError(
            f"this picture needs a law of N and D alone; {fit.law.name} has {', '.join(fit.arrays)}"
        )


def contours(fit: Fit, *, held: Mapping[str, Any] | None = None) -> Any:
    """The fitted loss over N and D: iso-loss lines, isoFLOP lines, the efficient frontier, the runs; and
    slices of it at the compute of up to SLICES scales, with their runs.

    held: N, D (and loss, for the slices) of runs that the fit did not see. UserError where the law has other
    variables.
    """
    _has_size_and_data(fit)
    figure, ((axes, slices),) = canvas(1, 2, width=6, height=4.6, width_ratios=(1.2, 1))
    every = [np.append(v, (held or {}).get(name, [])) for name, v in fit.arrays.items()]
    n, d = (np.geomspace(v.min() / 1.5, v.max() * 1.5, 90) for v in every)
    loss = fit.predict(N=n[None, :], D=d[:, None], far=True)
    levels = np.quantile(loss, np.linspace(0, 1, 15))
    filled = axes.contourf(n, d, loss, levels=np.unique(levels), cmap="viridis_r", alpha=0.75)
    figure.colorbar(filled, ax=axes, label=LOSS, format="%.2f")
    low, high = 6 * n[0] * d[0], 6 * n[-1] * d[-1]
    for c in 10.0 ** np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1):
        axes.plot(n, c / (6 * n), color="white", linewidth=0.8, linestyle="--")
    flops = np.geomspace(low, high, 25)
    sizes = np.log([budget(fit.law, float(c))(**fit.params)["N"] for c in flops])
    fine = np.geomspace(low, high, 400)
    best = np.exp(np.interp(np.log(fine), np.log(flops), sizes))
    inside = (best >= n[0]) & (best <= n[-1]) & (fine / (6 * best) >= d[0]) & (fine / (6 * best) <= d[-1])
    title = "dashed: decades of 6 N D"
    if inside.any():
        axes.plot(best, fine / (6 * best), color=COLOURS[1], label="efficient frontier")
    else:
        side = "larger N and smaller" if best[200] > np.sqrt(n[0] * n[-1]) else "smaller N and larger"
        title += f"; the efficient frontier lies outside, at {side} D"
    axes.plot(fit.arrays["N"], fit.arrays["D"], "o", color="black", markersize=3, label="runs")
    if held is not None:
        axes.plot(held["N"], held["D"], "*", color=COLOURS[3], markersize=14, label="held out")
    axes.set(xscale="log", yscale="log", xlim=(n[0], n[-1]), ylim=(d[0], d[-1]))
    axes.set(xlabel=meaning(fit.law, "N"), ylabel=meaning(fit.law, "D"))
    axes.set_title(title, fontsize=9)
    legend(axes, loc="lower right")
    _slices(slices, fit, n, held)
    return finished(figure)


def _slices(axes: Any, fit: Fit, sizes: Floats, held: Mapping[str, Any] | None) -> None:
    """The fitted loss over size at the compute of scales from the least to the largest, and their runs."""
    flops, scale = 6 * fit.arrays["N"] * fit.arrays["D"], scales(fit.arrays)
    shown = np.unique(np.linspace(0, scale.max(), SLICES).round().astype(int))
    middle = [float(np.exp(np.log(flops[scale == k]).mean())) for k in shown]
    for k, c, colour in zip(shown, middle, shades(middle), strict=True):
        mine = scale == k
        axes.plot(fit.arrays["N"][mine], fit.loss[mine], "o", color=colour, markersize=3)
        own = sizes[(sizes >= fit.arrays["N"][mine].min() / 2) & (sizes <= fit.arrays["N"][mine].max() * 2)]
        axes.plot(own, fit.predict(N=own, D=c / (6 * own), far=True), color=colour, label=f"{c:.1e}")
    if held is not None and "loss" in held:
        axes.plot(held["N"], held["loss"], "*", color=COLOURS[3], markersize=11)
    axes.set(xscale="log", xlabel=meaning(fit.law, "N"), ylabel=LOSS)
    axes.set_title("runs of a scale of compute, and the law there", fontsize=9)
    legend(axes, title="FLOPs", title_fontsize=8)


def tokens_per_parameter(fit: Fit, *, n: int = 100, by: Any = None, seed: int = 0) -> Any:
    """Optimal D/N over compute, up to 100 times that of the runs, with 80 and 95 % bands of `n` resamples."""
    _has_size_and_data(fit)
    flops = 6 * fit.arrays["N"] * fit.arrays["D"]
    grid = np.geomspace(flops.min(), 100 * flops.max(), 13)
    plans = [budget(fit.law, float(c)) for c in grid]

    def ratios(**params: float) -> list[float]:
        return [plan(**params)["tokens a parameter"] for plan in plans]

    drawn = fit.bootstrap(n, by=by, seed=seed).of(ratios)
    figure, ((axes,),) = canvas(width=6)
    for level, alpha in ((95, BAND), (80, 2 * BAND)):
        band = np.percentile(drawn, (50 - level / 2, 50 + level / 2), axis=0)
        axes.fill_between(grid, *band, color=COLOURS[0], alpha=alpha, lw=0, label=f"{level} %")
    axes.plot(grid, ratios(**fit.params), color=COLOURS[0], label="fit")
    axes.axhline(20, color="#777777", linestyle=":", label="20 tokens a parameter")
    axes.axvspan(flops.min(), flops.max(), color="#bbbbbb", alpha=0.3, lw=0, label="compute of the runs")
    axes.set(xscale="log", yscale="log", xlabel=FLOPS, ylabel="optimal D/N (tokens per parameter)")
    legend(axes)
    return finished(figure)


def reducible(fit: Fit, *, ratios: int = 6) -> Any:
    """L - E over compute, with the law's line at each of the ratios D/N: straight and parallel where
    over-training costs the same at every budget (2403.08540)."""
    _has_size_and_data(fit)
    floor = fit.params.get("E", 0.0)
    n, d = fit.arrays["N"], fit.arrays["D"]
    ratio, flops = np.log(d / n), 6 * n * d
    edges = np.unique(np.quantile(ratio, np.linspace(0, 1, ratios + 1)))
    part = np.clip(np.searchsorted(edges, ratio, side="right") - 1, 0, max(len(edges) - 2, 0))
    present = np.unique(part)
    middle = np.array([np.exp(np.median(ratio[part == k])) for k in present])
    figure, ((axes,),) = canvas(width=6)
    for k, m, colour in zip(present, middle, shades(middle), strict=True):
        mine = part == k
        axes.plot(flops[mine], fit.loss[mine] - floor, "o", color=colour, markersize=4)
        c = np.geomspace(flops[mine].min() / 1.3, flops[mine].max() * 1.3, 40)
        size = np.sqrt(c / (6 * m))
        line = fit.predict(N=size, D=m * size, far=True) - floor
        axes.plot(c, line, color=colour, label=f"D/N near {m:.3g}")
    axes.set(xscale="log", yscale="log", xlabel=FLOPS, ylabel="L - E (nats/token)")
    legend(axes)
    return finished(figure)
