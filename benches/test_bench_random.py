"""Stochastic rounding of a 4096 x 4096 fp32 array on one thread, against libc's memcpy of the same array.

Run:  make bench-numbers

Philox4x32-10, addressed bits, `out=` preallocated. The peers draw other bits of the same distribution: each
is first checked to return one of the two neighbours of every element.
"""

from __future__ import annotations

import numpy as np
import pytest

import dither
import goals
import peers
from measure import X, against_memcpy, into

Q = dither.Quantizer
GROUP = "stochastic rounding"
pytestmark = pytest.mark.usefixtures("one_thread")


def stochastic(spec: str, bits: int) -> dither.Quantizer:
    return Q(spec, rounding="stochastic", bits=bits)


JOBS = {
    "bf16, 16 bits": (stochastic("bf16", 16), goals.STOCHASTIC_BF16_16),
    "cast to e4m3, 8 bits": (Q(format="e4m3", rounding="stochastic", bits=8), goals.STOCHASTIC_FP8_8),
    "mxfp4, 8 bits": (stochastic("mxfp4", 8), goals.STOCHASTIC_MXFP4_8),
    "cast to e4m3, 32 bits": (Q(format="e4m3", rounding="stochastic", bits=32), goals.STOCHASTIC_32),
}
OTHERS = {
    "nvfp4, 8 bits": stochastic("nvfp4", 8),
    "int4_g128, 8 bits": stochastic("int4_g128", 8),
    "mxfp8_e4m3, 8 bits": stochastic("mxfp8_e4m3", 8),
    "mxfp4, 32 bits": stochastic("mxfp4", 32),
    "mxfp4, 5 bits": stochastic("mxfp4", 5),
}


@pytest.mark.parametrize("job", JOBS)
def test_stochastic(job, level):
    q, goal = JOBS[job]
    against_memcpy(GROUP, job + level, into(q, seed=7), goal)


@pytest.mark.parametrize("job", OTHERS)
def test_other_formats_and_widths(job):
    against_memcpy(GROUP, job, into(OTHERS[job], seed=7))


def test_first_axis_and_offsets():
    q = stochastic("mxfp4", 8)
    against_memcpy(GROUP, "mxfp4, 8 bits, axis 0", into(q, axis=0, seed=7))
    against_memcpy(GROUP, "mxfp4, 8 bits, offset within a tile", into(q, seed=7, offset=5))


def test_peers():
    down, up = dither.neighbours(X, "bf16")
    for name, make in peers.STOCHASTIC_BF16.items():
        way = make(X)
        y = np.asarray(way())
        assert ((y == down) | (y == up)).all(), f"{name} does different work"
        assert 0.4 < (y == up)[down < up].mean() < 0.6, name
        against_memcpy(GROUP, f"bf16, 16 bits: {name}", way, note="draws other bits", rounds=5)
