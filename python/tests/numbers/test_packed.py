"""Packed arrays: what is read back is what fake_quant returns, the layout is the documented one, and parts
can be taken out, compared, copied and sent elsewhere."""

import copy
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from data import adversarial, bits
from hypothesis import given, settings
from hypothesis import strategies as st

import dither
from dither import QuantizedTensor, formats
from dither.blocks import Layout

CASTS = [name for name in dither.Quantizer.presets() if dither.Quantizer(name).block is None]
QUANTIZERS = [
    *dither.Quantizer.presets(),
    "format=int4,block=4x8",
    "format=e4m3,block=column",
    "format=uint4,block=7,zero_point=true",
    "mxfp4:dialect=torchao",
    "format=int1,block=16,scale_format=e4m3,tensor_scale=true,rounding=stochastic_a",
    "format=int1,block=16",
    "mxfp4:rounding=stochastic",
    "nvfp4:scale_rule=rceil",
    "mxfp4:block=5",
    "format=e3m4,block=7,scale_format=ue5m3",
    "format=e3m4,block=row,scale_format=ue5m3,tensor_scale=true",
    "format=ue5m3,block=32,scale_format=e8m0",
    "format=fp32,block=32,scale_format=e8m0",
    *(f"format={name}" for name in ("e4m3", "e5m2", "e3m2", "e2m1", "e1m0", "int3", "ue5m3", "e8m0", "e7m9")),
]


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(bits(a), bits(b))


@pytest.mark.parametrize("q", QUANTIZERS)
def test_reading_back_is_fake_quant(q):
    """Every quantizer, family of inputs and type of array."""
    for family, x in adversarial(1200).items():
        x = x.reshape(3, 400)
        half = np.clip(x[:, :130], -6e4, 6e4).astype(np.float16)
        for y in (
            x,
            x.astype(np.float64) * 1.0000001,
            half,
            x.astype(ml_dtypes.bfloat16),
        ):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("dither.functions.warn_inexact", lambda *_: None)
                patch.setattr("dither.tensor.warn_inexact", lambda *_: None)
                want = dither.fake_quant(y, q, seed=3)
                got = dither.quantize(y, q, seed=3).dequantize()
            assert equal(got, want), (family, y.dtype)


SOME = {
    "format": "e4m3 e5m2 e3m2 e2m1 bf16 int4 int1 uint4 uint8 mxint8 mxint8_full ternary nf4 e4m3_480 ue5m3 "
    "e5m3 binary8p4se binary4p2sf binary8p1uf e8m0",
    "scale_format": "e8m0 e4m3 ue5m3 fp32",
    "scale_rule": "floor ceil rceil even absmax mse static",
    "dialect": "ocp torchao te p3109 microxcaling cudnn",
    "nan": "block element saturate",
    "zero_scale": "rule smallest one",
    "rounding": "nearest_even up to_odd stochastic stochastic_a",
}
FLAGS = {"tensor_scale": True, "zero_point": True, "four_over_six": "mse", "prescale": 0.75, "guard": 17 / 16}


def test_every_scaling_reads_back():
    """Quantizers put together at random, as far as they are accepted. Nothing is refused but NaN that has no
    code (left to the elements by a policy, P3109 or te), and e8m0 scales over formats without zero."""
    rng = np.random.default_rng(0)
    families = {k: x.reshape(6, 20) for k, x in adversarial(120).items()}
    special = families["normal"].copy()
    special[[0, 2], [3, 10]] = np.nan, -np.inf
    special[4:] = np.where(np.arange(20) % 3, -np.inf, np.nan)  # blocks without a number in them
    checked = 0
    for _ in range(900):
        parts = {k: rng.choice(v.split()) for k, v in SOME.items() if k == "format" or rng.random() < 0.4}
        parts |= {k: v for k, v in FLAGS.items() if rng.random() < 0.1}
        block = [8, 5, "row", "column", "tensor", (4, 8)][rng.integers(6)]
        try:
            q = dither.Quantizer(
                block=block, scale=0.37 if parts.get("scale_rule") == "static" else None, **parts
            )
        except dither.UserError:
            continue
        x, axis = families[rng.choice(list(families))], int(rng.integers(2))
        for y in (x, x.astype(np.float64) * 1.000001, special):
            try:
                t = dither.quantize(y, q, axis, seed=1)
            except dither.UserError:
                without_zero = q.scale_format == "e8m0" and q.zero_scale == "rule" and not q.format.has_zero
                kept = q.nan == "element" or q.dialect in ("p3109", "te")
                assert without_zero or (y is special and kept), q
                continue
            assert equal(t.dequantize(), dither.fake_quant(y, q, axis, seed=1)), q
            checked += 1
    assert checked > 300


