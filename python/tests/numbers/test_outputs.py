"""out= of quantize and of matmul: what is written over, and what is refused."""

import numpy as np
import pytest
import torch

import dither
from dither.nn.packed import PackedTensor

PRESETS = ["mxfp4", "nvfp4", "int4_g32", "uint4", "fp8_e4m3", "fp8_128x128", "format=e3m2"]
SPECS = {"uint4": "format=uint4,block=32,scale_format=fp32,zero_point=true"}


@pytest.fixture(params=[np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def array(request):
    return request.param


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def parts_of(t):
    return t.parts if isinstance(t, PackedTensor) else t.parts()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_packed_array_is_written_over(array, preset):
    q = SPECS[preset] if preset in SPECS else preset
    old, new = array(normal(3, 100)), array(normal(3, 100, seed=1) * 40)
    t = dither.quantize(old, q)
    places = {name: np.asarray(part).ctypes.data for name, part in parts_of(t).items()}
    assert dither.quantize(new, q, out=t) is t
    want = parts_of(dither.quantize(new, q))
    for name, part in parts_of(t).items():
        assert np.asarray(part).tobytes() == np.asarray(want[name]).tobytes()
        assert np.asarray(part).ctypes.data == places[name]


def test_every_part_of_the_layout_must_fit(array):
    x = array(normal(4, 64))
    t = dither.quantize(x, "nvfp4")
    refused = [
        (x, "mxfp4", {}, "the quantizer nvfp4"),
        (x[:2], "nvfp4", {}, "the shape"),
        (x, "nvfp4", {"axis": 0}, "the axis"),
        (array(normal(4, 64).astype(np.float16)), "nvfp4", {}, "values of fp32"),
    ]
    before = {name: np.asarray(part).tobytes() for name, part in parts_of(t).items()}
    for given, q, more, says in refused:
        with pytest.raises(dither.UserError, match=says):
            dither.quantize(given, q, out=t, **more)
    for out in (x, t.codes, "t"):
        with pytest.raises(TypeError, match="as a first call returns it"):
            dither.quantize(x, "nvfp4", out=out)
    assert before == {name: np.asarray(part).tobytes() for name, part in parts_of(t).items()}


def test_packed_memory_that_cannot_be_written():
    x = normal(4, 64)
    t = dither.quantize(x, "nvfp4")
    with pytest.raises(dither.UserError, match="read-only"):  # its tensor scale is that of the rest too
        dither.quantize(x[:2], "nvfp4", out=t[:2])
    locked = dither.QuantizedTensor("nvfp4", t.shape, 1, "fp32", **t.parts())
    with pytest.raises(dither.UserError, match="read-only"):
        dither.quantize(x, "nvfp4", out=locked)
    with pytest.raises(ValueError, match="read-only"):
        t.codes[0, 0] = 1
    own = {name: part.copy() for name, part in t.parts().items()}
    mine = dither.QuantizedTensor("nvfp4", t.shape, 1, "fp32", **own)
    dither.quantize(2 * x, "nvfp4", out=mine)
    assert own["tensor_scale"] == 2 * t.tensor_scale and mine == dither.quantize(2 * x, "nvfp4")


def test_input_and_bits_lie_apart_from_packed_memory(array):
    memory = array(np.zeros(64, np.float32))
    codes = memory[:16].view(array(np.zeros(1, np.uint8)).dtype)
    sr = "format=e4m3,rounding=stochastic"
    t = dither.quantize(array(np.ones(64, np.float32)), sr, seed=0)
    if isinstance(t, PackedTensor):
        t = PackedTensor(t.packing, "fp32", torch.float32, {"codes": codes})
    else:
        t = dither.QuantizedTensor(sr, (64,), 0, "fp32", codes)
    with pytest.raises(dither.UserError, match="overlaps the input"):
        dither.quantize(memory, sr, seed=0, out=t)
    with pytest.raises(dither.UserError, match="overlaps random="):
        dither.quantize(array(np.ones(64, np.float32)), sr, random=codes, out=t)


SHAPES = [
    ((5, 64), (64, 7)),
    ((64,), (64, 7)),
    ((5, 64), (64,)),
    ((64,), (64,)),
    ((3, 5, 64), (64, 7)),
    ((2, 1, 5, 64), (3, 64, 7)),
    ((0, 64), (64, 7)),
    ((5, 0), (0, 7)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
@pytest.mark.parametrize("q", [None, "mxfp4"])
def test_products_are_written_where_asked(array, a, b, q):
    a, b = array(normal(*a)), array(normal(*b, seed=1))
    want = dither.matmul(a, b, q, q)
    out = array(np.full(want.shape, 9, np.float32))
    assert dither.matmul(a, b, q, q, out=out) is out
    assert np.array_equal(np.asarray(out), np.asarray(want))
    half = array(np.full(want.shape, 9, np.float16))
    dither.matmul(a, b, q, q, out=half)
    rounded = dither.matmul(a, b, q, q, out_dtype="fp16")
    assert np.array_equal(np.asarray(half), np.asarray(rounded))


def test_products_of_packed_operands_are_written_where_asked(array):
    x, w = array(normal(5, 64)), dither.quantize(array(normal(7, 64)), "mxfp4")
    out = array(np.empty((5, 7), np.float32))
    assert dither.matmul(x, w.T, out=out) is out
    assert np.array_equal(np.asarray(out), np.asarray(dither.matmul(x, w.T)))


def test_places_that_do_not_fit_products(array):
    a, b = array(normal(8, 8)), array(normal(8, 8, seed=1))
    good = array(np.empty((8, 8), np.float32))
    refused = [
        (array(np.empty((8, 7), np.float32)), dither.UserError, "the result \\(8, 8\\)"),
        (good.T, dither.UserError, "contiguous"),
        (array(np.empty((8, 8), np.int32)), TypeError, "float"),
        ([1.0], TypeError, "out="),
        (a, dither.UserError, "overlaps an operand"),
        (b, dither.UserError, "overlaps an operand"),
    ]
    for out, error, says in refused:
        with pytest.raises(error, match=says):
            dither.matmul(a, b, out=out)
    with pytest.raises(dither.UserError, match="out_dtype"):
        dither.matmul(a, b, out=good, out_dtype="fp16")
    strided = array(np.ones((8, 64), np.float32))
    with pytest.raises(dither.UserError, match="overlaps an operand"):  # read in place, by its strides
        dither.matmul(strided[:, :8], b, out=strided[7, :].reshape(8, 8))


def test_a_product_is_not_written_over_its_packed_operand():
    for share in (False, True):
        w = dither.quantize(torch.ones(8, 32), "format=e4m3")
        assert isinstance(w, PackedTensor)
        out = w.codes.view(torch.float32)
        operand = w.quantized if share else w
        with pytest.raises(dither.UserError, match="overlaps an operand"):
            dither.matmul(operand, torch.ones(32, 8), out=out)
    codes = np.zeros((8, 32), np.uint8)
    t = dither.QuantizedTensor("format=e4m3", (8, 32), 1, "fp32", codes)
    with pytest.raises(dither.UserError, match="overlaps an operand"):
        dither.matmul(np.ones((8, 32), np.float32), t.T, out=codes.view(np.float32))
    locked = np.empty((8, 8), np.float32)
    locked.flags.writeable = False
    with pytest.raises(dither.UserError, match="read-only"):
        dither.matmul(np.ones((8, 32), np.float32), t.T, out=locked)
