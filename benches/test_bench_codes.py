"""Codes and packed storage of a 4096 x 4096 fp32 array on one thread, against libc's memcpy of the array.

Run:  make bench-numbers

`out=` is preallocated for encode, decode and dequantize; `quantize` allocates the codes (a quarter or an
eighth of the array). Peers are checked to give the same codes and values.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch

import dither
from dither import _core
from table import Row, interleaved, memcpy, record

SIZE = (4096, 4096)
X = np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)
pytestmark = pytest.mark.usefixtures("one_thread")

FORMATS = ["e4m3", "e5m2"]
PRESETS = ["mxfp8_e4m3", "mxfp4"]
OTHERS = ["nvfp4", "int4_g128", "int8_row", "mxint8", "fp8_e4m3"]


def measure(
    job: str, call: Callable[[], object], goal: float | None = None, fail: float | None = None, note: str = ""
) -> Row:
    times = interleaved({"copy": memcpy(X), "job": call}, rounds=20)
    ratio = times["copy"][0] / times["job"][0]
    return record(Row("codes and packed storage", job, ratio, "memcpy / job", times["job"], goal, fail, note))


def encoder(fmt: str) -> Callable[[], object]:
    out = np.ones(SIZE, np.uint8)
    return lambda: dither.encode(X, fmt, out=out)


def decoder(fmt: str) -> Callable[[], object]:
    codes, out = dither.encode(X, fmt), np.ones_like(X)
    return lambda: dither.decode(codes, fmt, out=out)


def unpacker(preset: str) -> Callable[[], object]:
    packed, out = dither.quantize(X, preset), np.ones_like(X)
    return lambda: packed.dequantize(out=out)


def jobs() -> dict[str, tuple[Callable[[], Callable[[], object]], float, float]]:
    """What has goals: how the call is made, goal, and below what it fails."""
    rows = {}
    for fmt in FORMATS:
        rows[f"encode {fmt}"] = (lambda fmt=fmt: encoder(fmt), 1.6, 1.2)
        rows[f"decode {fmt}"] = (lambda fmt=fmt: decoder(fmt), 2.0, 1.4)
    for preset in PRESETS:
        rows[f"pack {preset}"] = (lambda preset=preset: lambda: dither.quantize(X, preset), 1.2, 0.9)
        rows[f"unpack {preset}"] = (lambda preset=preset: unpacker(preset), 2.0, 1.2)
    return rows


JOBS = jobs()


@pytest.mark.parametrize("job", JOBS)
def test_codes(job):
    make, goal, fail = JOBS[job]
    row = measure(job, make(), goal, fail)
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("job", JOBS)
def test_codes_forced_to_avx2(job):
    make, goal, fail = JOBS[job]
    before = _core.simd_level()
    if _core.simd_level("avx2") != "avx2":
        pytest.skip("no AVX2 here")
    try:
        row = measure(f"{job}, AVX2", make(), 0.7 * goal, 0.7 * fail)
    finally:
        _core.simd_level(before)
    assert row.verdict != "FAIL", row


@pytest.mark.parametrize("preset", OTHERS)
def test_other_presets(preset):
    measure(f"pack {preset}", lambda: dither.quantize(X, preset))
    measure(f"unpack {preset}", unpacker(preset))


def test_peers():
    """torch's and ml_dtypes' casts to e4m3 and back."""
    t, narrow = torch.from_numpy(X), torch.empty(SIZE, dtype=torch.float8_e4m3fn)
    codes = dither.encode(X, "e4m3")
    held, wide = torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.empty(SIZE)
    small = codes.view(ml_dtypes.float8_e4m3fn)
    assert np.array_equal(narrow.copy_(t).view(torch.uint8).numpy(), codes)
    assert np.array_equal(X.astype(ml_dtypes.float8_e4m3fn).view(np.uint8), codes)
    values = dither.decode(codes, "e4m3")
    assert np.array_equal(wide.copy_(held).numpy(), values)
    assert np.array_equal(small.astype(np.float32), values)
    for name, way in {
        "encode e4m3: torch into out=": lambda: narrow.copy_(t),
        "encode e4m3: ml_dtypes": lambda: X.astype(ml_dtypes.float8_e4m3fn),
        "decode e4m3: torch into out=": lambda: wide.copy_(held),
        "decode e4m3: ml_dtypes": lambda: small.astype(np.float32),
    }.items():
        measure(name, way)
