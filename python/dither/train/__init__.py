"""Train language models at low precision: one run (`train`) or the arms of a comparison (`compare`)."""

from dither.train.compare import Comparison, compare
from dither.train.config import RunConfig, load
from dither.train.loop import DivergedError, train
from dither.train.progress import Progress
from dither.train.records import read

__all__ = ["Comparison", "DivergedError", "Progress", "RunConfig", "compare", "load", "read", "train"]
