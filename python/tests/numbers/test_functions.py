"""The public functions at their edges: dtypes, shapes, out=, errors, threads, fork, statistics."""

import multiprocessing
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest
from data import adversarial
from hypothesis import given, settings
from hypothesis import strategies as st

import dither
from dither import _core, checks, formats
from dither.arguments import as_input

STOCHASTIC = "mxfp4:rounding=stochastic"


@pytest.fixture(autouse=True)
def default_threads():
    yield
    dither.set_num_threads(None)


def test_input_stays_and_dtype_stays():
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        x = np.random.default_rng(0).standard_normal((3, 40)).astype(dtype)
        before = x.copy()
        y = dither.fake_quant(x, "mxfp8_e4m3")
        assert y.dtype == x.dtype and y.shape == x.shape
        assert np.array_equal(x, before)


def test_out_dtype_and_out():
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    y = dither.fake_quant(x, "mxfp4")
    assert np.array_equal(dither.fake_quant(x, "mxfp4", out_dtype="fp64"), y.astype(np.float64))
    assert np.array_equal(dither.fake_quant(x, "mxfp4", out_dtype="bf16"), y.astype(ml_dtypes.bfloat16))
    out = np.full_like(x, 9)
    assert dither.fake_quant(x, "mxfp4", out=out) is out and np.array_equal(out, y)
    inplace = x.copy()
    dither.fake_quant(inplace, "mxfp4", out=inplace)
    assert np.array_equal(inplace, y)
    half = x.astype(np.float16)
    expected = dither.fake_quant(half, "int4_g32", out_dtype="fp32")
    out = np.empty(x.shape, np.float32)
    assert np.array_equal(dither.fake_quant(half, "int4_g32", out=out), expected)


def test_strided_zero_dimensional_and_empty_input():
    x = np.random.default_rng(0).standard_normal((40, 60)).astype(np.float32)
    assert np.array_equal(
        dither.fake_quant(x[::2, ::3], "mxfp4"), dither.fake_quant(x[::2, ::3].copy(), "mxfp4")
    )
    assert np.array_equal(dither.fake_quant(x.T, "mxfp4", axis=0), dither.fake_quant(x, "mxfp4").T)
    assert (
        dither.cast(np.float32(1.06), "e4m3") == 1.0 and dither.fake_quant(np.array(3.3), "mxfp4").shape == ()
    )
    for shape in ((0,), (3, 0), (0, 5)):
        assert dither.fake_quant(np.empty(shape, np.float32), "nvfp4").shape == shape
    assert dither.encode([], "e4m3").shape == (0,)
    assert list(dither.cast([1.06, 300.0], "e4m3")) == [1.0, 288.0]  # 300 lies between 288 and 320