def test_infinity_over_a_scale_of_zero():
    """A block of nothing but infinities has the scale 0 and stores plain zeros, no -0 by a negative code."""
    x = np.array([-np.inf, np.inf], np.float32)
    for name in ("ternary", "int1", "binary4p2sf", "mxint8"):
        q = dither.Quantizer(format=name, block=2, scale_format="fp32", nan="saturate")
        assert equal(dither.quantize(x, q).dequantize(), np.zeros(2, np.float32)), name
        assert equal(dither.fake_quant(x, q), np.zeros(2, np.float32)), name


def test_a_sign_bit_under_powers_of_two():
    """int1 and e8m0 have no zero between them: a block of zeros is stored where a scale is named for it."""
    x = np.array([0, -0.0, 0, 0, 3, -5, 0, 1], np.float32)
    q = dither.Quantizer(format="int1", block=4, scale_format="e8m0")
    with pytest.raises(dither.UserError, match="zero_scale="):
        dither.quantize(x, q)
    t = dither.quantize(x, q.replace(zero_scale="one"))
    assert np.array_equal(t.dequantize(), [1, 1, 1, 1, 4, -4, 4, 4]) and t.codes.nbytes == 1
    assert equal(t.dequantize(), dither.fake_quant(x, q.replace(zero_scale="one")))


@settings(max_examples=80, deadline=None)
@given(
    shape=st.lists(st.integers(0, 40), max_size=4),
    axis=st.integers(0, 3),
    q=st.sampled_from(QUANTIZERS),
    seed=st.integers(0, 2**64 - 1),
    special=st.sampled_from([0.0, np.nan, np.inf]),
)
def test_any_shape_and_axis(shape, axis, q, seed, special):
    axis = axis % len(shape) if shape else 0
    if isinstance(dither.Quantizer(q).block, tuple):  # tiles lie over the last two axes
        axis = max(axis, len(shape) - 2)
    x = np.resize(adversarial(997)["wide"], shape)
    if x.size and dither.Quantizer(q).block is not None:
        x.flat[seed % x.size] = special
    t = dither.quantize(x, q, axis, seed=seed)
    assert equal(t.dequantize(), dither.fake_quant(x, q, axis, seed=seed))
    assert t.nbytes == t.layout.nbytes
    assert t == pickle.loads(pickle.dumps(t)) == copy.deepcopy(t) == dither.quantize(x, q, axis, seed=seed)


def test_the_layout_is_the_documented_one():
    """FP4: first element in the low half of the byte; 3 bits: least significant bit first, across bytes."""
    t = dither.quantize(np.array([[0.5, -6.0, 1.0]], np.float32), "format=e2m1")
    assert t.codes.tolist() == [[0b1111_0001, 0b0000_0010]] and t.scales is None and t.tensor_scale is None
    x = np.array([1, -1, 3, -3, 2, 0, 1, 1, -2], np.float32)
    t = dither.quantize(x, "format=int3")
    number = int.from_bytes(t.codes.tobytes(), "little")
    assert [number >> 3 * i & 7 for i in range(9)] == [int(v) & 7 for v in x] and number >> 27 == 0
    t = dither.quantize(np.array([[6.0] * 32 + [0.0] * 32 + [np.nan] * 5], np.float32), "mxfp4")
    assert t.scales is not None and t.scales.tolist() == [[127, 0, 255]] and t.codes[0, 32:].max() == 0
    t = dither.quantize(np.array([448 * 6.0] * 16 + [np.inf] * 16, np.float32), "nvfp4")
    assert t.scales is not None and t.scales.tolist() == [0x7F, 0x7F] and np.isnan(float(t.tensor_scale or 0))


