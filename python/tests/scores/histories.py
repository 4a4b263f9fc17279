"""Histories of examples that the tests of trackers share."""

import numpy as np

from dither.scores import Tracker
from dither.scores.catalogue import DYNAMICS

ALL = tuple(score.name for score in DYNAMICS)


N, T, CLASSES = 203, 23, 5


def history(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (T, N, CLASSES) of examples that are learned, forgotten or never right, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, N)
    pull = rng.normal(0.2, 1.0, N)[None, :] * np.linspace(0, 2, T)[:, None]
    z = rng.standard_normal((T, N, CLASSES))
    z[:, np.arange(N), y] += pull
    return z.astype(np.float32), y


def track(z: np.ndarray, y: np.ndarray, scores=ALL, seed: int = 1, batch: int = 17) -> Tracker:
    tracker, rng = Tracker(N, scores), np.random.default_rng(seed)
    for t in range(len(z)):
        order = rng.permutation(N)
        for start in range(0, N, batch):
            index = order[start : start + batch]
            tracker.update(index, z[t, index], y[index], step=t)
    return tracker


def visit(tracker: Tracker, index, step, **more) -> None:
    half = np.full(len(index), 0.5)
    tracker.visit(index, confidence=half, correct=half, margin=half, step=step, **more)