def test_foreign_byte_order_and_misaligned_memory():
    """The extension reads native, aligned memory: everything else is copied, or refused as an output."""
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    y, swapped = dither.fake_quant(x, "mxfp4"), x.astype(x.dtype.newbyteorder())
    assert np.array_equal(dither.fake_quant(swapped, "mxfp4"), y)
    assert dither.error_stats(swapped, "mxfp4") == dither.error_stats(x, "mxfp4")
    shifted = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    shifted[:] = x
    assert not shifted.flags.aligned and as_input(shifted).flags.aligned
    assert np.array_equal(dither.fake_quant(shifted, "mxfp4"), y)
    assert dither.fake_quant(shifted[0, 0, ...], "mxfp4").shape == ()
    for out in (np.empty_like(swapped), shifted):
        with pytest.raises(dither.UserError, match="native byte order"):
            dither.fake_quant(x, "mxfp4", out=out)
    codes = dither.encode(x, "fp16")
    odd = np.empty(codes.nbytes + 1, np.uint8)[1:].view(np.uint16).reshape(codes.shape)
    odd[:] = codes
    for other in (odd, codes.astype(codes.dtype.newbyteorder()), codes.astype(np.int64)):
        assert np.array_equal(dither.decode(other, "fp16"), dither.decode(codes, "fp16"))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda x: dither.fake_quant(x, "mxfp5"), dither.UserError, "did you mean 'mxfp4'"),
        (lambda x: dither.fake_quant(x.astype(int), "mxfp4"), TypeError, "astype"),
        (lambda x: dither.fake_quant(x.astype(complex), "mxfp4"), TypeError, "complex"),
        (lambda x: dither.fake_quant(x, "mxfp4", axis=2), dither.UserError, "axis 2 does not exist"),
        (lambda x: dither.fake_quant(x, "mxfp4", axis=1.0), TypeError, "axis"),  # type: ignore[arg-type]
        (lambda x: dither.fake_quant(x, 4), TypeError, "preset name such as"),  # type: ignore[arg-type]
        (lambda x: dither.cast(x, "e9m1"), dither.UserError, "any eXmY"),
        (lambda x: dither.cast(x, "e2m1", overflow="ieee"), dither.UserError, "only saturate"),
        (lambda x: dither.fake_quant(x, "mxfp4", out=np.empty(3, np.float32)), dither.UserError, "shape"),
        (lambda x: dither.fake_quant(x, "mxfp4", out=x.T.copy().T), dither.UserError, "contiguous"),
        (lambda x: dither.fake_quant(x, "mxfp4", out=[1.0]), TypeError, "out="),
        (lambda x: dither.fake_quant(x, "mxfp4", out=x, out_dtype="fp16"), dither.UserError, "out_dtype"),
        (lambda x: dither.fake_quant(x, "mxfp4", out_dtype="int8"), TypeError, "out_dtype"),
        (lambda x: dither.decode(x, "e4m3"), TypeError, "codes are integers"),
        (lambda x: dither.error_stats(x[:0], "mxfp4"), dither.UserError, "empty"),
        (lambda x: dither.set_num_threads(0), dither.UserError, "positive"),
        (lambda x: dither.Quantizer("mxfp4", roundin="up"), dither.UserError, "did you mean 'rounding'"),
        (lambda x: dither.Quantizer("int4", scale_rule="floor"), dither.UserError, "absmax"),
        (lambda x: dither.Quantizer(format="e4m3", scale_rule="floor"), dither.UserError, "needs a block"),
        (lambda x: dither.Quantizer("mxfp4", overflow="ieee"), dither.UserError, "under a block scale"),
        (lambda x: dither.Quantizer("mxfp4", bits=33), dither.UserError, "1 to 32"),
        (lambda x: dither.Quantizer("mxfp4", block=0), dither.UserError, "positive"),
        (lambda x: dither.Quantizer(), dither.UserError, "preset name"),
        (lambda x: dither.Quantizer("mxfp4:rounding"), dither.UserError, "field=value"),
        (lambda x: dither.Quantizer("nvfp4:tensor_scale=1"), dither.UserError, "True or False"),
        (lambda x: dither.Quantizer("nvfp4", tensor_scale="no"), dither.UserError, "True or False"),
        (lambda x: dither.Quantizer("mxfp4", block=2**64), dither.UserError, "positive"),
        (lambda x: dither.fake_quant(x, "mxfp4", out_dtype=x.dtype.newbyteorder()), TypeError, "out_dtype"),
        (lambda x: dither.fake_quant(np.ma.array(x, mask=x > 0), "mxfp4"), TypeError, "filled"),
        (lambda x: dither.cast(x, "bf16", rounding="stochastic", seed=2**64), dither.UserError, "seed="),
        (lambda x: dither.fake_quant(x, STOCHASTIC, seed=0, offset=2**63), dither.UserError, "offset="),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, error, says):
    with pytest.raises(error, match=says):
        call(np.ones((4, 8), np.float32))


def test_read_only_and_overlapping_out():
    x = np.ones(64, np.float32)
    locked = np.empty_like(x)
    locked.flags.writeable = False
    with pytest.raises(dither.UserError, match="read-only"):
        dither.fake_quant(x, "mxfp4", out=locked)
    memory = np.ones(65, np.float32)
    with pytest.raises(dither.UserError, match="overlaps"):
        dither.fake_quant(memory[:-1], "mxfp4", out=memory[1:])


def test_printed_form_parses_back():
    for name in dither.Quantizer.presets():
        assert dither.Quantizer(str(dither.Quantizer(name))) == dither.Quantizer(name)
    q = dither.Quantizer("mxfp4", rounding="stochastic", scale_rule="ceil", bits=12)
    assert dither.Quantizer(str(q)) == q and {q: 1}[dither.Quantizer(str(q))] == 1
    q = dither.Quantizer(format="e3m4", block=7, scale_format="ue5m3", tensor_scale=True, scale_rule="rceil")
    assert dither.Quantizer(str(q)) == q


def test_exact_in_heeds_sign_and_zero():
    assert formats.get("e2m1").exact_in("e4m3") and formats.get("e8m0").exact_in("bf16")
    assert not formats.get("e2m1").exact_in("ue5m3")  # no negative numbers
    assert not formats.get("e3m0").exact_in("e8m0")  # nor zero


