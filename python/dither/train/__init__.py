"""Train language models at low precision: one run (`train`), the arms of a comparison (`compare`), or
the runs of a grid (`sweep`)."""

import dither.nn  # noqa: F401 - says what to install where torch is missing
from dither.train.compare import Comparison, compare
from dither.train.config import RunConfig, load
from dither.train.grid import load_grid
from dither.train.loop import DivergedError, train
from dither.train.progress import Progress
from dither.train.records import read
from dither.train.sweep import sweep

__all__ = [
    "Comparison",
    "DivergedError",
    "Progress",
    "RunConfig",
    "compare",
    "load",
    "load_grid",
    "read",
    "sweep",
    "train",
]
