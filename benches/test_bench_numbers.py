"""Fake quantization of a 4096 x 4096 fp32 array on one thread, against libc's memcpy of the same array.

Run:  make bench-numbers
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import dither
import goals
from measure import TO_MEMCPY, X, against, against_memcpy, in_numpys_memory, interleaved, into, memcpy, ratio

Q = dither.Quantizer
pytestmark = pytest.mark.usefixtures("one_thread")

MEMORY = {
    "mxfp8_e4m3": Q("mxfp8_e4m3"),
    "mxfp8_e5m2": Q("mxfp8_e5m2"),
    "mxfp6_e3m2": Q("mxfp6_e3m2"),
    "mxfp6_e2m3": Q("mxfp6_e2m3"),
    "mxfp4": Q("mxfp4"),
    "mxint8": Q("mxint8"),
    "int4_g32": Q("int4_g32"),
    "int4_g128": Q("int4_g128"),
    "int4_row": Q("int4_row"),
    "cast to e4m3": Q(format="e4m3"),
    "cast to e5m2": Q(format="e5m2"),
}
NVFP4 = {
    "nvfp4 dynamic": (Q("nvfp4"), goals.NVFP4_DYNAMIC),
    "nvfp4 static": (Q("nvfp4", scale_rule="static", scale=0.002), goals.NVFP4_STATIC),
}
ANY = {
    "e3m3, block 32": Q(format="e3m3", block=32, scale_format="e8m0"),
    "e2m2, block 32": Q(format="e2m2", block=32, scale_format="e8m0"),
    "e4m2, block 64": Q(format="e4m2", block=64, scale_format="e8m0"),
}
AXIS = ["mxfp8_e4m3", "mxfp4", "int4_g128", "int4_row", "nvfp4"]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def test_physical_limits():
    """What memory itself allows here: how far every row of the table is from the machine's bound."""
    times = interleaved(
        {
            "memcpy (libc)": memcpy(X),
            "copy past the caches (fp32 to fp32 cast)": into("fp32"),
            "reading alone (np.maximum.reduce)": lambda: np.maximum.reduce(X, axis=None),
        }
    )
    base = times["memcpy (libc)"]
    for job, seconds in times.items():
        ratio("limits", TO_MEMCPY, job, seconds, base)


@pytest.mark.parametrize("job", MEMORY)
def test_memory_speed(job, level):
    against_memcpy("fake quant", job + level, into(MEMORY[job]), goals.FAKE_QUANT)


def test_a_scale_of_the_tensor(level):
    """Reads everything twice, which takes longer than a copy: without a goal, see the limits."""
    against_memcpy("fake quant", f"fp8_e4m3 (tensor scale: reads twice){level}", into("fp8_e4m3"))


@pytest.mark.parametrize("job", NVFP4)
def test_nvfp4(job, level):
    q, goal = NVFP4[job]
    against_memcpy("NVFP4", job + level, into(q), goal)


@pytest.mark.parametrize("job", ANY)
def test_any_format_as_fast_as_a_fixed_one(job, level):
    of = "mxfp8_e4m3 / job"
    against("any eXmY", of, job + level, into(ANY[job]), into("mxfp8_e4m3"), goals.ANY_FORMAT)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("preset", ["mxfp8_e4m3", "mxfp4", "nvfp4"])
def test_half_precision_at_the_rate_of_fp32(preset, dtype, level):
    half = in_numpys_memory(torch.from_numpy(X).to(HALF[dtype]))
    of = "the same elements in fp32 / job"
    job = f"{preset}, {dtype}{level}"
    against("half precision", of, job, into(preset, half), into(preset), goals.HALF_PRECISION)


@pytest.mark.parametrize("preset", AXIS)
def test_first_axis(preset, level):
    of = "along the last axis / job"
    against("axis 0", of, preset + level, into(preset, axis=0), into(preset), goals.FIRST_AXIS)


@pytest.mark.parametrize("preset", ["mxfp8_e4m3", "mxfp4", "int4_g128", "nvfp4"])
def test_two_threads(preset):
    """Wall time. Where two threads do not copy 1.3 times as fast either, 0.9 of that scaling is enough."""
    call, copies = into(preset), [memcpy(half) for half in np.array_split(X, 2)]

    def two() -> None:
        dither.set_num_threads(2)
        call()
        dither.set_num_threads(1)

    with ThreadPoolExecutor(2) as pool:
        calls = {
            "one": call,
            "two": two,
            "copy": memcpy(X),
            "two copies": lambda: list(pool.map(lambda c: c(), copies)),
        }
        times = interleaved(calls, clock=time.perf_counter)
    own = times["copy"].least / times["two copies"].least
    goal = replace(goals.TWO_THREADS, fail=min(goals.TWO_THREADS.fail, 0.9 * own))
    of, note = "wall time of one thread / of two", f"memcpy scales by {own:.2f}"
    ratio("two threads", of, preset, times["two"], times["one"], goal, note)
