"""Histograms against numpy, exponents and codes counted by hand."""

import ml_dtypes
import numpy as np
import pytest
from data import adversarial

import dither
from dither import formats


def test_values_are_numpys():
    for name, x in adversarial(3000).items():
        x = x[np.abs(x) < 1e37]  # numpy's range must not overflow in fp32
        h = dither.histogram(x, 50)
        counts = np.histogram(x.astype(np.float64), bins=h.bins)[0]
        assert np.array_equal(h.counts, counts) and h.below == h.above == h.nonfinite == 0, name
        assert h.bins[0] == (x.min() if x.any() else -0.5) and h.zeros == (x == 0).sum()
        assert h.counts.sum() == x.size and (not x.any() or np.isclose(h.shares.sum(), 1))
    x = np.array([0.0, 1, 2, 3, 4, 5, np.nan, -np.inf])
    h = dither.histogram(x, [1, 2, 4])
    assert (h.counts.tolist(), h.below, h.above, h.nonfinite) == ([1, 3], 1, 1, 2)
    h = dither.histogram(x, 2, range=(0, 4))
    assert (h.counts.tolist(), h.above) == ([2, 3], 1)


def test_exponents():
    x = np.array([0, 1, -1.5, 2, 2.0**-149, 3e38, np.nan, np.inf, -0.0], np.float32)
    h = dither.histogram(x, of="exponents")
    assert dict(zip(h.bins[h.counts > 0].tolist(), h.counts[h.counts > 0].tolist(), strict=True)) == {
        -149: 1,
        0: 2,
        1: 1,
        127: 1,
    }
    assert (h.zeros, h.nonfinite, len(h.counts)) == (2, 2, 127 + 149 + 1)
    for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
        y = adversarial(2000)["normal"].astype(dtype)
        h = dither.histogram(y, of="exponents")
        want = np.frexp(y[y != 0].astype(np.float64))[1] - 1
        assert np.array_equal(h.counts, np.bincount(want - want.min())) and h.bins[0] == want.min()
    empty = dither.histogram(np.zeros(3), of="exponents")
    assert len(empty.counts) == 0 and empty.zeros == 3


@pytest.mark.parametrize("preset", ["mxfp4", "nvfp4", "mxfp8_e4m3", "int3_row", "fp8_e5m2", "bf16"])
def test_codes(preset):
    x = np.random.default_rng(0).standard_normal((6, 77)).astype(np.float32)
    fmt = dither.Quantizer(preset).format
    h = dither.histogram(x, of="codes", q=preset)
    assert len(h.counts) == 2**fmt.bits and h.counts.sum() == x.size and h.nonfinite == 0
    used = dither.decode(np.flatnonzero(h.counts).astype(np.uint32), fmt)
    assert np.array_equal(h.bins[h.counts > 0], used)
    assert h.zeros == (dither.fake_quant(x, preset) == 0).sum()
    if dither.Quantizer(preset).block is None:
        assert np.array_equal(h.counts, np.bincount(dither.encode(x, fmt).ravel(), minlength=2**fmt.bits))
    if preset == "mxfp4":
        spaced = dither.histogram(x, of="codes", q=preset, axis=0)
        assert spaced.counts.sum() == x.size and not np.array_equal(spaced.counts, h.counts)
        x[2, 3] = np.nan
        poisoned = dither.histogram(x, of="codes", q=preset)
        assert poisoned.nonfinite == 32 and poisoned.counts.sum() == x.size - 32


def test_threads_never_change_a_count():
    x = np.resize(adversarial(4001)["wide"], 300_000)
    try:
        got = []
        for threads in (1, 3):
            dither.set_num_threads(threads)
            kinds = [dither.histogram(x), dither.histogram(x, of="exponents")]
            got.append([h.counts.tolist() for h in [*kinds, dither.histogram(x, of="codes", q="mxfp4")]])
        assert got[0] == got[1]
    finally:
        dither.set_num_threads(None)


def test_tensors():
    torch = pytest.importorskip("torch")
    x = torch.randn(100, dtype=torch.bfloat16)
    assert np.array_equal(dither.histogram(x, 9).counts, dither.histogram(x.float().numpy(), 9).counts)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: dither.histogram(x, of="code"), "did you mean 'codes'"),
        (lambda x: dither.histogram(x, of="codes"), "needs the quantizer"),
        (lambda x: dither.histogram(x, q="mxfp4"), "takes none"),
        (lambda x: dither.histogram(x, 0), "positive number of bins"),
        (lambda x: dither.histogram(x, [1, 1]), "ascending"),
        (lambda x: dither.histogram(x, range=(2, 1)), "ascending"),
        (lambda x: dither.histogram(x, of="codes", q="tf32"), "at most 16 bits"),
    ],
)
def test_errors_say_what_to_do(call, says):
    with pytest.raises(dither.UserError, match=says):
        call(np.ones(8, np.float32))


def test_every_code_has_its_value():
    h = dither.histogram(np.ones(4, np.float32), of="codes", q="mxfp8_e5m2")
    assert np.array_equal(h.bins, dither.decode(np.arange(256), formats.get("e5m2")), equal_nan=True)