@pytest.mark.parametrize("q", ["mxfp6_e3m2", "nvfp4", "int3_row", "fp8_e4m3", "format=e3m1", "tf32"])
def test_a_second_reader_gets_the_same_values(q):
    """From the documentation alone, in numpy: codes by bits, scales by their format, one product in fp32."""
    x = np.random.default_rng(0).standard_normal((5, 3, 50)).astype(np.float32)
    for axis in (1, 2):
        t = dither.quantize(x, q, axis)
        width = t.quantizer.format.bits
        single = np.unpackbits(t.codes, axis=-1, bitorder="little")
        assert not single[..., 50 * width :].any()
        grouped = single[..., : 50 * width].reshape(5, 3, 50, width).astype(np.uint32)
        codes = (grouped << np.arange(width, dtype=np.uint32)).sum(axis=-1)
        values = dither.decode(codes, t.quantizer.format)
        scale = np.ones((), np.float32)
        if t.scales is not None:
            scale = (
                t.scales
                if t.scales.dtype == np.float32
                else dither.decode(t.scales, t.quantizer.scale_format or "")
            )
            if t.tensor_scale is not None:
                scale = scale * t.tensor_scale
        if (block := t.quantizer.block) in ("row", 16, 32):
            size = x.shape[axis] if block == "row" else block
            scale = np.repeat(scale, size, axis=axis).take(range(x.shape[axis]), axis=axis)
        assert equal((values * scale).astype(np.float32), t.dequantize())


@pytest.mark.parametrize("preset", ["mxfp6_e2m3", "nvfp4", "int3_g32", "fp4_g32"])
def test_the_reader_of_the_documentation(preset):
    """The numpy lines of docs/packed.md as they stand there."""
    text = (Path(__file__).parents[3] / "docs/packed.md").read_text()
    lines = next(part for part in text.split("```python\n") if "np.unpackbits" in part).split("```")[0]
    x = np.random.default_rng(0).standard_normal((3, 5, 71)).astype(np.float32)
    t = dither.quantize(x, preset)
    names = {"np": np, "dither": dither, "t": t, "q": t.quantizer, "shape": t.shape, "n": 71}
    exec(lines, names | {"width": t.quantizer.format.bits}, names)
    assert equal(names["values"], t.dequantize())


def test_sizes_are_the_bytes_held():
    x = np.zeros((64, 4096), np.float32)
    for q, size in (
        ("mxfp4", 17 / 32),
        ("mxfp8_e4m3", 33 / 32),
        ("mxfp6_e2m3", 25 / 32),
        ("int4_g128", 0.5 + 4 / 128),
    ):
        t = dither.quantize(x, q)
        assert t.nbytes == size * x.size == sum(p.nbytes for p in (t.codes, t.scales) if p is not None)
        assert str(t.nbytes) in repr(t)
    assert dither.quantize(x, "nvfp4").nbytes == x.size * 9 // 16 + 4


