"""The pictures of laws, as figures of matplotlib: `fig = plots.residuals(fit); fig.savefig("fit.png")`.

`of_fit(fit)` draws all that follow from a fit and its runs; the others take maps, schedules or counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dither.errors import UserError
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
    """(name, caption, figure) of every picture that a fit and its runs allow; where one cannot be drawn after
    all, the reason in place of its caption, and None.

    n, by: of its bootstrap. curves: of its runs, as `envelope` takes them. other_N, checkpoints: as
    `dither.laws.sensitivities` takes them.
    """
    for name, caption, draw in _pictures(fit, n, by, curves, other_N, checkpoints):
        try:
            yield name, caption, draw()
        except UserError as error:
            yield name, str(error), None


def _pictures(
    fit: Fit, n: int, by: Any, curves: Any, other_N: Any, checkpoints: Any
) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    yield "residuals", "Fitted against observed; residuals should depend on nothing", lambda: residuals(fit)
    if scales(fit.arrays).max() >= 2:
        caption = "The largest scale predicted from the others; errors of rolling-origin predictions"
        yield "extrapolation", caption, lambda: extrapolation(fit, n=n, by=by)
    yield "starts", "Where every start ended: each step is a minimum", lambda: starts(fit)
    caption = "Parameters under other objectives, rows, counts of N and checkpoints"
    yield "sensitivity", caption, lambda: sensitivity(fit, other_N=other_N, checkpoints=checkpoints)
    caption = "Parameters over resamples: a ridge is a direction that is hardly identified"
    yield "pairs", caption, lambda: pairs(fit.bootstrap(n, by=by))
    if profiled := [name for name in ("E", "alpha", "beta") if name in fit.law.same]:
        yield (
            "profiles",
            "The best objective at held values of one parameter",
            lambda: profiles(fit, profiled),
        )
    if set(fit.arrays) == {"N", "D"}:
        yield "contours", "The fitted loss, the runs and the efficient frontier", lambda: contours(fit)
        yield "reducible", "Reducible loss over compute", lambda: reducible(fit)
        caption = "Optimal tokens a parameter over compute"
        yield "tokens_per_parameter", caption, lambda: tokens_per_parameter(fit, n=min(n, 100), by=by)
        flops = 6 * fit.arrays["N"] * fit.arrays["D"]
        if len(parabolas(fit.arrays["N"], flops, fit.loss)) >= 2:
            caption = "Loss over size at each budget, without the law: minima of parabolas"
            yield "isoflop", caption, lambda: isoflop(fit.arrays["N"], flops, fit.loss)
    if curves:
        yield (
            "envelope",
            "Training curves and their lower envelope, without the law",
            lambda: envelope(curves),
        )
    yield from _of_law(fit, n)


def _of_law(fit: Fit, n: int) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """The picture that one law has."""
    name = fit.law.name
    if list(fit.arrays) == ["L"]:
        yield "task", "The task over the loss", lambda: task(fit, n=n)
    elif name == "coverage":
        yield (
            "samples",
            "Coverage of repeated samples: a straight line is a power law",
            lambda: samples(fit, n=n),
        )
    elif name == "rl_sigmoid":
        yield "reward", "Reward over compute and the asymptote", lambda: reward(fit, n=n)
    elif name == PRECISION.name:
        caption = "What bits leave of the size; the share of quantized training, as published"
        yield "bits", caption, lambda: bits(fit.params)
    elif name == QAT_SHARE.name:
        caption = "What bits leave of the size, as published; the share of quantized training"
        yield "bits", caption, lambda: bits(published(PRECISION)[0], share=fit.params)
