"""`out=` of encode and decode, numpy and torch; large arrays against the codes of small ones."""

import ml_dtypes
import numpy as np
import pytest
import torch

import dither

X = np.random.default_rng(3).standard_normal((33, 47)).astype(np.float32) * 10


@pytest.mark.parametrize(("fmt", "dtype"), [("e4m3", "uint8"), ("bf16", "uint16"), ("tf32", "uint32")])
def test_out_is_filled_and_returned(fmt, dtype):
    want = dither.encode(X, fmt)
    out = np.zeros(X.shape, dtype)
    assert dither.encode(X, fmt, out=out) is out
    assert np.array_equal(out, want)
    values = np.zeros(X.shape, np.float32)
    assert dither.decode(out, fmt, out=values) is values
    assert np.array_equal(values, dither.cast(X, fmt))
    t, codes, back = torch.from_numpy(X), torch.from_numpy(out.copy()).zero_(), torch.zeros(X.shape)
    assert dither.encode(t, fmt, out=codes) is codes
    assert np.array_equal(codes.numpy(), want)
    assert dither.decode(codes, fmt, out=back) is back
    assert np.array_equal(back.numpy(), values)


def test_what_out_must_be():
    with pytest.raises(TypeError, match="uint8"):
        dither.encode(X, "e4m3", out=np.zeros(X.shape, np.uint16))
    with pytest.raises(TypeError, match="float32"):
        dither.decode(np.zeros(3, np.uint8), "e4m3", out=np.zeros(3))
    with pytest.raises(dither.UserError, match="shape"):
        dither.encode(X, "e4m3", out=np.zeros(3, np.uint8))
    with pytest.raises(dither.UserError, match="contiguous"):
        dither.encode(X, "e4m3", out=np.zeros((33, 94), np.uint8)[:, ::2])
    with pytest.raises(dither.UserError, match="overlaps"):
        dither.encode(X[0, :40], "fp16", out=X[0, :40].view(np.uint16)[:40])
    t = torch.from_numpy(X.copy())
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        dither.encode(t, "e4m3", out=torch.zeros(X.shape))
    with pytest.raises(dither.UserError, match="shape"):
        dither.encode(t, "e4m3", out=torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(dither.UserError, match="overlaps"):
        dither.encode(t[0, :40], "fp16", out=t.view(torch.uint16)[0, :40])


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_codes_are_ml_dtypes(level):
    """A second opinion on the vector kernels: every high half, four low halves."""
    low = np.array([0, 1, 0x8000, 0xFFFF], np.uint32)
    x = ((np.arange(1 << 16, dtype=np.uint32) << 16)[:, None] | low).view(np.float32).ravel()
    x = x[np.isfinite(x)]
    before = dither._core.simd_level()
    try:
        dither._core.simd_level(level)
        for fmt, dtype in [("e4m3", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)]:
            top = float(ml_dtypes.finfo(dtype).max)
            with np.errstate(over="ignore"):
                want = x.clip(-top, top).astype(dtype).view(np.uint8)
            assert np.array_equal(dither.encode(x, fmt), want)
        with np.errstate(over="ignore"):
            assert np.array_equal(dither.encode(x, "fp16"), x.astype(np.float16).view(np.uint16))
            assert np.array_equal(dither.encode(x, "bf16"), x.astype(ml_dtypes.bfloat16).view(np.uint16))
    finally:
        dither._core.simd_level("avx512")
        assert dither._core.simd_level() == before
