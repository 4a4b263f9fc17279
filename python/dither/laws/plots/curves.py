"""Along schedules, samples, reinforcement learning, and bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.coverage import beta_binomial, pass_at_k
from dither.laws.decisions import published
from dither.laws.fitting import Fit
from dither.laws.plots.canvas import BAND, COLOURS, canvas, finished, legend, meaning
from dither.laws.precision import PRECISION, QAT_SHARE


def schedule(rates: Any, steps: Any, actual: Any, predicted: Any) -> Any:
    """A schedule (a rate a step), the losses at `steps` (from 1), those predicted, and the residuals."""
    rate, at, y, guess = (np.asarray(v, dtype=np.float64) for v in (rates, steps, actual, predicted))
    if not at.shape == y.shape == guess.shape:
        raise UserError("steps, actual and predicted must be columns of one length")
    figure, grid = canvas(3, 1, width=6.4, height=1.9, sharex=True, height_ratios=(1, 2, 1))
    top, middle, bottom = grid.flat
    top.plot(np.arange(1, len(rate) + 1), rate, color=COLOURS[0])
    top.set_ylabel("learning rate")
    middle.plot(at, y, color="#9a9a9a", linewidth=2, label="actual")
    middle.plot(at, guess, color=COLOURS[1], linewidth=1, label="predicted")
    middle.set_ylabel("loss (nats/token)")
    legend(middle, loc="upper right")  # where a falling curve is not; "best" searches through every step
    bottom.axhline(0, color="#777777", linewidth=1)
    bottom.plot(at, 100 * (y / guess - 1), color=COLOURS[0], linewidth=1)
    bottom.set(xlabel="optimizer step", ylabel="residual (%)")
    return finished(figure)


def coverage(successes: Any, trials: Any) -> Any:
    """-ln pass@k over k with the beta-binomial law of the counts, and the problems' rates."""
    c, n = (np.asarray(v, dtype=np.float64) for v in np.broadcast_arrays(successes, trials))
    law = beta_binomial(c, n)
    ks = np.unique(np.geomspace(1, n.min(), 20).astype(int))
    shares = np.array([pass_at_k(c, n, int(k)) for k in ks])
    figure, ((left, right),) = canvas(1, 2)
    with np.errstate(divide="ignore"):
        left.plot(
            ks,
            np.where((shares > 0) & (shares < 1), -np.log(shares), np.nan),
            "o",
            color="black",
            markersize=4,
            label="counts",
        )
    far = np.geomspace(1, 10 * n.min(), 80)
    left.plot(
        far,
        -np.log(law.pass_at(far)),
        color=COLOURS[0],
        label=f"law, a = {law.a:.2g}, never = {law.zero:.2g}",
    )
    left.set(xscale="log", yscale="log", xlabel="k (samples a problem)", ylabel="-ln pass@k")
    legend(left)
    right.hist(c / n, bins=np.linspace(0, 1, 21), color=COLOURS[0], alpha=0.7)
    right.set(xlabel="success rate of a problem", ylabel="problems")
    return finished(figure)


def samples(fit: Fit, *, n: int = 200, seed: int = 0) -> Any:
    """-ln pass@k over k with the law c = exp(-a k^-b), a straight line, and its 95 % band.

    Points of one curve share their samples; `coverage` draws counts, and their law.
    """
    if fit.law.name != "coverage":
        raise UserError(f"this picture shows coverage, not {fit.law.name}")
    k = fit.arrays["k"]
    grid = np.geomspace(k.min(), 10 * k.max(), 80)
    drawn = fit.bootstrap(n, seed=seed)
    curves = [-np.log(fit.law.curve(v, {"k": grid})) for v in drawn.kept]
    figure, ((axes,),) = canvas(width=6)
    low, high = np.percentile(curves, (2.5, 97.5), axis=0)
    axes.fill_between(grid, low, high, color=COLOURS[0], alpha=BAND, lw=0, label="95 %")
    some = (fit.loss > 0) & (fit.loss < 1)
    axes.plot(k[some], -np.log(fit.loss[some]), "o", color="black", markersize=4, label="measured")
    axes.plot(grid, fit.params["a"] * grid ** -fit.params["b"], color=COLOURS[0], label="law")
    axes.set(xscale="log", yscale="log", xlabel=meaning(fit.law, "k"), ylabel="-ln pass@k")
    legend(axes)
    return finished(figure)


def reward(fit: Fit, *, excluded: tuple[Any, Any] | None = None, n: int = 200, seed: int = 0) -> Any:
    """Reward over compute with the sigmoid and the interval of its asymptote.

    excluded: compute and reward of the early part that the fit left out, hatched.
    """
    if fit.law.name != "rl_sigmoid":
        raise UserError(f"this picture shows rl_sigmoid, not {fit.law.name}")
    c = fit.arrays["C"]
    figure, ((axes,),) = canvas(width=6)
    if excluded is not None:
        early = np.asarray(excluded[0], dtype=np.float64)
        axes.plot(*excluded, "o", color="#9a9a9a", markersize=4, label="left out")
        axes.axvspan(early.min(), early.max(), facecolor="none", edgecolor="#cccccc", hatch="//", lw=0)
    axes.plot(c, fit.loss, "o", color="black", markersize=4, label="fitted")
    grid = np.geomspace(c.min(), 10 * c.max(), 100)
    axes.plot(grid, fit.predict(C=grid), color=COLOURS[0], label="sigmoid")
    low, high = fit.bootstrap(n, seed=seed).interval()["A"]
    axes.axhspan(low, high, color=COLOURS[1], alpha=BAND, lw=0, label="asymptote, 95 %")
    axes.axhline(fit.params["A"], color=COLOURS[1], linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel=meaning(fit.law, "C"), ylabel=fit.law.response)
    legend(axes)
    return finished(figure)


def bits(precision: Mapping[str, float], *, share: Mapping[str, float] | None = None) -> Any:
    """What bits leave of the size, for weights, activations, cache and all three, and QAT's share of tokens.

    precision: gw, ga, gkv of the precision law. share: constants of qat_share (default: the published ones).
    """
    missing = [name for name in ("gw", "ga", "gkv") if name not in precision]
    if missing:
        raise UserError(f"bits needs {', '.join(missing)} of the law {PRECISION.name}")
    figure, ((left, right),) = canvas(1, 2)
    p = np.linspace(1, 16, 120)
    together = np.ones_like(p)
    names = {"gw": "weights", "ga": "activations", "gkv": "key-value cache"}
    for (key, name), colour in zip(names.items(), COLOURS, strict=False):
        kept = -np.expm1(-p / precision[key])
        together = together * kept
        left.plot(p, kept, color=colour, label=name)
    left.plot(p, together, color="black", linewidth=2, label="all three")
    left.set(xlabel="bits", ylabel="effective N / N (share)", ylim=(0, 1.05))
    legend(left)
    constants = published(QAT_SHARE)[0] if share is None else share
    tokens = np.geomspace(2, 1e5, 120)  # D / (N bits / 8), so N = 1 parameter and 8 bits
    curve = QAT_SHARE.predict(constants, N=1.0, D=tokens, bits=8.0)
    right.plot(tokens, 100 * curve, color=COLOURS[0])
    right.set(
        xscale="log", xlabel="S (tokens per byte of weights)", ylabel="optimal share of QAT (% of tokens)"
    )
    return finished(figure)
