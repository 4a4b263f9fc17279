"""Post-training quantization: train as if there were no quantizer, round to nearest at the end.

Nothing happens in training; the cast is `cast_weights`. The baseline that every other method must beat.
"""

from __future__ import annotations

from dither.methods.base import Method


class Ptq(Method):
    """Train in full precision; the weights meet the quantizer only when they are cast."""

    name = "ptq"
