"""The learning rate as a function of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from dither.train.config import TrainConfig


def learning_rate(train: TrainConfig, step: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then

    cosine    half a cosine from lr to final_lr * lr at the last step
    wsd       lr, then linear to final_lr * lr over the last `decay` of the steps (warm-up, stable, decay)
    constant  lr
    """
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    low, last = train.final_lr * train.lr, max(1, train.steps - 1)
    if train.schedule == "constant":
        return train.lr
    if train.schedule == "cosine":
        part = (step - train.warmup) / max(1, last - train.warmup)
        return low + (train.lr - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))
    start = max(train.warmup, last - train.decay * train.steps)
    part = (step - start) / (last - start) if last > start else 0.0
    return train.lr + (low - train.lr) * min(1.0, max(0.0, part))
