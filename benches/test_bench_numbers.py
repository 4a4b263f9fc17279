"""Fake quantization of a 4096 x 4096 fp32 array on one thread, beside a memory copy, the eager ways that
install, and torch.compile of the same arithmetic into a preallocated output (the best a skilled user has).

Run:  pytest benches/test_bench_numbers.py --benchmark-only --benchmark-timer=time.process_time

Every peer is first checked to give the same bits as ours on ordinary data, so that equal work is compared.
Times are process CPU time, because the machines are shared; compare minima. `extra_info` holds Melem/s and
the ratio to memcpy.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

import dither
import peers

PRESETS = ["mxfp8_e4m3", "mxfp4", "int4_g128"]
SIZE = (4096, 4096)
LIMIT = 5.0
"""How many times faster than the fastest eager peer ours must be."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    dither.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    dither.set_num_threads(None)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)


def ours(preset: str, x: np.ndarray) -> Callable[[], np.ndarray]:
    q, out = dither.Quantizer(preset), np.empty_like(x)
    return lambda: dither.fake_quant(x, q, out=out)


def eager(preset: str, x: np.ndarray) -> dict[str, Callable[[], object]]:
    """The eager peers that exist for this preset, as calls without arguments."""
    t = torch.from_numpy(x)
    torch_way, numpy_way = peers.torch_recipe(preset), peers.numpy_recipe(preset)
    ways: dict[str, Callable[[], object]] = {
        "torch eager": lambda: torch_way(t),
        "numpy + ml_dtypes": lambda: numpy_way(x),
    }
    if (ao := peers.torchao(preset)) is not None:
        ways["torchao (target: CUDA)"] = lambda: ao(t)
    if (gf := peers.gfloat(preset)) is not None:
        ways["gfloat"] = lambda: gf(x)
    return ways


def compiled(preset: str, x: np.ndarray) -> Callable[[], object]:
    t = torch.from_numpy(x)
    out, recipe = torch.empty_like(t), peers.torch_recipe(preset)
    into = torch.compile(lambda a, o: o.copy_(recipe(a)))
    return lambda: into(t, out)


def cpu_seconds(call: Callable[[], object], rounds: int) -> float:
    """CPU time of the fastest of `rounds` calls, after one that is not counted."""
    call()
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def note(benchmark, x: np.ndarray) -> None:
    out = np.empty_like(x)
    copy = cpu_seconds(lambda: np.copyto(out, x), 5)
    best = benchmark.stats.stats.min
    benchmark.extra_info.update(melem_per_s=round(x.size / best / 1e6), memcpy_ratio=round(copy / best, 3))


@pytest.mark.benchmark(group="memcpy 64 MiB")
def test_memcpy(benchmark, x):
    out = np.empty_like(x)
    benchmark.pedantic(lambda: np.copyto(out, x), rounds=9, warmup_rounds=1)


@pytest.mark.parametrize("preset", PRESETS)
def test_dither(benchmark, x, preset):
    benchmark.group = preset
    benchmark.pedantic(ours(preset, x), rounds=9, warmup_rounds=1)
    note(benchmark, x)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("peer", ["torch eager", "numpy + ml_dtypes", "torchao (target: CUDA)", "gfloat"])
def test_eager_peer(benchmark, x, preset, peer):
    call = eager(preset, x).get(peer)
    if call is None:
        pytest.skip(f"{peer} has no {preset} here")
    same = np.asarray(eager(preset, x[:64])[peer]())
    assert np.array_equal(same, dither.fake_quant(x[:64], preset)), "the peer does different work"
    benchmark.group = preset
    benchmark.pedantic(call, rounds=3, warmup_rounds=1)
    note(benchmark, x)


@pytest.mark.parametrize("preset", PRESETS)
def test_torch_compile_into_out(benchmark, x, preset):
    call = compiled(preset, x)
    assert np.array_equal(np.asarray(call()), dither.fake_quant(x, preset))
    benchmark.group = preset
    benchmark.pedantic(call, rounds=9, warmup_rounds=1)
    note(benchmark, x)


@pytest.mark.parametrize("preset", PRESETS)
def test_five_times_the_fastest_eager_way(benchmark, x, preset):
    """Minima in the same run, ours against each peer."""
    mine = cpu_seconds(ours(preset, x), 9)
    theirs = {name: cpu_seconds(call, 2) for name, call in eager(preset, x).items()}
    fastest = min(theirs, key=lambda name: theirs[name])
    benchmark.group = "against the fastest eager way"
    benchmark.extra_info.update(fastest=fastest, ratio=round(theirs[fastest] / mine, 1))
    benchmark.pedantic(ours(preset, x), rounds=1)
    print(f"{preset}: {theirs[fastest] / mine:.1f}x {fastest}")
    assert theirs[fastest] >= LIMIT * mine, {n: round(t / mine, 1) for n, t in theirs.items()}
