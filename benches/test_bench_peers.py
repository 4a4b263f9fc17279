"""The ways others have to the same values, beside ours: what they take, against libc's memcpy of the array.

Run:  make bench-numbers

The baseline that counts is torch.compile of the same arithmetic into a preallocated output; then come the
libraries as they are. Every peer is first checked to give the same bits as ours: equal work is compared.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

import dither
import peers
from measure import SIZE, TO_MEMCPY, Call, X, interleaved, into, memcpy, ratio

pytestmark = pytest.mark.usefixtures("one_thread")

LIMIT = 5.0
"""How many times faster than the fastest eager peer ours must be."""


def same_bits(a: object, b: np.ndarray) -> bool:
    return np.array_equal(np.asarray(a).view(np.int32), b.view(np.int32))


def beside(job: str, ways: dict[str, Call], ours: Call, rounds: int) -> float:
    """Enter every way; returns how many times as long as ours the fastest takes."""
    times = interleaved({"memcpy": memcpy(X), "ours": ours} | ways, rounds)
    mine = times["ours"].least
    for name in ways:
        note = f"ours is {times[name].least / mine:.1f} times as fast"
        ratio("peers", TO_MEMCPY, f"{job}: {name}", times[name], times["memcpy"], note=note)
    return min(times[name].least for name in ways) / mine


@pytest.mark.parametrize("preset", peers.TORCH)
def test_torch_compile_into_out(preset):
    call = peers.compiled(preset, X)
    assert same_bits(call(), dither.fake_quant(X, preset))
    beside(preset, {"torch.compile into out=": call}, into(preset), rounds=15)


@pytest.mark.parametrize("preset", ["mxfp8_e4m3", "mxfp4", "int4_g128"])
def test_five_times_the_fastest_eager_way(preset):
    want = dither.fake_quant(X[:64], preset)
    for name, call in peers.eager(preset, X[:64]).items():
        assert np.array_equal(np.asarray(call()), want), f"{name} does different work"
    times_ours = beside(preset, peers.eager(preset, X), into(preset), rounds=2)
    assert times_ours >= LIMIT, f"{times_ours:.1f} times as fast as the fastest"


def test_casts():
    """torch's and ml_dtypes' casts to e4m3 and back."""
    t, narrow = torch.from_numpy(X), torch.ones(SIZE).to(torch.float8_e4m3fn)
    codes = dither.encode(X, "e4m3")
    held, wide = torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.ones(SIZE)
    small, values = codes.view(ml_dtypes.float8_e4m3fn), dither.decode(codes, "e4m3")
    assert np.array_equal(narrow.copy_(t).view(torch.uint8).numpy(), codes)
    assert np.array_equal(X.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), codes)
    assert same_bits(wide.copy_(held), values)
    assert same_bits(small.astype(np.float32), values)
    encodes: dict[str, Call] = {
        "torch into out=": lambda: narrow.copy_(t),
        "ml_dtypes": lambda: X.astype(ml_dtypes.float8_e4m3fn),
    }
    decodes: dict[str, Call] = {
        "torch into out=": lambda: wide.copy_(held),
        "ml_dtypes": lambda: small.astype(np.float32),
    }
    out_codes, out = np.ones(SIZE, np.uint8), np.ones_like(X)
    beside("encode e4m3", encodes, lambda: dither.encode(X, "e4m3", out=out_codes), rounds=5)
    beside("decode e4m3", decodes, lambda: dither.decode(codes, "e4m3", out=out), rounds=5)
