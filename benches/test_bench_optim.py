"""A step of AdamW with few bits against torch's fused AdamW and against moving the same bytes.

One thread, CPU time, one process. `memcpy` moves as many bytes as the step reads and writes, half of them in
and half out. It is no bound: a step updates most of its memory in place, and memcpy must first fetch what it
overwrites.

    make bench-optim
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dither import optim
from goals import Goal
from measure import interleaved, memcpy, ratio

pytestmark = pytest.mark.usefixtures("one_thread")
N = 1 << 23
"""Parameters in one tensor; the arrays of a step are many times the last-level cache."""
ROUNDS = 12

SR = Goal(1.0, 1.0)  # stochastic rounding must not be slower than torch's fused step of fp32 weights
SR_BOTH = Goal(1.0, 0.75)  # nor where v is rounded so too, with random bits of its own
WIDE = Goal(1.0, 0.85)
MEMORY = Goal(1.0, 0.6)  # of memcpy's speed, for what is not packed
PACKED = Goal(0.4, 0.3)  # of torch's speed: codes are unpacked and rounded with random bits, on every step

DENSE = [("stochastic", "fp32"), ("stochastic", "bf16"), ("kahan", "fp32"), ("kahan", "bf16")]
BYTES = {"fp32": 4, "bf16": 2}


def stepper(
    make: Callable[..., torch.optim.Optimizer], dtype: torch.dtype, **options
) -> Callable[[], object]:
    """A step of one parameter, its state allocated."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(N, generator=generator).to(dtype))
    p.grad = torch.randn(N, generator=generator).to(dtype)
    optimizer = make([p], lr=1e-4, **options)
    optimizer.step()
    return optimizer.step


def torch_fused(dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    return stepper(torch.optim.AdamW, dtype, fused=True)


def copy_of(moved: float) -> Callable[[], object]:
    """memcpy that reads and writes `moved` bytes a parameter together."""
    return memcpy(np.zeros(int(N * moved / 8), dtype=np.float32))


@pytest.mark.parametrize(("rounding", "state"), DENSE)
def test_dense(rounding, state):
    """The fused step of fp32 weights is what bf16 weights replace; that of bf16 weights rounds to nearest."""
    moved = 2 * 3 + 2 * 2 * BYTES[state] + (4 if rounding == "kahan" else 0)
    calls = {
        "ours": stepper(optim.AdamW, torch.bfloat16, rounding=rounding, state=state),
        "torch fp32": torch_fused(),
        "torch bf16": torch_fused(torch.bfloat16),
        "memcpy": copy_of(moved),
    }
    times = interleaved(calls, ROUNDS)
    job, ours = f"{rounding}, state {state}", times["ours"]
    goal = {"fp32": SR, "bf16": SR_BOTH}[state] if rounding == "stochastic" else None
    group = "AdamW, bf16 weights"
    ratio(group, "torch's fused step of bf16 weights / job", job, ours, times["torch bf16"])
    ratio(group, "memcpy of the step's bytes / job", job, ours, times["memcpy"], MEMORY)
    ratio(group, "torch's fused step of fp32 weights / job", job, ours, times["torch fp32"], goal)


def test_fp32():
    calls = {"ours": stepper(optim.AdamW, torch.float32), "torch": torch_fused(), "memcpy": copy_of(28)}
    times = interleaved(calls, ROUNDS)
    of = "torch's fused step / job"
    ratio("AdamW, fp32 weights", of, "state fp32", times["ours"], times["torch"], WIDE)
    ratio(
        "AdamW, fp32 weights",
        "memcpy of the step's bytes / job",
        "state fp32",
        times["ours"],
        times["memcpy"],
    )


@pytest.mark.parametrize("state", ["int8", "fp8", "fp4"])
def test_packed(state):
    moments = (
        3 if state == "fp4" else 4
    )  # half a byte or one for the first, one for the second; read and written
    calls = {
        "ours": stepper(optim.AdamW, torch.bfloat16, state=state),
        "torch": torch_fused(),
        "memcpy": copy_of(6 + moments),
    }
    times = interleaved(calls, ROUNDS)
    group, job, ours = "AdamW, packed state", f"bf16 weights, state {state}", times["ours"]
    ratio(group, "torch's fused step of fp32 weights / job", job, ours, times["torch"], PACKED)
    ratio(group, "memcpy of the step's bytes / job", job, ours, times["memcpy"])
