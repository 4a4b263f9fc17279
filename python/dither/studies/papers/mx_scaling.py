"""What 1,214 trainings under MX formats say of stability and scaling: 2506.20752 and its released exports.

The losses of quantized recipes are rounded to 0.005, grids of unstable recipes end early, there is one seed
and one learning rate for all sizes. So losses enter as intervals, and no difference below 0.01 is called
resolved (`dither.studies.mx_runs`). Medians of gaps keep every cell that the baseline has: a diverged run is
infinitely worse, an unknown outcome may be anything. Shares of runs that diverged are those of known
outcomes; how far unknown ones and cells that were not run could move them is a table of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dither import laws
from dither.laws.intervals import Estimate
from dither.report.study import bands, intervals
from dither.studies import mx_runs, tables
from dither.studies.measure import Measurement, over_seeds
from dither.studies.mx_runs import (
    ARMS,
    BASELINE,
    DIVERGED,
    FORWARD_ONLY,
    HELD,
    RESOLUTION,
    TABLE,
    THREE_BITS,
    TWO_BITS,
    UNKNOWN,
    WEIGHTS_ONLY,
    Runs,
    label,
)
from dither.studies.mx_statistics import (
    exponent,
    gap,
    held_out,
    law_of,
    paired_share,
    recovered,
    share,
    slopes,
)
from dither.studies.study import Claim, Context, Outcome, Study, Table, without_tables

LARGE = 4.5e18
"""FLOPs from which recipes part."""
GROUPS = {
    "bf16": (BASELINE,),
    "weights only": WEIGHTS_ONLY,
    "forward only": FORWARD_ONLY,
    "all, 3 bits of mantissa": THREE_BITS,
    "all, 2 bits of mantissa": TWO_BITS,
}
MANTISSA = (("fp6_e2m3_fp6_e3m2", "fp6_e2m3_fp6_e2m3"), ("fp6_e3m2_fp6_e3m2", "fp6_e3m2_fp6_e2m3"))
"""Pairs that differ in the mantissa of activations and gradients alone (both formats have six bits)."""


def measure(context: Context) -> Outcome:
    simulated = over_seeds([recovered(seed) for seed in context.seeds])
    if why := tables.missing(TABLE):
        return without_tables(STUDY, why, {"recovered": simulated}, "simulated runs only")
    runs, twice = mx_runs.read()
    noise = laws.rerun_noise([(np.log(a), np.log(b)) for a, b in twice])
    large = runs.of(runs.budget >= LARGE)
    everything = (*THREE_BITS, *TWO_BITS)
    replicates = context.choose(100, 16)
    logistic, slope = slopes(runs, everything, replicates)
    tested = context.choose((*WEIGHTS_ONLY, *FORWARD_ONLY, *THREE_BITS, *TWO_BITS), ("fp8_e4m3_bfloat16",))
    errors = {arm: held_out(runs.arms(arm), noise.value) for arm in (BASELINE, *tested)}
    steady = paired_share(runs, [(arm, BASELINE) for arm in (*WEIGHTS_ONLY, *FORWARD_ONLY)])
    found = {
        "hybrid": gap(runs.arms("fp8_e4m3_bfloat16")),
        "forward": gap(runs.arms("fp8_e4m3_fp8_e4m3_quantize_only_fwd")),
        "forward-coarse": gap(runs.arms("fp8_e5m2_fp8_e5m2_quantize_only_fwd")),
        "steady": steady,
        "compute": slope["ln C"],
        "full": share(large.arms("fp8_e4m3_fp8_e4m3")),
        "law": errors["fp8_e4m3_bfloat16"][0],
        "mantissa": paired_share(runs, MANTISSA),
        "block": share(large.arms("fp8_e5m2_fp8_e5m2_block_size_2")),
        "clamp": paired_share(runs, [("fp8_e4m3_fp8_e4m3", "fp6_e2m3_fp6_e2m3")]),
        "baseline": share(runs.arms(BASELINE)),
        "recovered": simulated,
    }
    pages = [
        outcome_table(runs),
        gap_table(runs),
        slope_table(runs, everything, slope, context.choose(50, 6)),
        chance_table(logistic, everything),
        Table(
            "The largest budget with three runs that held, predicted from the smaller ones (errors below "
            f"{RESOLUTION} are not resolved from 0)",
            ("weights / activations", "budget", "held", "diverged there", "error (nats)", "of L", "of L - E",
             "bias", "last loss", "power law of C"),
            [row for _, row in errors.values()],
        ),
        law_table(runs, noise, (BASELINE, *context.choose(tested[:5], ()))),
    ]  # fmt: skip
    return Outcome(
        found, f"{len(runs.arm):,} runs of {len(ARMS)} recipes, {len(twice)} cells finished twice",
        pages, pictures(runs),
    )  # fmt: skip


def outcome_table(runs: Runs) -> Table:
    budgets = np.unique(runs.budget)
    rows = []
    for arm in ARMS:
        own, absent = runs.arms(arm), mx_runs.missing(runs, arm)
        cells = []
        for budget in budgets:
            at = own.outcome[own.budget == budget]
            count = [int(np.sum(at == word)) for word in (DIVERGED, HELD, UNKNOWN)]
            cells.append(" ".join(map(str, (*count, int(np.sum(absent.budget == budget))))))
        rows.append((label(arm), *cells))
    return Table(
        "Outcomes by budget (FLOPs): diverged, held, unknown, cells of the baseline that were not run (it "
        "ends at 2.2e19)",
        ("weights / activations", *(f"{b:.3g}" for b in budgets)),
        rows,
    )


def gap_table(runs: Runs) -> Table:
    rows = []
    for arm in ARMS[1:]:
        found = gap(runs.arms(arm))
        if found.low > RESOLUTION:
            verdict = "worse"
        elif found.high < RESOLUTION:
            verdict = "no difference of 0.01"
        else:
            verdict = "not resolved"
        rows.append((label(arm), str(found.n), f"{found.low:+.4f} to {found.high:+.4f}", verdict))
    return Table(
        "Loss minus the baseline's at equal size and tokens: 95 % interval of the median over all cells, "
        "runs that diverged counted as infinite, unknown ones as anything",
        ("weights / activations", "cells", "nats", "at a resolution of 0.01"),
        rows,
    )


def slope_table(runs: Runs, arms: Sequence[str], seen: Mapping[str, Measurement], replicates: int) -> Table:
    ways = {
        "unknown taken for diverged": (1, None),
        "unknown and cells that were not run taken for diverged": (1, 1),
        "unknown and cells that were not run taken for held": (0, 0),
    }
    found = {"known outcomes": seen}
    found |= {name: slopes(runs, arms, replicates, *way)[1] for name, way in ways.items()}
    rows = [(name, *(str(by[key]) for key in ("ln C", "ln D/N"))) for name, by in found.items()]
    return Table(
        "Divergence of recipes that quantize everything: slopes of ln odds (with C = 6 N D, ln N's at "
        "constant D/N is twice ln C's); intervals from resampled cells",
        ("", "ln C", "ln D/N at constant C"),
        rows,
    )


def chance_table(logistic: laws.Logistic, arms: Sequence[str]) -> Table:
    rows = []
    for arm in arms:
        level = {label(other): float(other == arm) for other in arms}
        chances = [
            float(logistic.chance(**level, **{"ln C": np.log(c / 4.57e18), "ln D/N": 0.0}))
            for c in (1e18, 4.57e18, 2.2e19, 1e20)
        ]
        rows.append((label(arm), *(f"{p:.0%}" for p in chances)))
    return Table(
        "Chance of divergence at 20 tokens a parameter, by the logistic law of known outcomes (1e20 lies "
        "beyond the runs)",
        ("weights / activations", "1e18", "4.57e18", "2.2e19", "1e20"),
        rows,
    )


def law_table(runs: Runs, noise: Estimate, arms: Sequence[str]) -> Table:
    rows = []
    for arm in arms:
        fit = law_of(runs.arms(arm), noise.value)
        spans = ["{:.3g} to {:.3g}".format(*fit.interval(name)) for name in ("E", "alpha", "beta")]
        c = fit.counts
        rows.append(
            (label(arm), f"{c['exact']} + {c['rounded']} + {c['bounded']}", *spans,
             f"{exponent(fit.params):.3f}", f"{fit.sd:.4f}", "yes" if fit.certified else "no")
        )  # fmt: skip
    return Table(
        "L = E + A N^-alpha + B D^-beta by interval likelihood, 95 % profile intervals. Noise of ln L "
        f"between reruns, {noise.n} pairs: {noise.value:.4f} ({noise.low:.4f} to {noise.high:.4f})",
        ("weights / activations", "exact + rounded + bounded", "E", "alpha", "beta", "a", "sd of ln L",
         "certified"),
        rows,
    )  # fmt: skip


def shown(value: float) -> float:
    """A gap as the picture has it: what is not bounded ends at its edge."""
    return float(np.clip(value, -0.1, 0.1))


def pictures(runs: Runs) -> dict:
    lines: dict[str, dict[float, Measurement]] = {}
    for name, arms in GROUPS.items():
        own = runs.arms(*arms)
        for budget in np.unique(own.budget):
            at = own.of((own.budget == budget) & (own.outcome != UNKNOWN))
            if len(at.arm) >= 3:
                lines.setdefault(name, {})[float(budget)] = share(at)
    shares = bands(lines, "training FLOPs, 6 N D", "share of runs that diverged")
    shares.axes[0].set_xscale("log")
    gaps = {label(arm): gap(runs.arms(arm)) for arm in ARMS[1:]}
    finite = {
        name: Measurement(shown(m.estimate), shown(m.low), shown(m.high), m.n, m.detectable)
        for name, m in gaps.items()
    }
    return {
        "Share of runs that diverged, of those whose outcome is known, with Wilson's 95 % intervals": shares,
        "Median of the loss minus the baseline's at equal size and tokens, 95 % intervals; what reaches 0.1 "
        "or -0.1 is not bounded. Dashed: the resolution": intervals(finite, "nats", RESOLUTION),
    }


PAPER = "2506.20752"
STUDY = Study(
    name="mx-scaling",
    title="Stability and scaling under MX formats, from 1,214 released runs",
    question="Which recipes hold, what do they cost, and do their laws predict?",
    protocol=(
        "The released exports: OLMo-style models of 19.5M to 1.74B parameters, 2e17 to 4.84e19 FLOPs, one "
        "seed, one learning rate (2e-4) for all sizes; the baseline is bf16 under automatic mixed precision.",
        "Losses that are multiples of 0.005 count as intervals of that width, those of the baseline and of 8 "
        "runs of e4m3/bf16 as they are. A run diverged where it ended 0.05 above its own best loss, or, "
        "finished, 0.05 above the baseline's best at the same size and tokens (the baseline's law where that "
        "was not run); unknown: it broke off before.",
        "Gap: median over cells, order statistics; diverged runs are infinite, unknown ones anything. "
        "Shares: Wilson; paired shares over cells: Student; slopes: Firth's logistic regression, cells "
        "resampled.",
        "Laws: interval likelihood; runs that diverged or broke off bound the loss from above by their best; "
        "the noise between reruns from cells that were finished twice is the least sd. Largest budget held "
        "out.",
        "e2m3/e4m3 and e5m2/e4m3 behave as two bits of mantissa, against their label: shown, in no group. "
        "Their outcomes had been seen when that was decided.",
        "Simulated, one seed a table: 80 runs about the baseline's law, 0.6 % noise, rounded to 0.005, 15 % "
        "broken off.",
    ),
    claims=(
        Claim("hybrid", "Some hybrid settings match full precision: e4m3 weights, bf16 activations", PAPER,
              "abstract", "median loss minus the baseline's", "below", RESOLUTION),
        Claim("forward", "Quantizing the forward pass only (e4m3) matches it too", PAPER, "unverified",
              "median loss minus the baseline's", "below", RESOLUTION),
        Claim("forward-coarse", "The same with e5m2", "our own", "own question",
              "median loss minus the baseline's", "below", RESOLUTION),
        Claim("steady", "Weights-only and forward-only recipes hold where the baseline does", PAPER,
              "unverified", "share diverged minus the baseline's, same cells", "below", 0.05),
        Claim("compute", "Instabilities come especially at larger compute", PAPER, "abstract",
              "slope of the ln odds of divergence over ln C, recipes that quantize everything"),
        Claim("full", "MXFP8 e4m3 for everything is unstable at large compute", PAPER, "abstract",
              "share diverged from 4.57e18 FLOPs", "above", 0.1),
        Claim("law", "The hybrids recover scaling laws", PAPER, "unverified",
              "e4m3/bf16: mean relative error on the largest budget, held out", "below", 0.01),
        Claim("mantissa", "Two bits of mantissa in activations and gradients diverge more than three",
              "our own", "own question", "share of e3m2 minus e2m3 activations, same weights and cells"),
        Claim("block", "Blocks of 2 in place of 32 do not rescue e5m2", "our own", "own question",
              "share diverged from 4.57e18 FLOPs", "above", 0.5),
        Claim("clamp", "e4m3 diverges more than e2m3, which has the same mantissa and keeps its top code",
              "our own", "own question", "share of e4m3/e4m3 minus e2m3/e2m3, same cells"),
        Claim("baseline", "The baseline itself is stable", "our own", "own question", "share diverged",
              "below", 0.05),
        Claim("recovered", "A law is recovered from tables with these caveats", "our own", "own question",
              "mean distance of the exponent a from the truth", "below", 0.05),
        Claim("affine", "Quantizing the affine weights of layer norms causes it", PAPER, "abstract", "-",
              untestable="no run of the table has them in MX: the released code rounds them to bf16"),
        Claim("switch", "Changing precision during training averts or delays divergence", PAPER,
              "abstract", "-", untestable="no results of these runs were released"),
        Claim("seeds", "The instabilities are stochastic", PAPER, "abstract", "-",
              untestable="one seed a cell: chance cannot be told from size, tokens and format"),
    ),
    seeds=(20, 5),
    measure=measure,
)  # fmt: skip
