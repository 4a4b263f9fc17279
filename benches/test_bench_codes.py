"""Codes and packed storage of a 4096 x 4096 fp32 array on one thread, against libc's memcpy of the array.

Run:  make bench-numbers

`out=` is preallocated for encode, decode and dequantize; `quantize` allocates the codes (a quarter or an
eighth of the array).
"""

from __future__ import annotations

import numpy as np
import pytest

import dither
import goals
from measure import SIZE, Call, X, against, against_memcpy

pytestmark = pytest.mark.usefixtures("one_thread")

OTHERS = ["nvfp4", "int4_g128", "int8_row", "mxint8", "mxfp6_e3m2", "fp8_e4m3"]
GROUP = "codes and packed storage"


def encoder(fmt: str) -> Call:
    out = np.ones(SIZE, np.uint8)
    return lambda: dither.encode(X, fmt, out=out)


def decoder(fmt: str) -> Call:
    codes, out = dither.encode(X, fmt), np.ones_like(X)
    return lambda: dither.decode(codes, fmt, out=out)


def packer(preset: str, axis: int = -1) -> Call:
    return lambda: dither.quantize(X, preset, axis=axis)


def unpacker(preset: str, axis: int = -1) -> Call:
    packed, out = dither.quantize(X, preset, axis=axis), np.ones_like(X)
    return lambda: packed.dequantize(out=out)


JOBS = {
    "encode e4m3": (encoder, "e4m3", goals.ENCODE),
    "encode e5m2": (encoder, "e5m2", goals.ENCODE),
    "decode e4m3": (decoder, "e4m3", goals.DECODE),
    "decode e5m2": (decoder, "e5m2", goals.DECODE),
    "pack mxfp8_e4m3": (packer, "mxfp8_e4m3", goals.PACK_MXFP8),
    "pack mxfp4": (packer, "mxfp4", goals.PACK_MXFP4),
    "unpack mxfp8_e4m3": (unpacker, "mxfp8_e4m3", goals.UNPACK),
    "unpack mxfp4": (unpacker, "mxfp4", goals.UNPACK),
}


@pytest.mark.parametrize("job", JOBS)
def test_codes(job, level):
    make, spec, goal = JOBS[job]
    against_memcpy(GROUP, job + level, make(spec), goal)


@pytest.mark.parametrize("preset", OTHERS)
def test_other_presets(preset):
    against_memcpy(GROUP, f"pack {preset}", packer(preset))
    against_memcpy(GROUP, f"unpack {preset}", unpacker(preset))


@pytest.mark.parametrize("make", [packer, unpacker], ids=["pack", "unpack"])
@pytest.mark.parametrize("preset", ["mxfp8_e4m3", "mxfp4", "nvfp4", "int4_g128"])
def test_first_axis(make, preset, level):
    job, of = f"{make.__name__[:-2]} {preset}{level}", "along the last axis / job"
    against("codes, axis 0", of, job, make(preset, 0), make(preset), goals.FIRST_AXIS, rounds=10)
