"""What is wrong with a fit: residuals, extrapolation, ridges, profiles, sensitivity, starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws import search
from dither.laws.cautions import at_bound
from dither.laws.derived import EXPONENTS, exponent_of, is_constant
from dither.laws.engine import Floats
from dither.laws.fitting import Fit
from dither.laws.holdout import HoldOuts, runs_of, subset
from dither.laws.plots.canvas import BAND, COLOURS, canvas, finished, legend, meaning
from dither.laws.profiles import WIDE
from dither.laws.scales import scales, size
from dither.laws.sensitivity import sensitivities
from dither.laws.uncertainty import Bootstrap

EQUAL = 1e-12
"""Objectives that differ by less, as a share, are drawn as if they differed by so much."""

PERCENT = "residual, observed - fitted (%)"


def residuals(fit: Fit, *, other: Mapping[str, float] | None = None) -> Any:
    """Fitted against observed, residuals against every variable (C and D/N too), and their distribution.

    other: a second set of parameters (published ones) whose residuals stand beside.
    """
    against = {meaning(fit.law, name): values for name, values in fit.arrays.items()}
    if {"N", "D"} <= set(fit.arrays):
        n, d = fit.arrays["N"], fit.arrays["D"]
        against |= {"compute C (FLOPs)": 6 * n * d, "D/N (tokens per parameter)": d / n}
    columns = 3
    rows = -(-(len(against) + 2) // columns)
    figure, grid = canvas(rows, columns, width=3.7, height=3)
    first, last, *middle = grid.flat
    spare = middle[len(against) :]
    fitted = fit.law.curve(fit.law.vector(fit.params), fit.arrays)
    ends = [float(min(fitted.min(), fit.loss.min())), float(max(fitted.max(), fit.loss.max()))]
    first.plot(ends, ends, color="#777777", linewidth=1)
    first.plot(fit.loss, fitted, "o", color=COLOURS[0], markersize=3)
    first.set(xscale="log", yscale="log", xlabel=f"observed {fit.law.response}", ylabel="fitted")
    sets = {"fit": 100 * fit.residuals}
    if other is not None:
        sets["other"] = 100 * np.log(fit.loss / fit.law.curve(fit.law.vector(other), fit.arrays))
    last.violinplot(list(sets.values()), showmedians=True)
    last.set_xticks(range(1, len(sets) + 1), list(sets))
    last.set_xlabel("parameters")
    for axes, (name, values) in zip(middle, against.items(), strict=False):
        axes.plot(values, sets["fit"], "o", color=COLOURS[0], markersize=3)
        if values.max() < 1.001 * values.min():
            axes.set_xlim(values.min() / 2, values.max() * 2)
        axes.set(xscale="log", xlabel=name)
    for axes in (last, *middle[: len(against)]):
        axes.axhline(0, color="#777777", linewidth=1)
        axes.set_ylabel(PERCENT, fontsize=8)
    for axes in spare:
        axes.remove()
    return finished(figure)


def extrapolation(fit: Fit, *, n: int = 200, seed: int = 0, by: Any = None) -> Any:
    """The largest scale predicted from the others with 95 % bands, and rolling-origin errors by factor.

    by: as `validate` takes it, so that checkpoints of a run are held out together. UserError where the runs
    have fewer than three scales, or the largest leaves too few others.
    """
    scale, x = scales(fit.arrays), size(fit.arrays)
    if scale.max() < 2:
        raise UserError(f"the runs have {scale.max() + 1} scales; a hold-out needs three")
    parts = HoldOuts(fit, runs_of(fit, by))
    out = scale == scale.max()
    seen = parts.without(out)
    part = subset(fit, seen)
    held = {name: values[out] for name, values in fit.arrays.items()}
    drawn = part.bootstrap(n, seed=seed)
    curves = np.array([part.law.curve(v, held) for v in drawn.kept])
    low, high = np.percentile(curves, (2.5, 97.5), axis=0)
    value = part.law.curve(part.law.vector(part.params), held)
    figure, ((left, right),) = canvas(1, 2, width=5)
    left.axvspan(x[seen].min(), x[seen].max(), color="#bbbbbb", alpha=0.3, lw=0, label="fitted region")
    left.plot(x[seen], fit.loss[seen], "o", color="#777777", markersize=3, label="fitted runs")
    left.plot(x[out], fit.loss[out], "*", color=COLOURS[1], markersize=9, label="held out")
    left.errorbar(
        x[out] * 1.12,
        value,
        np.maximum([value - low, high - value], 0),
        fmt="_",
        color=COLOURS[0],
        label="predicted, 95 %",
    )
    error = 100 * float(np.mean(np.abs(value / fit.loss[out] - 1)))
    name = "compute C (FLOPs)" if {"N", "D"} <= set(fit.arrays) else meaning(fit.law, next(iter(fit.arrays)))
    left.set(xscale="log", xlabel=name, ylabel=fit.law.response, title=f"mean error held out: {error:.2f} %")
    legend(left)
    found = parts.rolling()
    for above, marker, colour, label in (
        (True, "^", COLOURS[1], "predicted too high"),
        (False, "v", COLOURS[0], "too low"),
    ):
        some = [h for h in found if (h.bias > 0) == above]
        errors = [100 * h.error for h in some]
        right.plot([h.factor for h in some], errors, marker, color=colour, label=label)
    right.set(xscale="log", yscale="log", ylabel="mean error of the loss (%)")
    right.set_xlabel("largest run predicted / largest run seen")
    right.set_title("rolling origin")
    legend(right)
    return finished(figure)


def pairs(drawn: Bootstrap, *, published: Mapping[str, float] | None = None) -> Any:
    """Every two parameters over the resamples (scales by their logarithm); the fit, and published ones."""
    law = drawn.fit.law
    values = drawn.kept
    log = [p.logarithmic for p in law.parameters]
    names = [f"ln {p.name}" if p.logarithmic else p.name for p in law.parameters]

    def shown(vector: Any) -> Floats:
        return np.where(log, np.log(np.where(log, vector, 1.0)), vector)

    points, centre = shown(values), shown(law.vector(drawn.fit.params))
    mark = None if published is None else shown(law.vector(published))
    k = len(names)
    figure, grid = canvas(k, k, width=1.75, height=1.6, sharex="col")
    for (i, j), axes in np.ndenumerate(grid):
        if j > i:
            axes.remove()
            continue
        if i == j:
            axes.hist(points[:, i], bins=30, color=COLOURS[0], alpha=0.6)
            axes.set_yticks([])
        else:
            axes.plot(
                points[:, j], points[:, i], ".", color=COLOURS[0], markersize=2, alpha=0.4, label="resamples"
            )
            axes.plot(centre[j], centre[i], "+", color="black", markersize=9, label="fit")
            if mark is not None:
                axes.plot(mark[j], mark[i], "x", color=COLOURS[1], markersize=7, label="published")
        axes.tick_params(labelsize=7)
        if i == k - 1:
            axes.set_xlabel(names[j])
        if j == 0 and i:
            axes.set_ylabel(names[i])
    if k > 1:
        figure.legend(*grid[1, 0].get_legend_handles_labels(), loc="upper right", fontsize=9, frameon=False)
    return finished(figure)


def profiles(fit: Fit, names: Sequence[str]) -> Any:
    """The objective's optimum over fixed values of each parameter, with the limit of the 95 % interval.
    UserError where the law meets every run.
    """
    if fit.value == 0:
        raise UserError("the law meets every run: there is no objective to compare with")
    figure, grid = canvas(1, len(names), width=3.9, height=3.2)
    for axes, name in zip(grid.flat, names, strict=True):
        found = fit.profile(name)
        axes.plot(found.x, found.value / fit.value, color=COLOURS[0])
        axes.axhline(found.limit / fit.value, color=COLOURS[1], linestyle="--", label="95 %")
        axes.axvline(fit.params[name], color="#777777", linestyle=":", label="fit")
        axes.set(xlabel=name, ylabel="objective / its optimum")
        if found.low and found.high and found.high / found.low > WIDE:
            axes.set_xscale("log")
        legend(axes)
    return finished(figure)


def sensitivity(
    fit: Fit, *, other_N: Mapping[str, Any] | None = None, checkpoints: Mapping[str, Any] | None = None
) -> Any:
    """The exponent of the optimal size and E under the choices of `dither.laws.sensitivity`, whose arguments
    it takes; other parameters where the optimal size is no power of compute.

    A parameter at its bound is none that the runs show: the row says so in place of a point.
    """
    found = sensitivities(fit, other_N=other_N, checkpoints=checkpoints)
    columns: dict[str, list[float]] = {}
    if fit.law.name in EXPONENTS and not is_constant(fit.law):
        a = exponent_of(fit.law)
        columns["exponent of N*(C)"] = [a(**one.params) for one in found.values()]
    for name in [name for name in fit.params if name == "E" or not columns][: 3 - len(columns)]:
        columns[name] = [np.nan if name in at_bound(one) else one.params[name] for one in found.values()]
    figure, grid = canvas(1, len(columns), width=3.8, height=1.2 + 0.27 * len(found), sharey=True)
    rows = np.arange(len(found))
    for axes, (name, values) in zip(grid.flat, columns.items(), strict=True):
        axes.plot(values, rows, "o", color=COLOURS[0])
        if np.isfinite(values[0]):
            axes.axvline(values[0], color="#777777", linestyle=":")
        if np.isnan(values).all():
            axes.set_xticks([])
        for row in rows[np.isnan(values)]:
            axes.text(0.02, row, "at its bound", color=COLOURS[1], fontsize=8, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
        axes.set_xlabel(name + (" (nats/token)" if name == "E" else ""))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(labelsize=8)
    grid.flat[0].set_yticks(rows, list(found))
    return finished(figure)


def starts(fit: Fit) -> Any:
    """Where every start ended, sorted: a staircase has a step for each minimum."""
    asked = fit.settings
    found = search.find(
        fit.law, fit.rows, fit.objective, fit.low, fit.high, starts=asked.starts, threads=asked.threads
    )
    values = np.sort(found.optima.value[0])
    figure, ((axes,),) = canvas(width=5.6)
    best = values[0] if values[0] > 0 else max(float(values[-1]), 1.0)  # of 0: in units of the worst
    excess = (values - values[0]) / best
    axes.plot(np.arange(1, len(values) + 1), np.maximum(excess, EQUAL), "o-", color=COLOURS[0], markersize=4)
    reached = int(np.sum(excess <= 1e-6))
    axes.axvspan(
        0.5,
        reached + 0.5,
        color=COLOURS[2],
        alpha=BAND,
        lw=0,
        label=f"best basin: {reached} of {len(values)}",
    )
    axes.set(
        yscale="log",
        ylim=(EQUAL / 3, max(1e-3, 3 * excess[-1])),
        xlabel="start, best first",
        ylabel=f"objective / best - 1 (at least {EQUAL:g})",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes)
    return finished(figure)
