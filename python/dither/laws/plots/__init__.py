"""The pictures of laws, as figures of matplotlib: `fig = plots.residuals(fit); fig.savefig("fit.png")`.

`of_fit(fit)` draws all that follow from a fit and its runs; the others take maps, schedules or counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dither.laws.decisions import published
from dither.laws.isoflop import parabolas
from dither.laws.plots.budgets import contours, envelope, isoflop, reducible, tokens_per_parameter
from dither.laws.plots.checks import extrapolation, pairs, profiles, residuals, sensitivity, starts
from dither.laws.plots.curves import bits, coverage, reward, samples, schedule
from dither.laws.plots.transfer import loss_to_loss, task, translated
from dither.laws.precision import PRECISION, QAT_SHARE
from dither.laws.scales import scales

if TYPE_CHECKING:
    from dither.laws.fitting import Fit

__all__ = [
    "bits",
    "contours",
    "coverage",
    "envelope",
    "extrapolation",
    "isoflop",
    "loss_to_loss",
    "of_fit",
    "pairs",
    "profiles",
    "reducible",
    "residuals",
    "reward",
    "samples",
    "schedule",
    "sensitivity",
    "starts",
    "task",
    "tokens_per_parameter",
    "translated",
]


def of_fit(
    fit: Fit,
    *,
    n: int = 200,
    by: Any = None,
    curves: Mapping[str, tuple[Any, Any]] | None = None,
    other_N: Mapping[str, Any] | None = None,
    checkpoints: Mapping[str, Any] | None = None,
) -> Iterator[tuple[str, str, Any]]:
    """(name, caption, figure) of every picture that a fit and its runs allow.

    n, by: of its bootstrap. curves: of its runs, as `envelope` takes them. other_N, checkpoints: as
    `dither.laws.sensitivities` takes them.
    """
    yield "residuals", "Fitted against observed; residuals should depend on nothing", residuals(fit)
    if scales(fit.arrays).max() >= 2:
        caption = "The largest scale predicted from the others; errors of rolling-origin predictions"
        yield "extrapolation", caption, extrapolation(fit, n=n)
    yield "starts", "Where every start ended: each step is a minimum", starts(fit)
    caption = "Parameters under other objectives, rows, counts of N and checkpoints"
    yield "sensitivity", caption, sensitivity(fit, other_N=other_N, checkpoints=checkpoints)
    drawn = fit.bootstrap(n, by=by)
    if drawn.converged.any():
        caption = "Parameters over resamples: a ridge is a direction that is hardly identified"
        yield "pairs", caption, pairs(drawn)
    if profiled := [name for name in ("E", "alpha", "beta") if name in fit.law.same]:
        yield "profiles", "The best objective at held values of one parameter", profiles(fit, profiled)
    if set(fit.arrays) == {"N", "D"}:
        yield "contours", "The fitted loss, the runs and the efficient frontier", contours(fit)
        yield "reducible", "Reducible loss over compute", reducible(fit)
        if drawn.converged.any():
            figure = tokens_per_parameter(fit, n=min(n, 100), by=by)
            yield "tokens_per_parameter", "Optimal tokens a parameter over compute", figure
        flops = 6 * fit.arrays["N"] * fit.arrays["D"]
        if len(parabolas(fit.arrays["N"], flops, fit.loss)) >= 2:
            caption = "Loss over size at each budget, without the law: minima of parabolas"
            yield "isoflop", caption, isoflop(fit.arrays["N"], flops, fit.loss)
    if curves:
        yield "envelope", "Training curves and their lower envelope, without the law", envelope(curves)
    yield from _of_law(fit, n, drawn.converged.any())


def _of_law(fit: Fit, n: int, resampled: bool) -> Iterator[tuple[str, str, Any]]:
    """The picture that one law has."""
    name = fit.law.name
    if list(fit.arrays) == ["L"] and resampled:
        yield "task", "The task over the loss", task(fit, n=n)
    elif name == "coverage" and resampled:
        yield "samples", "Coverage of repeated samples: a straight line is a power law", samples(fit, n=n)
    elif name == "rl_sigmoid" and resampled:
        yield "reward", "Reward over compute and the asymptote", reward(fit, n=n)
    elif name == PRECISION.name:
        yield (
            "bits",
            "What bits leave of the size; the share of quantized training, as published",
            bits(fit.params),
        )
    elif name == QAT_SHARE.name:
        caption = "What bits leave of the size, as published; the share of quantized training"
        yield "bits", caption, bits(published(PRECISION)[0], share=fit.params)