def test_inexact_preset_warns_once(monkeypatch):
    monkeypatch.setattr(checks, "_warned", set())  # whatever other tests have been told
    x = np.ones(32, np.float16)
    q = dither.Quantizer("int4", block=31)
    with pytest.warns(UserWarning, match="not exact in fp16") as caught:
        dither.fake_quant(x, q)
        dither.cast(x, "bf16")
    assert [w.filename for w in caught] == [__file__] * 2  # it points at the caller
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dither.fake_quant(x, q)
        dither.fake_quant(x, "mxfp8_e4m3")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    axis=st.integers(0, 2),
    preset=st.sampled_from(dither.Quantizer.presets()),
    rounding=st.sampled_from(["nearest_even", "up", "stochastic"]),
    seed=st.integers(0, 2**64 - 1),
)
def test_threads_and_levels_never_change_a_bit(shape, axis, preset, rounding, seed):
    axis %= len(shape)
    x = np.resize(adversarial(999)["wide"], shape)
    q = dither.Quantizer(preset, rounding=rounding)
    if isinstance(q.block, tuple):
        axis = len(shape) - 1  # tiles lie over the last two axes
    results = []
    try:
        for threads, level in ((1, "avx512"), (3, "avx512"), (1, "baseline"), (1, "avx2")):
            dither.set_num_threads(threads)
            _core.simd_level(level)
            results.append(dither.fake_quant(x, q, axis=axis, seed=seed).tobytes())
    finally:
        _core.simd_level("avx512")
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    "spec",
    [
        "nvfp4",
        "nvfp4:dialect=torchao",
        "nvfp4:dialect=cudnn",
        "mxfp8_e4m3:dialect=torchao",
        "mxfp4:dialect=te",
    ],
)
def test_neighbours_are_the_nearest_of_all_values(spec):
    """Against every code times the stored scale; also where the library multiplies by another number than the
    reciprocal of that, in tiny blocks."""
    rng, q = np.random.default_rng(0), dither.Quantizer(spec)
    codes = dither.decode(np.arange(2**q.format.bits, dtype=np.uint8), q.format)
    codes = codes[np.isfinite(codes)]
    for exponent in (0, -100, -120, -126, -130, -140):
        noise = rng.standard_normal(96) * 2.0 ** rng.integers(-5, 3, 96)
        x = (noise * 2.0**exponent).astype(np.float32)
        t = dither.quantize(x, q)
        assert t.scales is not None
        scales = dither.decode(t.scales, str(q.scale_format)) * (t.tensor_scale or np.float32(1))
        lo, hi = dither.neighbours(x, q)
        for i, scale in enumerate(np.repeat(scales, int(q.block or 1))):  # type: ignore[arg-type]
            grid = np.unique(codes * scale)
            inner = np.clip(x[i], grid[0], grid[-1])
            assert (lo[i], hi[i]) == (grid[grid <= inner][-1], grid[grid >= inner][0]), (exponent, i)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=70),
    st.sampled_from(
        ["mxfp8_e4m3", "mxfp4", "nvfp4", "int4_g32", "int3_row", "fp8_e5m2", "mxint8", "fp4_g32"]
    ),
)
def test_neighbours_enclose(values, preset):
    """lo < x < hi inside the range and off the grid, and the quantized value is one of the two."""
    x = np.array(values, np.float32)
    lo, hi = dither.neighbours(x, preset)
    y = dither.fake_quant(x, preset)
    # Where NVFP4's reciprocals of scales are bounded, elements are rounded short of their nearest neighbours.
    if preset != "nvfp4" or np.abs(x).max() > 2.0**-100:
        assert ((y == lo) | (y == hi)).all()
    inside = lo != hi
    assert (lo[inside] < x[inside]).all() and (x[inside] < hi[inside]).all()


def test_large_arrays_use_threads_and_agree():
    x = np.random.default_rng(0).standard_normal((300, 1111)).astype(np.float32)
    q = dither.Quantizer("mxfp4", rounding="stochastic")
    dither.set_num_threads(1)
    one = dither.fake_quant(x, q, seed=3)
    dither.set_num_threads(4)
    assert np.array_equal(one, dither.fake_quant(x, q, seed=3))
    results = [np.empty(0)] * 8

    def work(i):
        results[i] = dither.fake_quant(x, q, seed=3)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert all(np.array_equal(one, r) for r in results)


def _child(queue):
    dither.set_num_threads(2)
    x = np.ones((600, 600), np.float32)
    queue.put(float(dither.fake_quant(x, "mxfp4").sum()))


