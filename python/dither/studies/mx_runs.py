"""1,214 language models trained under MX formats (2506.20752's released exports): outcomes and losses as what
is known of them.

Losses of quantized recipes are rounded to 0.005 in the exports, those of the baseline are not: values are
intervals. A run has one of the outcomes

diverged   it ended SPIKE above its own best loss, or, finished, SPIKE above the baseline at the same size and
           tokens
held       it finished, and did not
unknown    it broke off (crashed, running) without having diverged, or has no loss

and a cell of the baseline's grid that a recipe was not run at is `missing`: recipes that had become unstable
were not continued to the largest budgets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dither import laws
from dither.laws.engine import Floats
from dither.studies import tables

TABLE = "mx-instability/runs.csv"
BASELINE = "bf16_bf16"
STEP = 0.005
SPIKE = 0.05
"""Nats; the reading of the published exports counts runs worse by that much."""
RESOLUTION = 0.01
"""No difference below this is called resolved: values are rounded to STEP, and reruns differ by .005 to
.020."""
DIVERGED, HELD, UNKNOWN = "diverged", "held", "unknown"

WEIGHTS_ONLY = ("fp8_e4m3_bfloat16", "fp6_e2m3_bfloat16", "fp8_e5m2_bfloat16")
FORWARD_ONLY = ("fp8_e4m3_fp8_e4m3_quantize_only_fwd", "fp8_e5m2_fp8_e5m2_quantize_only_fwd")
THREE_BITS = ("fp6_e2m3_fp6_e2m3", "fp6_e3m2_fp6_e2m3", "fp8_e4m3_fp8_e4m3")
"""Mantissa of activations and gradients; everything is quantized."""
TWO_BITS = (
    "fp8_e4m3_fp8_e5m2", "fp6_e2m3_fp6_e3m2", "fp6_e3m2_fp6_e3m2", "fp6_e2m3_fp8_e5m2", "fp8_e5m2_fp8_e5m2",
    "fp8_e5m2_fp8_e5m2_block_size_2",
)  # fmt: skip
SUSPECT = ("fp6_e2m3_fp8_e4m3", "fp8_e5m2_fp8_e4m3")
"""Labelled as three bits, and behave as two: in no group, which was decided with their outcomes known."""
ARMS = (BASELINE, *WEIGHTS_ONLY, *FORWARD_ONLY, *THREE_BITS, *TWO_BITS, *SUSPECT)


def label(arm: str) -> str:
    """weights / activations as in the paper."""
    rest = arm.replace("_quantize_only_fwd", "").replace("_block_size_2", "")
    names = rest.replace("fp8_", "").replace("fp6_", "").replace("bfloat16", "bf16").split("_")
    more = " forward only" if "only_fwd" in arm else " block 2" if "block_size" in arm else ""
    return "/".join(names) + more


@dataclass(frozen=True)
class Runs:
    """A row a run. arm, outcome: text; budget: FLOPs of the grid; gap_low, gap_high: interval of the final
    loss minus the baseline's at the same size and tokens (inf where it diverged, open where it is not known,
    NaN where the baseline was not run there); low, high: of the loss that the law is about: the final one, or
    everything up to the best one where the run did not end as itself.
    """

    arm: np.ndarray
    N: Floats
    D: Floats
    budget: Floats
    outcome: np.ndarray
    low: Floats
    high: Floats
    gap_low: Floats
    gap_high: Floats

    def of(self, kept: np.ndarray) -> Runs:
        return Runs(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))

    def arms(self, *names: str) -> Runs:
        return self.of(np.isin(self.arm, names))

    @property
    def cell(self) -> np.ndarray:
        """Size and tokens as text."""
        return np.array([f"{n:.0f} {d:.0f}" for n, d in zip(self.N, self.D, strict=True)])


def read() -> tuple[Runs, list[tuple[Floats, Floats]]]:
    """The runs, and intervals of the losses of cells that a recipe finished twice."""
    frame = tables.read(TABLE)
    arm, state = frame["arm"], frame["state"]
    n, d, flops, final, best = (
        tables.numbers(frame, name)
        for name in ("params", "tokens", "total_flops", "val_loss", "min_val_loss")
    )
    best = np.where(np.isnan(best), final, best)  # one export lacks most of the minima
    step = np.where(is_rounded(final) & (arm != BASELINE), STEP, 0.0)
    budget = np.array([float(f"{c:.3g}") for c in flops])
    base = arm == BASELINE
    reference = _reference(n, d, n[base], d[base], best[base])
    finished = state == "finished"
    spiked = final > best + SPIKE
    diverged = spiked | (finished & (final > np.where(np.isnan(reference[1]), *reference) + SPIKE))
    held = finished & ~diverged & np.isfinite(final)
    outcome = np.where(diverged, DIVERGED, np.where(held, HELD, UNKNOWN))
    low, high = laws.rounded(final, step)
    top = np.where(np.isnan(best), np.inf, best + step / 2)
    gap = [np.where(held, end - reference[1], edge) for end, edge in ((low, -np.inf), (high, np.inf))]
    gap[0] = np.where(diverged, np.inf, gap[0])
    gap = [np.where(np.isnan(reference[1]), np.nan, ends) for ends in gap]
    runs = Runs(
        arm, n, d, budget, outcome, np.where(held, low, 0.0), np.where(held, high, top), gap[0], gap[1]
    )
    return runs, _twice(runs)


def is_rounded(values: Floats) -> np.ndarray:
    """Whether a value is a multiple of STEP, to the digits of fp32."""
    return np.abs(values / STEP - np.round(values / STEP)) < 1e-4


def _reference(n: Floats, d: Floats, base_n: Floats, base_d: Floats, best: Floats) -> tuple[Floats, Floats]:
    """Of every run: the baseline's law, and the baseline's own best loss there (NaN where it was not run)."""
    at = {(a, b): loss for a, b, loss in zip(base_n, base_d, best, strict=True)}
    own = np.array([at.get(key, np.nan) for key in zip(n, d, strict=True)])
    fit = laws.fit("chinchilla", {"N": base_n, "D": base_d, "loss": best})
    return fit.predict(N=n, D=d), own


def _twice(runs: Runs) -> list[tuple[Floats, Floats]]:
    held = runs.of(runs.outcome == HELD)
    key = np.array([f"{a} {c}" for a, c in zip(held.arm, held.cell, strict=True)])
    names, count = np.unique(key, return_counts=True)
    return [(held.low[key == name], held.high[key == name]) for name in names[count > 1]]


def missing(runs: Runs, arm: str) -> Runs:
    """The baseline's cells at which a recipe was not run."""
    base = runs.arms(BASELINE)
    return base.of(~np.isin(base.cell, runs.arms(arm).cell))
