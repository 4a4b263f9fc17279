"""Laws of a data mixture, and what filtered data is worth when repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.formulas import function_law
from dither.laws.law import FunctionLaw
from dither.laws.table import listed


def mixing(domains: Sequence[str]) -> FunctionLaw:
    """L = c + exp(sum_j t_j r_j) over the shares r of these domains, for one validation domain.

    The published form has a factor k before the exponential; where shares sum to one, k exp(sum t_j r_j) is
    exp(sum (ln k + t_j) r_j), so k is not identified and is left out. Shares must be positive.
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
    )


def check_shares(shares: Mapping[str, Floats]) -> None:
    """UserError where the shares of a row do not sum to one."""
    total = np.sum(list(shares.values()), axis=0)
    if len(off := np.flatnonzero(np.abs(total - 1) > 0.01)):
        raise UserError(
            f"shares of {', '.join(shares)} must sum to 1 in every row; rows {listed(off)} sum to "
            f"{total[off].min():.4g} .. {total[off].max():.4g}. Is a domain missing, or are they percents?"
        )


def pool_utility(utility: Any, half_life: Any, epochs: Any) -> Floats:
    """Exponent of the error of a pool of quality buckets at each epoch (2404.07177):
    b(k) = (1/p) sum_i b_i delta_i^(k-1), delta_i = (1/2)^(1/(p tau_i)), for p buckets.

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
