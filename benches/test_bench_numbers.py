"""Fake quantization of a 4096 x 4096 fp32 array on one thread, against libc's memcpy of the same array.

Run:  make bench-numbers

Ratios of memory speed have goals and lines below which the bench fails; `out=` is preallocated, the copy is
interleaved with the kernels, and minima of process CPU time count, because machines are shared. Beside ours
stand the ways a skilled user has: torch.compile of the same arithmetic into a preallocated output, then the
eager libraries. Every peer is first checked to give the same bits as ours, so that equal work is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import dither
import peers
from dither import _core
from table import Row, interleaved, memcpy, record

SIZE = (4096, 4096)
X = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
Q = dither.Quantizer

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
    "fp8_e4m3 (tensor scale: reads twice)": Q("fp8_e4m3"),
}
NVFP4 = {
    "nvfp4 dynamic": (Q("nvfp4"), 0.63, 0.5),
    "nvfp4 static": (Q("nvfp4", scale_rule="static", scale=0.002), 0.83, 0.65),
}
ANY = {
    "e3m3, block 32": Q(format="e3m3", block=32, scale_format="e8m0"),
    "e2m2, block 32": Q(format="e2m2", block=32, scale_format="e8m0"),
    "e4m2, block 64": Q(format="e4m2", block=64, scale_format="e8m0"),
}
AXIS = ["mxfp8_e4m3", "mxfp4", "int4_g128", "int4_row", "nvfp4"]
HALF = ["mxfp8_e4m3", "mxfp4", "nvfp4"]
PEERS = ["mxfp8_e4m3", "mxfp4", "int4_g128"]
pytestmark = pytest.mark.usefixtures("one_thread")

LIMIT = 5.0
"""How many times faster than the fastest eager peer ours must be."""


def into(q: str | dither.Quantizer, x, axis: int = -1) -> Callable[[], object]:
    """Our call into a preallocated output."""
    q = Q(q) if isinstance(q, str) else q
    out = torch.ones_like(x) if isinstance(x, torch.Tensor) else np.ones_like(x)
    return lambda: dither.fake_quant(x, q, axis=axis, out=out)


def against_memcpy(group: str, job: str, call: Callable[[], object], goal: float, fail: float) -> Row:
    times = interleaved({"copy": memcpy(X), "job": call})
    ratio = times["copy"][0] / times["job"][0]
    note = f"memcpy {1e3 * times['copy'][0]:.2f} ms"
    return record(Row(group, job, ratio, "memcpy / job", times["job"], goal, fail, note))


def against(
    group: str,
    job: str,
    base: Callable[[], object],
    call: Callable[[], object],
    of: str,
    line: tuple[float, float],
) -> Row:
    """The rate of `call` relative to that of `base`."""
    times = interleaved({"base": base, "job": call}, rounds=20)
    return record(Row(group, job, times["base"][0] / times["job"][0], of, times["job"], *line))


def test_physical_limits():
    """What memory itself allows here: an ordinary copy, a copy past the caches, reading alone."""
    out = np.ones_like(X)
    identity = Q("fp32")
    times = interleaved(
        {
            "memcpy": memcpy(X),
            "numpy copyto": lambda: np.copyto(out, X),
            "fp32 to fp32 cast, past the caches": lambda: dither.fake_quant(X, identity, out=out),
            "reading alone (np.maximum.reduce)": lambda: np.maximum.reduce(X, axis=None),
        }
    )
    for job, seconds in times.items():
        record(Row("limits", job, times["memcpy"][0] / seconds[0], "memcpy / job", seconds))


@pytest.mark.parametrize("job", MEMORY)
def test_memory_speed(job):
    row = against_memcpy("fake quant", job, into(MEMORY[job], X), 1.4, 1.1)
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("job", NVFP4)
def test_nvfp4(job):
    q, goal, fail = NVFP4[job]
    row = against_memcpy("NVFP4", job, into(q, X), goal, fail)
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("job", NVFP4)
def test_nvfp4_forced_to_avx2(job):
    q, goal, fail = NVFP4[job]
    before = _core.simd_level()
    if _core.simd_level("avx2") != "avx2":
        pytest.skip("no AVX2 here")
    try:
        row = against_memcpy("NVFP4", f"{job}, AVX2", into(q, X), 0.7 * goal, 0.7 * fail)
    finally:
        _core.simd_level(before)
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("job", ANY)
def test_any_format_as_fast_as_a_fixed_one(job):
    row = against(
        "any eXmY", job, into("mxfp8_e4m3", X), into(ANY[job], X), "rate relative to mxfp8_e4m3", (1.0, 0.7)
    )
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("preset", HALF)
def test_half_precision_at_the_rate_of_fp32(preset, dtype):
    half = torch.from_numpy(X).to({"bf16": torch.bfloat16, "fp16": torch.float16}[dtype])
    row = against(
        "half precision",
        f"{preset}, {dtype}",
        into(preset, X),
        into(preset, half),
        "elements a second, of fp32's",
        (1.0, 1.0),
    )
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("preset", AXIS)
def test_first_axis(preset):
    row = against(
        "axis 0", preset, into(preset, X), into(preset, X, 0), "rate relative to the last axis", (1.0, 0.5)
    )
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("preset", ["mxfp8_e4m3", "mxfp4", "int4_g128", "nvfp4"])
def test_two_threads(preset):
    """Wall time. Where two threads do not copy 1.3 times as fast either, 0.9 of that scaling is enough."""
    call, copies = into(preset, X), [memcpy(half) for half in np.array_split(X, 2)]

    def two() -> None:
        dither.set_num_threads(2)
        call()
        dither.set_num_threads(1)

    with ThreadPoolExecutor(2) as pool:
        times = interleaved(
            {
                "one": call,
                "two": two,
                "copy": memcpy(X),
                "two copies": lambda: list(pool.map(lambda c: c(), copies)),
            },
            clock=time.perf_counter,
        )
    own = times["copy"][0] / times["two copies"][0]
    scaling = times["one"][0] / times["two"][0]
    row = record(
        Row(
            "two threads",
            preset,
            scaling,
            "wall time of one / of two",
            times["two"],
            1.6,
            min(1.3, 0.9 * own),
            f"memcpy scales by {own:.2f}",
        )
    )
    assert row.verdict != "FAIL", row


def eager(preset: str, x: np.ndarray) -> dict[str, Callable[[], object]]:
    """The eager peers that exist for this preset, as calls without arguments."""
    t = torch.from_numpy(x)
    torch_way, numpy_way = peers.torch_recipe(preset), peers.numpy_recipe(preset)
    ways: dict[str, Callable[[], object]] = {
        "torch eager": lambda: torch_way(t),
        "numpy + ml_dtypes": lambda: numpy_way(x),
    }
    if (ao := peers.torchao(preset)) is not None:
        ways["torchao (a CPU is not its target)"] = lambda: ao(t)
    if (gf := peers.gfloat(preset)) is not None:
        ways["gfloat"] = lambda: gf(x)
    return ways


def compiled(preset: str, x: np.ndarray) -> Callable[[], object]:
    t = torch.from_numpy(x)
    out, recipe = torch.empty_like(t), peers.torch_recipe(preset)
    compiled_recipe = torch.compile(lambda a, o: o.copy_(recipe(a)))
    return lambda: compiled_recipe(t, out)


@pytest.mark.parametrize("preset", PEERS)
def test_torch_compile_into_out(preset):
    """The headline baseline: the same arithmetic, fused, into a preallocated output."""
    call = compiled(preset, X)
    assert np.array_equal(np.asarray(call()), dither.fake_quant(X, preset))
    times = interleaved({"copy": memcpy(X), "theirs": call, "ours": into(preset, X)}, rounds=15)
    ours = times["theirs"][0] / times["ours"][0]
    ratio = times["copy"][0] / times["theirs"][0]
    record(
        Row(
            "peers",
            f"{preset}: torch.compile into out=",
            ratio,
            "memcpy / job",
            times["theirs"],
            note=f"ours {ours:.1f}x",
        )
    )


@pytest.mark.parametrize("preset", PEERS)
def test_five_times_the_fastest_eager_way(preset):
    """Minima in the same run, ours against each peer."""
    want = dither.fake_quant(X[:64], preset)
    for name, call in eager(preset, X[:64]).items():
        assert np.array_equal(np.asarray(call()), want), f"{name} does different work"
    ways = eager(preset, X)
    times = interleaved({"copy": memcpy(X), "ours": into(preset, X)} | ways, rounds=3)
    mine = times["ours"][0]
    for name in ways:
        ratio, ours = times["copy"][0] / times[name][0], times[name][0] / mine
        record(
            Row("peers", f"{preset}: {name}", ratio, "memcpy / job", times[name], note=f"ours {ours:.0f}x")
        )
    fastest = min(times[name][0] for name in ways)
    assert fastest >= LIMIT * mine, {n: round(t[0] / mine, 1) for n, t in times.items()}
