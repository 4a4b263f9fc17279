"""What a fresh result costs beyond `out=`: page faults, on 64 MiB of fp32, MXFP8, one thread.

Run:  make bench-numbers

CPU time, because page faults are paid in the kernel. `torch.empty` without the request for huge pages stands
beside ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dither
import goals
from measure import Call, X, interleaved
from table import Row, record

Q = dither.Quantizer("mxfp8_e4m3")
pytestmark = pytest.mark.usefixtures("one_thread")


def ways(library: str) -> dict[str, Call]:
    """The call with `out=`, with a fresh result, and others."""
    if library == "numpy":
        out = np.ones_like(X)
        return {"out=": lambda: dither.fake_quant(X, Q, out=out), "fresh": lambda: dither.fake_quant(X, Q)}
    x = torch.from_numpy(X)
    out_t = torch.ones_like(x)
    return {
        "out=": lambda: dither.fake_quant(x, Q, out=out_t),
        "fresh": lambda: dither.fake_quant(x, Q),
        "out=torch.empty(...)": lambda: dither.fake_quant(x, Q, out=torch.empty_like(x)),
    }


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_fresh_result_costs_little_more_than_out(library):
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("the kernel offers no huge pages")
    times = interleaved(ways(library), rounds=60)
    base = times.pop("out=")
    for name, t in reversed(times.items()):
        goal = goals.FRESH if name == "fresh" else None
        extra = 1e3 * (t.least - base.least), 1e3 * (t.median - base.median)
        record(Row("fresh results", "ms more than with out=", f"{library}: {name}", t, base, *extra, goal))