@pytest.mark.skipif(
    not hasattr(multiprocessing, "get_context") or sys.platform == "win32", reason="no fork here"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_hang():
    dither.set_num_threads(2)
    dither.fake_quant(np.ones((600, 600), np.float32), "mxfp4")  # the parent's threads are running now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == 360000.0
    child.join(60)
    assert child.exitcode == 0


def test_import_is_light():
    """`import dither` brings nothing but numpy, in under 0.3 s of CPU on top of numpy's own."""
    code = (
        "import time, numpy, sys; a = time.process_time(); import dither; b = time.process_time();"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules; print(b - a)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(out.stdout) < 0.3


class TestErrorStats:
    def test_against_numpy(self):
        x = np.random.default_rng(2).standard_normal((9, 100)).astype(np.float32)
        x[0, :3] = [0, -0.0, 1e-30]
        for preset in ("mxfp8_e4m3", "mxfp4", "int4_g32", "nvfp4", "fp8_e4m3"):
            y = dither.fake_quant(x, preset).astype(np.float64)
            s = dither.error_stats(x, preset)
            error = y - x
            assert s["count"] == x.size and s["nonfinite"] == 0
            assert np.isclose(s["mse"], (error**2).mean(), rtol=1e-12)
            assert np.isclose(
                s["sqnr_db"], 10 * np.log10((x.astype(np.float64) ** 2).sum() / (error**2).sum()), rtol=1e-12
            )
            nonzero = x != 0
            assert np.isclose(s["max_rel"], (np.abs(error[nonzero]) / np.abs(x[nonzero])).max(), rtol=1e-6)
            assert s["underflowed"] == ((y == 0) & nonzero).sum()

    def test_clipped_and_last_bin_differ(self):
        """|x| above the top is clipped; the last bin also takes what rounds to the top from below."""
        x = np.array([[957.0, 890.0, 896.0, 100.0]], np.float32)  # floor: top is 896
        s = dither.error_stats(x, "mxfp8_e4m3")
        assert (s["clipped"], s["last_bin"]) == (1, 3)
        rule = dither.Quantizer("mxfp8_e4m3", scale_rule="rceil")
        assert dither.error_stats(x, rule)["clipped"] == 0

    @pytest.mark.parametrize(("preset", "top"), [("mxfp8_e4m3", 1.75), ("mxfp4", 1.5), ("mxfp6_e2m3", 1.875)])
    def test_counts_on_gaussian_data(self, preset, top):
        """Counted from the definition: the largest value of a block is top * 2^floor(log2 absmax)."""
        x = np.random.default_rng(0).standard_normal((2000, 320)).astype(np.float32)
        blocks = np.abs(x.reshape(-1, 32))
        limit = top * 2.0 ** (np.frexp(blocks.max(axis=1, keepdims=True))[1] - 1)
        s = dither.error_stats(x, preset)
        assert s["clipped"] == (blocks > limit).sum()
        y = np.abs(dither.fake_quant(x, preset).reshape(-1, 32))
        assert s["last_bin"] == (y == limit).sum() > s["clipped"]

    def test_per_block(self):
        x = np.random.default_rng(2).standard_normal((3, 70, 5)).astype(np.float32)
        x[1, 40, 2] = np.nan
        s = dither.error_stats(x, "mxfp4", axis=1, per_block=True)
        blocks = s["blocks"]
        assert blocks["mse"].shape == (3, 3, 5)
        assert blocks["count"].sum() == x.size and s["nonfinite"] == 32 == blocks["nonfinite"][1, 1, 2]
        y = dither.fake_quant(x, "mxfp4", axis=1)
        want = ((y - x)[2, 64:, 3].astype(np.float64) ** 2).mean()
        assert np.isclose(blocks["mse"][2, 2, 3], want, rtol=1e-12)

    def test_exact_data_has_infinite_sqnr(self):
        s = dither.error_stats(np.ones(32, np.float32), "mxfp4")
        assert s["sqnr_db"] == np.inf and s["mse"] == 0

    def test_without_a_finite_element_nothing_is_known(self):
        x = np.array([[np.nan] * 32, [1.0] * 32], np.float32)
        blocks = dither.error_stats(x, "mxfp4", per_block=True)["blocks"]
        assert np.isnan(blocks["sqnr_db"][0, 0]) and np.isnan(blocks["mse"][0, 0])
        assert blocks["sqnr_db"][1, 0] == np.inf