def test_dtypes_and_out():
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    t = dither.quantize(x, "mxfp4")
    want = dither.fake_quant(x, "mxfp4")
    assert equal(t.dequantize("fp64"), want.astype(np.float64)) and equal(
        t.to_numpy(np.float16), want.astype(np.float16)
    )
    out = np.empty((4, 64), np.float64)
    assert t.dequantize(out=out) is out and np.array_equal(out, want)
    assert equal(np.asarray(t), want) and np.asarray(t, np.float64).dtype == np.float64
    assert np.array_equal(np.asarray(t.T), want.T) and t.T.shape == (64, 4) and t.T.axis == 0 and t.T.T is t
    half = dither.quantize(x.astype(np.float16), "int8_g32")
    assert equal(
        half.dequantize("fp32"), dither.fake_quant(x.astype(np.float16), "int8_g32", out_dtype="fp32")
    )


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    q=st.sampled_from(
        [
            "mxfp4:block=4",
            "format=int3,block=5",
            "nvfp4",
            "int3_row",
            "fp8_e4m3",
            "tf32",
        ]
    ),
)
def test_slices_are_slices_of_the_values(data, q):
    shape = data.draw(st.lists(st.integers(1, 23), min_size=1, max_size=3))
    axis = data.draw(st.integers(0, len(shape) - 1))
    t = dither.quantize(np.resize(adversarial(997)["normal"], shape), q, axis)
    block = (t.layout.blocks or (1,) * len(shape))[axis]
    index = []
    for i, n in enumerate(shape):
        bound = st.integers(0, n)
        if i == axis and t.layout.blocks:
            low = data.draw(st.integers(0, n // block)) * block
            index.append(slice(low, min(low + block * data.draw(st.integers(0, 5)), n)))
        elif i < len(shape) - 1 and data.draw(st.booleans()):
            index.append(data.draw(st.integers(-n, n - 1)))
        else:
            index.append(
                slice(
                    data.draw(bound),
                    data.draw(bound),
                    None if i == len(shape) - 1 else data.draw(st.sampled_from([None, 2, -1])),
                )
            )
    part = t[tuple(index)]
    assert equal(part.dequantize(), t.dequantize()[tuple(index)])
    assert part == QuantizedTensor(
        q, part.shape, part.axis, "fp32", part.codes, part.scales, part.tensor_scale
    )
    assert (
        part == dither.quantize(part.dequantize(), q, part.axis) or q != "tf32"
    )  # values on the grid keep their codes


def made(t, **changes):
    parts = {"quantizer": t.quantizer, "dtype_word": t.dtype_word, "codes": t.codes, "scales": t.scales}
    return QuantizedTensor(**({"shape": t.shape, "axis": t.axis} | parts | changes))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda t: t[:, 3:40], dither.UserError, r"nearest whole blocks are \[0:64\]"),
        (lambda t: t[:, 32:70], dither.UserError, r"nearest whole blocks are \[32:96\]"),
        (lambda t: t[..., 96:99], dither.UserError, r"\[96:100\]"),
        (lambda t: t[:, 5], dither.UserError, "cut into blocks"),
        (lambda t: t[:, ::2], dither.UserError, "step 1"),
        (lambda t: t[9], IndexError, "out of range"),
        (lambda t: t[0, 0, 0], IndexError, "2 dimensions"),
        (lambda t: t[..., ...], IndexError, "2 dimensions"),
        (lambda t: t[[0, 1]], TypeError, "slices"),
        (lambda t: t[True], TypeError, "slices"),
        (lambda t: dither.quantize(np.ones((3, 8)), "mxfp4", 0)[:, 1], dither.UserError, "rows of bits"),
        (lambda t: dither.quantize(np.ones((2, 2, 8), np.float32), "mxfp4").T, dither.UserError, "use .mT"),
        (lambda t: dither.quantize(np.float32(1), "mxfp4")[0], IndexError, "without dimensions"),
        (lambda t: np.array(t, copy=False), ValueError, "copy=False"),
        (lambda t: hash(t), TypeError, "unhashable"),
        (lambda t: np.ones(100, np.float32) * t, TypeError, "unsupported operand"),
        (lambda t: dither.quantize(np.array([1, np.nan]), "format=e2m1"), dither.UserError, r"at \(1,\)"),
        (lambda t: dither.quantize([1.0], "format=int1,block=4,scale_format=e8m0"), ValueError, "a zero"),
        (lambda t: dither.quantize(np.ones(8, int), "mxfp4"), TypeError, "astype"),
        (lambda t: dither.quantize(np.ones(8), "mxfp4", 1), dither.UserError, "axis 1"),
        (lambda t: dither.quantize(np.ones(8), "mxfp4:rounding=stochastic"), dither.UserError, "seed="),
        (lambda t: t.dequantize("int8"), TypeError, "fp32"),
        (lambda t: t.dequantize(out=np.ones(3)), dither.UserError, "shape"),
        (lambda t: t.dequantize(out=[1.0]), TypeError, "out="),
        (lambda t: t.dequantize("fp64", out=np.empty((4, 100), np.float32)), dither.UserError, "dtype asks"),
        (lambda t: t.codes.__setitem__(0, 1), ValueError, "read-only"),
        (lambda t: made(t, codes=t.codes[:3]), dither.UserError, "codes="),
        (lambda t: made(t, scales=t.scales.astype("f4")), dither.UserError, "scales="),
        (lambda t: made(t, scales=None), dither.UserError, "NoneType"),
        (lambda t: made(t, tensor_scale=1.0), dither.UserError, "has no tensor scale"),
        (lambda t: made(t, dtype_word="int8"), dither.UserError, "dtype_word"),
        (lambda t: made(t, quantizer="format=e2m1"), dither.UserError, "has no scales"),
        (lambda t: made(t, shape=(4.5, 100)), TypeError, "float"),
        (lambda t: t[np.array([True, False, True, False])], TypeError, "indexed by integers, slices"),
        (lambda t: t[None], TypeError, "indexed by integers, slices"),
        (lambda t: t[True], TypeError, "indexed by integers, slices"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(call, error, says):
    with pytest.raises(error, match=says):
        call(dither.quantize(np.ones((4, 100), np.float32), "mxfp4"))


def test_tiles_columns_and_zero_points():
    x = np.random.default_rng(0).standard_normal((3, 40, 50)).astype(np.float32) + 1
    t = dither.quantize(x, "format=int4,block=16x16")
    assert t.scales is not None and t.scales.shape == (3, 3, 4) and t.zero_points is None
    assert equal(t[1:, 16:40, 32:].dequantize(), t.dequantize()[1:, 16:40, 32:])
    with pytest.raises(dither.UserError, match=r"axis 1 \(16 elements each\).*\[0:16\]"):
        t[:, 3:9]
    column = dither.quantize(x, "format=int8,block=column", axis=1)
    assert column.scales is not None and column.scales.shape == (1, 40, 1)
    assert equal(column[:, 5:7].dequantize(), column.dequantize()[:, 5:7])
    with pytest.raises(dither.UserError, match="axis 0"):
        column[1:]
    affine = dither.quantize(x, "format=uint4,block=16,zero_point=true")
    assert affine.zero_points is not None and affine.zero_points.shape == (3, 40, 4)
    assert affine.nbytes == 3 * 40 * (25 + 4 * 4 + 4) and "480 zero points" in repr(affine)
    assert equal(affine[0, :, :32].dequantize(), affine.dequantize()[0, :, :32])
    assert affine == copy.deepcopy(affine) != dither.quantize(x + 1, affine.quantizer)
    first = affine[:1, :1, :16]
    codes = np.unpackbits(first.codes, axis=-1, bitorder="little").reshape(16, 4) @ [1, 2, 4, 8]
    assert first.scales is not None and first.zero_points is not None
    values = (codes - first.zero_points.astype(int).ravel()).astype(np.float32) * first.scales.ravel()
    assert equal(values.astype(np.float32), first.dequantize().ravel())


def test_unequal_in_any_part():
    x = np.ones((4, 64), np.float32)
    t = dither.quantize(x, "mxfp4")
    others = [dither.quantize(y, "mxfp4") for y in (x * 2, -x, x.astype(np.float16))]
    others += [dither.quantize(x, "mxfp4", 0), dither.quantize(x, "mxfp4:scale_rule=ceil"), t[:2], x]
    assert all(t != other for other in others)
    poisoned = dither.quantize(np.full(16, np.nan, np.float32), "nvfp4")
    assert poisoned == copy.deepcopy(poisoned)  # NaN or not, the bits are the same


def test_every_width_has_a_layout():
    for name in formats.names():
        if formats.get(name).bits <= 19:
            layout = Layout(dither.Quantizer(format=name), (3, 11), 1)
            assert layout.codes_shape == (3, -(-11 * layout.width // 8))
