"""Optimizers whose weights or state are low precision, schedules and averages of weights.

optimizer = dither.optim.AdamW(model.parameters(), lr=3e-4)                    # bf16 weights: stochastic
optimizer = dither.optim.AdamW(model.parameters(), lr=3e-4, state="fp8")       # 2.03 bytes of state
optimizer = dither.optim.Muon(dither.optim.muon_groups(model), lr=1e-3)        # matrices; AdamW for the rest
"""

from dither.errors import require

require("torch", "torch")

from dither.optim.adamw import AdamW  # noqa: E402
from dither.optim.averaging import WeightAverage  # noqa: E402
from dither.optim.groups import named_groups  # noqa: E402
from dither.optim.muon import Muon, muon_groups, newton_schulz  # noqa: E402
from dither.optim.orthograd import orthograd_  # noqa: E402
from dither.optim.schedules import Schedule  # noqa: E402

__all__ = [
    "AdamW",
    "Muon",
    "Schedule",
    "WeightAverage",
    "muon_groups",
    "named_groups",
    "newton_schulz",
    "orthograd_",
]
