"""pass@k from counts of successes: a beta distribution of the problems' rates, with those never solved apart.

Regressing a curve of pass@k treats points that share their samples as independent; the likelihood of the
counts does not (2502.17578).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError, require
from dither.laws.engine import Floats
from dither.laws.law import FARTHEST


@dataclass(frozen=True)
class BetaBinomial:
    """Rates of problems: 0 with chance `zero`, else Beta(a, b); `a`: the exponent of -log pass@k at large k.

    log_likelihood of the counts; `plain`: that of the best beta without zeros, so that twice the difference
    says whether problems that are never solved are needed. trials: the most samples of a problem.
    """

    a: float
    b: float
    zero: float
    log_likelihood: float
    plain: float
    problems: int
    trials: int
    cautions: tuple[str, ...]

    def pass_at(self, k: Any, *, far: bool = False) -> Floats:
        """Expected share of problems that k samples solve. UserError for less than one sample, and for more
        than 100 times the most samples of a problem, unless `far`."""
        special = require("scipy.special", "laws")
        tries = np.asarray(k, dtype=np.float64)
        if not (np.isfinite(tries) & (tries >= 1)).all():
            raise UserError("k counts samples: give 1 or more")
        if (factor := tries.max(initial=0.0) / self.trials) > FARTHEST and not far:
            raise UserError(
                f"this lies {factor:.3g} times beyond the samples of a problem ({self.trials}); take more, "
                "or pass far=True if that is meant"
            )
        missed = np.exp(special.betaln(self.a, self.b + tries) - special.betaln(self.a, self.b))
        return (1 - self.zero) * (1 - missed)


def pass_at_k(successes: Any, trials: Any, k: int) -> float:
    """The unbiased estimate of pass@k from counts (2107.03374): mean of 1 - C(n-c, k) / C(n, k)."""
    c, n = _counts(successes, trials)
    if not 1 <= k <= n.min() or k != int(k):
        raise UserError(
            f"k must be whole and lie between 1 and the fewest trials of a problem ({n.min():g}), not {k}"
        )
    j = np.arange(int(k))
    missed = np.prod(np.maximum(n[:, None] - c[:, None] - j, 0) / (n[:, None] - j), axis=1)
    return float(np.mean(1 - missed))


def beta_binomial(successes: Any, trials: Any, *, zeros: bool = True) -> BetaBinomial:
    """The most likely distribution of success rates. successes, trials: counts, one a problem.

    zeros: allow problems that are never solved. UserError for impossible counts, or fewer than 3 problems.
    """
    special, optimize = require("scipy.special", "laws"), require("scipy.optimize", "laws")
    c, n = _counts(successes, trials)
    if len(c) < 3:
        raise UserError(f"{len(c)} problems say nothing about the spread of rates; give three or more")

    def cost(theta: Floats) -> float:
        a, b = np.exp(theta[:2])
        log = special.betaln(c + a, n - c + b) - special.betaln(a, b)
        if len(theta) == 2:
            return -float(log.sum())
        log_zero, log_rest = -np.logaddexp(0, -theta[2]), -np.logaddexp(0, theta[2])
        return -float(np.where(c == 0, np.logaddexp(log_zero, log_rest + log), log_rest + log).sum())

    def best(starts: list[list[float]]) -> Any:
        box = [(-12.0, 12.0)] * 2 + [(-20.0, 20.0)] * (len(starts[0]) - 2)
        found = [optimize.minimize(cost, np.array(s), method="L-BFGS-B", bounds=box) for s in starts]
        return min(found, key=lambda one: one.fun)

    shapes = [[a, b] for a in (-2.0, 0.0) for b in (0.0, 2.0)]
    plain = best(shapes)
    with_zeros = best([[*s, z] for s in [*shapes, list(plain.x)] for z in (-4.0, 0.0)]) if zeros else None
    chosen = plain if with_zeros is None or with_zeros.fun > plain.fun - 1e-9 else with_zeros
    zero = float(special.expit(chosen.x[2])) if len(chosen.x) == 3 else 0.0
    said = []
    if zeros and chosen is with_zeros and 2 * (plain.fun - chosen.fun) < 2.71:
        said.append("problems that are never solved are not needed: a plain beta is about as likely")
    if np.abs(chosen.x[:2]).max() > 11.9:
        said.append("the shape ran to its bound: the rates hardly differ, or are all 0 or 1")
    if (c == 0).mean() > 0.5:
        said.append("more than half of the problems were never solved: take more samples")
    a, b = (float(v) for v in np.exp(chosen.x[:2]))
    return BetaBinomial(a, b, zero, -float(chosen.fun), -float(plain.fun), len(c), int(n.max()), tuple(said))


def _counts(successes: Any, trials: Any) -> tuple[Floats, Floats]:
    try:
        c = np.asarray(successes, dtype=np.float64)
        n = np.broadcast_to(np.asarray(trials, dtype=np.float64), c.shape)
    except (TypeError, ValueError) as error:
        raise UserError(f"successes and trials must be counts: {error}") from None
    whole = np.isfinite(c).all() and (c == np.floor(c)).all() and (n == np.floor(n)).all()
    if c.ndim != 1 or not len(c) or not whole or not ((c >= 0) & (c <= n) & (n >= 1)).all():
        raise UserError("give whole counts: for each problem 0 <= successes <= trials, trials >= 1")
    return c, n
