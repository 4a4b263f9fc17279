"""Models to train: one file each, readable on its own."""

from dither.models.gpt import GPT, GPTConfig

__all__ = ["GPT", "GPTConfig"]
