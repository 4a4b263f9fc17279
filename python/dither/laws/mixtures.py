"""Laws of a data mixture, and what filtered data is worth when repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.decisions import Decision, judge, own_together
from dither.laws.engine import Floats
from dither.laws.fitting import Fit
from dither.laws.formulas import function_law
from dither.laws.law import FunctionLaw
from dither.laws.simplex import best_mixture
from dither.laws.table import listed

OUTSIDE = 0.01
"""How far a share may lie outside those of the runs before it is said."""


def mixing(domains: Sequence[str]) -> FunctionLaw:
    """L = c + exp(sum_j t_j r_j) over the shares r of these domains, for one validation domain.

    The published form has a factor k before the exponential; where shares sum to one, k exp(sum t_j r_j) is
    exp(sum (ln k + t_j) r_j), so k is not identified and is left out.
    """
    names = list(dict.fromkeys(domains))
    if len(names) != len(domains) or len(names) < 2:
        raise UserError("a mixture needs two domains or more, each named once")

    def law(c: float, **rest: Any) -> Floats:
        return c + np.exp(np.sum([rest[f"t_{name}"] * rest[name] for name in names], axis=0))

    return function_law(
        "mixing",
        "L = c + exp(" + " + ".join(f"t_{name} {name}" for name in names) + ")",
        {name: "share of the training tokens" for name in names},
        {
            "c": ("loss that no mixture changes", (0.5, 2.0)),
            **{f"t_{name}": ("what a share of it does", (-0.5, 0.5)) for name in names},
        },
        law,
        "Ye et al. 2024, 2403.16952",
        signed=tuple(f"t_{name}" for name in names),
        zero=dict.fromkeys(names, lambda share: 1 + share),
    )


def check_shares(shares: Mapping[str, Floats]) -> None:
    """UserError where the shares of a row do not sum to one."""
    total = np.sum(list(shares.values()), axis=0)
    if len(off := np.flatnonzero(np.abs(total - 1) > 0.01)):
        raise UserError(
            f"shares of {', '.join(shares)} must sum to 1 in every row; rows {listed(off)} sum to "
            f"{total[off].min():.4g} .. {total[off].max():.4g}. Is a domain missing, or are they percents?"
        )


def mixture(
    fits: Mapping[str, Fit],
    weights: Sequence[float] | None = None,
    *,
    n: int = 100,
    by: Any = None,
    seed: int = 0,
) -> Decision:
    """Shares of the domains that make the weighted mean of several losses least, and the losses there.

    fits: name of a loss (of one validation domain each) -> a `mixing` law fitted to it, all to the same runs.
    weights: of the losses, positive (default: alike). by: what is resampled, as `Fit.bootstrap` takes it.

    UserError for one loss: c + exp(sum t_j r_j) falls evenly towards the domain of the least t, so its least
    value has that domain alone, whatever the runs; only losses that pull apart have an optimum between.
    """
    if len(fits) < 2:
        raise UserError(
            "by this law one loss is always least with one domain alone, whatever the runs say: give the "
            "losses of several validation domains, whose mean is made least"
        )
    some, share = next(iter(fits.values())), np.ones(len(fits))
    for fit in fits.values():
        if fit.law.formula != some.law.formula or any(
            not np.array_equal(values, some.arrays[name]) for name, values in fit.arrays.items()
        ):
            raise UserError("the losses of a mixture must be fits of one mixing law to the same runs")
    if weights is not None:
        share = np.asarray(weights, dtype=np.float64)
        if share.shape != (len(fits),) or not (np.isfinite(share) & (share > 0)).all():
            raise UserError(f"give one positive weight for each of the {len(fits)} losses")
    share, domains = share / share.sum(), list(some.law.variables)
    check_shares(some.arrays)

    def what(*params: Mapping[str, float]) -> dict[str, float]:
        vectors = [some.law.vector(one) for one in params]

        def losses(shares: Floats) -> Floats:
            at = dict(zip(domains, shares, strict=True))
            return np.array([some.law.curve(vector, at) for vector in vectors])

        best, value = best_mixture(lambda shares: float(share @ losses(shares)), len(domains))
        named = zip((*domains, *(f"loss {name}" for name in fits)), (*best, *losses(best)), strict=True)
        return {**{name: float(one) for name, one in named}, "mean loss": value}

    constants = [
        replace(one, cautions=tuple(f"{name}: {text}" for text in one.cautions))
        for name, one in zip(fits, own_together(list(fits.values()), n=n, by=by, seed=seed), strict=True)
    ]
    found = judge(what, *constants, where=lambda _: None)
    ranges = {name: (float(v.min()), float(v.max())) for name, v in some.arrays.items()}
    outside = tuple(
        f"the best share of {name}, {found.values[name]:.3g}, lies outside those of the runs ({low:.3g} to "
        f"{high:.3g})"
        for name, (low, high) in ranges.items()
        if not low - OUTSIDE <= found.values[name] <= high + OUTSIDE
    )
    return replace(
        found,
        basis=f"{len(some.loss)} own runs, losses of each: "
        + ", ".join(f"{name} (weight {w:.3g})" for name, w in zip(fits, share, strict=True)),
        spread=constants[0].spread,
        cautions=(*outside, *found.cautions),
    )


def pool_utility(utility: Any, half_life: Any, epochs: Any) -> Floats:
    """Exponent of the error of a pool of quality buckets at each epoch (2404.07177):
    b(k) = (1/p) sum_i b_i delta_i^(k-1), delta_i = (1/2)^(1/(p tau_i)), for p buckets.

    The first epoch has the whole utility, b(1) = mean b_i, as the rule for one bucket has it, b_(k+1) =
    b (1/2)^(k/tau). Where the form of a pool is written with delta^k, k counts the repetitions.

    utility, half_life: one a bucket (half-life in epochs of that bucket alone: in a pool its examples are
    seen p times more rarely); epochs: k, from 1.
    """
    b, tau = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (utility, half_life))
    if b.shape != tau.shape or b.ndim != 1 or not (tau > 0).all():
        raise UserError("give a utility and a positive half-life for each bucket")
    k = np.asarray(epochs, dtype=np.float64)
    return np.mean(b * 0.5 ** ((k[..., None] - 1) / (len(b) * tau)), axis=-1)


def filtered_error(a: float, d: float, utility: Any, half_life: Any, samples: float, seen: int) -> Floats:
    """Error after each of `seen` epochs over a pool of `samples`: a n_1^b(1) prod_j (n_j/n_(j-1))^b(j) + d
    with n_j = j samples; utilities are negative exponents.
    """
    if seen < 1 or not samples > 0:
        raise UserError(f"a pool has samples and is seen once at least, not {samples} samples {seen} times")
    k = np.arange(1, seen + 1)
    b = pool_utility(utility, half_life, k)
    growth = np.log(np.r_[samples, k[1:] / k[:-1]])
    return a * np.exp(np.cumsum(b * growth)) + d
