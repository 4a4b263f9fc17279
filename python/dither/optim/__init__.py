"""Optimizers whose weights or state are low precision.

optimizer = dither.optim.AdamW(model.parameters(), lr=3e-4)                    # bf16 weights: stochastic
optimizer = dither.optim.AdamW(model.parameters(), lr=3e-4, state="fp8")       # 2.03 bytes of state
"""

from dither.errors import require

require("torch", "torch")

from dither.optim.adamw import AdamW  # noqa: E402

__all__ = ["AdamW"]
