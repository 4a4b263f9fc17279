"""The pictures of laws, as figures of matplotlib: `fig = plots.residuals(fit); fig.savefig("fit.png")`.

`of_fit(fit)` draws all that follow from a fit alone; the others take runs, maps, schedules or counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dither.laws.isoflop import parabolas
from dither.laws.plots.budgets import contours, envelope, isoflop, reducible, tokens_per_parameter
from dither.laws.plots.checks import extrapolation, pairs, profiles, residuals, sensitivity, starts
from dither.laws.plots.curves import bits, coverage, reward, schedule
from dither.laws.plots.transfer import loss_to_loss, task, translated
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
    "schedule",
    "sensitivity",
    "starts",
    "task",
    "tokens_per_parameter",
    "translated",
]


def of_fit(fit: Fit, *, n: int = 200, by: Any = None) -> Iterator[tuple[str, str, Any]]:
    """(name, caption, figure) of every picture that a fit alone allows. n, by: of its bootstrap."""
    yield "residuals", "Fitted against observed; residuals should depend on nothing", residuals(fit)
    if scales(fit.arrays).max() >= 2:
        caption = "The largest scale predicted from the others; errors of rolling-origin predictions"
        yield "extrapolation", caption, extrapolation(fit, n=n)
    yield "starts", "Where every start ended: each step is a minimum", starts(fit)
    yield "sensitivity", "Parameters under other objectives and with rows dropped", sensitivity(fit)
    caption = "Parameters over resamples: a ridge is a direction that is hardly identified"
    yield "pairs", caption, pairs(fit.bootstrap(n, by=by))
    if profiled := [name for name in ("E", "alpha", "beta") if name in fit.law.same]:
        yield "profiles", "The best objective at held values of one parameter", profiles(fit, profiled)
    if set(fit.arrays) == {"N", "D"}:
        yield "contours", "The fitted loss, the runs and the efficient frontier", contours(fit)
        yield "reducible", "Reducible loss over compute", reducible(fit)
        figure = tokens_per_parameter(fit, n=min(n, 100), by=by)
        yield "tokens_per_parameter", "Optimal tokens a parameter over compute", figure
        flops = 6 * fit.arrays["N"] * fit.arrays["D"]
        if len(parabolas(fit.arrays["N"], flops, fit.loss)) >= 2:
            caption = "Loss over size at each budget, without the law: minima of parabolas"
            yield "isoflop", caption, isoflop(fit.arrays["N"], flops, fit.loss)
