"""Statistics of the runs of `dither.studies.mx_runs`: gaps, shares, the law of divergence, laws held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dither import laws
from dither.laws.engine import Floats
from dither.laws.holdout import naive
from dither.studies import mx_runs
from dither.studies.measure import Measurement, over_seeds, proportion, resampled
from dither.studies.mx_runs import DIVERGED, HELD, STEP, UNKNOWN, Runs, label

TRUTH = {"A": 1940.0, "B": 2.18e4, "E": 0.531, "alpha": 0.502, "beta": 0.557}
"""Of the simulated tables: about the baseline's law."""


def gap(runs: Runs) -> Measurement:
    """The median of the loss minus the baseline's, over all cells that the baseline has."""
    known = ~np.isnan(runs.gap_low)
    found = laws.interval_median(runs.gap_low[known], runs.gap_high[known])
    half = 0.5 * (found.high - found.low)
    return Measurement(found.value, found.low, found.high, found.n, (1.96 + 0.84) / 1.96 * half)


def share(runs: Runs) -> Measurement:
    """The share that diverged, of runs whose outcome is known."""
    known = runs.outcome != UNKNOWN
    return proportion(float(np.mean(runs.outcome[known] == DIVERGED)), int(known.sum()))


def paired_share(runs: Runs, pairs: Sequence[tuple[str, str]]) -> Measurement:
    """Diverged under the first recipe minus under the second, over cells where both are known; the pairs of a
    cell count once."""
    differences: dict[str, list[float]] = {}
    for pair in pairs:
        one, two = (outcomes(runs.arms(arm)) for arm in pair)
        for cell in one.keys() & two.keys():
            differences.setdefault(cell, []).append(one[cell] - two[cell])
    return over_seeds([float(np.mean(differences[cell])) for cell in sorted(differences)])


def outcomes(runs: Runs) -> dict[str, float]:
    """cell -> 1 where it diverged, 0 where it held; where it was run twice, the mean."""
    known = runs.of(runs.outcome != UNKNOWN)
    return {
        str(cell): float(np.mean(known.outcome[known.cell == cell] == DIVERGED))
        for cell in np.unique(known.cell)
    }


def features(runs: Runs, arms: Sequence[str]) -> dict[str, Floats]:
    """ln C and ln D/N about 4.57e18 FLOPs and 20 tokens a parameter, and a level for every recipe."""
    found = {label(arm): (runs.arm == arm).astype(float) for arm in arms}
    return found | {"ln C": np.log(6 * runs.N * runs.D / 4.57e18), "ln D/N": np.log(runs.D / runs.N / 20)}


def with_unknown(
    runs: Runs, arms: Sequence[str], unknown: int | None, absent: int | None
) -> tuple[Runs, Floats]:
    """The runs of these recipes and whether each diverged; unknown outcomes and cells that were not run taken
    for 0 or 1, or left out (None)."""
    own = runs.arms(*arms)
    kept = (own.outcome != UNKNOWN) | (unknown is not None)
    parts = [own.of(kept)]
    outcome = [np.where(parts[0].outcome == UNKNOWN, unknown or 0, parts[0].outcome == DIVERGED)]
    for arm in arms if absent is not None else ():
        cells = mx_runs.missing(runs, arm)
        parts.append(Runs(**{**vars(cells), "arm": np.full(len(cells.arm), arm)}))
        outcome.append(np.full(len(cells.arm), absent))
    whole = Runs(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])))
    return whole, np.concatenate(outcome).astype(float)


def slopes(
    runs: Runs, arms: Sequence[str], replicates: int, unknown: int | None = None, absent: int | None = None
) -> tuple[laws.Logistic, dict[str, Measurement]]:
    """The logistic law of divergence and its slopes, with intervals from resampled cells (all recipes of a
    cell together: they share data and initial weights)."""
    taken, outcome = with_unknown(runs, arms, unknown, absent)
    columns = features(taken, arms)
    whole = laws.logistic(outcome, columns)
    cells = taken.cell
    names, owner = np.unique(cells, return_inverse=True)
    draw, found = np.random.default_rng(0), []
    rows = [np.flatnonzero(owner == i) for i in range(len(names))]
    for _ in range(replicates):
        at = np.concatenate([rows[i] for i in draw.integers(0, len(names), len(names))])
        again = laws.logistic(outcome[at], {k: v[at] for k, v in columns.items() if v[at].any()})
        found.append((again.coefficients["ln C"], again.coefficients["ln D/N"]))
    estimates = {
        name: resampled(whole.coefficients[name], np.array(found)[:, i], len(names))
        for i, name in enumerate(("ln C", "ln D/N"))
    }
    return whole, estimates


def law_of(runs: Runs, noise: float) -> laws.IntervalFit:
    """The recipe's law from all its runs: what diverged or broke off bounds it from above."""
    data = {"N": runs.N, "D": runs.D, "low": runs.low, "high": runs.high}
    return laws.fit_intervals("chinchilla", data, noise=noise)


def held_out(runs: Runs, noise: float) -> tuple[Measurement, list[str]]:
    """Relative errors on the largest budget with three runs that held, from a law of the smaller ones; and a
    row of the table."""
    held = runs.outcome == HELD
    budget = max(b for b in np.unique(runs.budget) if np.sum(held & (runs.budget == b)) >= 3)
    seen, test = runs.of(runs.budget < budget), runs.of(held & (runs.budget == budget))
    fit = law_of(seen, noise)
    truth, predicted = 0.5 * (test.low + test.high), fit.predict(N=test.N, D=test.D)
    known = seen.of(seen.outcome == HELD)
    ways = naive(known.N * known.D, 0.5 * (known.low + known.high), test.N * test.D)
    off = [float(np.mean(np.abs(p - truth))) for p in (predicted, *ways)]
    there = runs.of(runs.budget == budget)
    row = [
        label(str(runs.arm[0])), f"{budget:.3g}", str(len(truth)),
        str(int(np.sum(there.outcome == DIVERGED))),
        f"{off[0]:.4f}", f"{np.mean(np.abs(predicted / truth - 1)):.2%}",
        f"{np.mean(np.abs(predicted - truth) / (truth - fit.params['E'])):.1%}",
        f"{np.mean(predicted - truth):+.4f}", f"{off[1]:.4f}", f"{off[2]:.4f}",
    ]  # fmt: skip
    return over_seeds(np.abs(predicted / truth - 1).tolist()), row


def recovered(seed: int) -> float:
    """The distance of the exponent a from the truth on a simulated table with the caveats of the real one."""
    draw = np.random.default_rng(seed)
    n = np.repeat(np.geomspace(2e7, 1.2e9, 10), 8)
    d = np.tile(np.geomspace(4e8, 2e10, 8), 10)
    made = laws.get("chinchilla").simulate(TRUTH, N=n, D=d, noise=0.006, seed=seed)["loss"]
    low, high = laws.rounded(np.round(made / STEP) * STEP, STEP)
    broken = draw.random(len(n)) < 0.15
    fit = laws.fit_intervals(
        "chinchilla",
        {"N": n, "D": d, "low": np.where(broken, 0, low), "high": np.where(broken, 1.1 * made, high)},
        noise=0.004,
    )
    return abs(exponent(fit.params) - exponent(TRUTH))


def exponent(params: Mapping[str, float]) -> float:
    return params["beta"] / (params["alpha"] + params["beta"])
