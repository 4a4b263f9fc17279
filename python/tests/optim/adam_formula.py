"""AdamW from its paper (arXiv:1711.05101, algorithm 2), in fp64 numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def adamw(
    w: np.ndarray, grads: Sequence[np.ndarray], options: Mapping[str, Any], maximize: bool = False
) -> np.ndarray:
    """The weights after a step with each of the gradients."""
    w = w.astype(np.float64)
    m, v = np.zeros_like(w), np.zeros_like(w)
    beta1, beta2 = options["betas"]
    for t, g in enumerate(grads, start=1):
        g = g.astype(np.float64) * (-1 if maximize else 1)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        direction = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + options["eps"])
        w = w - options["lr"] * (direction + options["weight_decay"] * w)
    return w
