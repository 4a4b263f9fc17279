"""Models to train: one file each, readable on its own."""

import dither.nn  # noqa: F401 - says what to install where torch is missing
from dither.models.gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig"]
