"""Learning-rate schedules: functions of the step alone, so that a resumed run needs no scheduler's state.

    schedule = Schedule("wsd_sqrt", steps=1000, warmup=50)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)

cosine     half a cosine from lr to final * lr at the last step (arXiv:1608.03983, without restarts)
wsd        lr, then linear to final * lr over the last `decay` of the steps (warm-up, stable, decay;
           arXiv:2404.06395, whose decay is exponential; linear as in arXiv:2405.18392)
wsd_sqrt   as wsd, the decay being 1 - sqrt(part of it that is over) (arXiv:2405.18392, section 3: "1-sqrt")
constant   lr; to be used with an average of the weights (dither.optim.averaging), which replaces a decay

All begin with a linear warm-up whose first step has lr / warmup and whose last has lr.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dither.errors import UserError, suggest

SCHEDULES = ("cosine", "wsd", "wsd_sqrt", "constant")


def learning_rate(
    kind: str, step: int, *, lr: float, steps: int, warmup: int, final: float, decay: float
) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`; the last one's for those after it."""
    if step < warmup:
        return lr * (step + 1) / warmup
    if kind == "constant":
        return lr
    low, last = final * lr, max(1, steps - 1)
    if kind == "cosine":
        part = (step - warmup) / max(1, last - warmup)
        return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
    start = max(warmup, last - decay * steps)
    part = min(1.0, max(0.0, (step - start) / (last - start))) if last > start else 0.0
    return lr + (low - lr) * (math.sqrt(part) if kind == "wsd_sqrt" else part)


@dataclass(frozen=True)
class Schedule:
    """Factor of the learning rate for a step from 0, as torch's LambdaLR takes it.

    `steps` of the whole run, `warmup` of its beginning; `final` is the last factor, `decay` the fraction of
    all steps in which wsd and wsd_sqrt decay. UserError for an unknown kind, and for a run that is over
    before its warm-up.
    """

    kind: str
    steps: int
    warmup: int = 0
    final: float = 0.0
    decay: float = 0.2

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            near = suggest(self.kind, SCHEDULES)
            raise UserError(f"unknown schedule {self.kind!r}{near}; known: {', '.join(SCHEDULES)}")
        if self.steps < 1 or self.warmup < 0:
            raise UserError(
                f"a schedule needs steps >= 1 and warmup >= 0, not {self.steps} and {self.warmup}"
            )
        if self.warmup > self.steps:
            raise UserError(
                f"a warm-up of {self.warmup} steps outlasts the run of {self.steps}; shorten it, or "
                "train longer"
            )
        if not (0 <= self.final <= 1 and 0 <= self.decay <= 1):
            raise UserError(f"final = {self.final} and decay = {self.decay} are fractions between 0 and 1")

    def __call__(self, step: int) -> float:
        return learning_rate(
            self.kind, step, lr=1.0, steps=self.steps, warmup=self.warmup, final=self.final, decay=self.decay
        )
