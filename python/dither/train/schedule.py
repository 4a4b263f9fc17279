"""The learning rate as a function of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

from dither.optim import schedules
from dither.train.config import TrainConfig


def learning_rate(train: TrainConfig, step: int) -> float:
    """The rate of optimizer step `step` (from 0), as dither.optim.schedules says; a warm-up that outlasts the
    run stays below train.lr."""
    return schedules.learning_rate(
        train.schedule, step, lr=train.lr, steps=train.steps, warmup=train.warmup,
        final=train.final_lr, decay=train.decay,
    )  # fmt: skip
