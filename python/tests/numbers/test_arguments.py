"""Arguments that are given together, and what a call remembers of those before it."""

import numpy as np
import pytest
import torch

import dither
from dither.arguments import as_cast
from dither.quantizer import parse

SR = "mxfp4:rounding=stochastic"


@pytest.fixture(params=[np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def array(request):
    return request.param


@pytest.mark.parametrize("address", [{"seed": 0}, {"stream": 3}, {"offset": 1}])
@pytest.mark.parametrize("call", [dither.fake_quant, dither.quantize, dither.error_stats])
def test_given_bits_have_no_address(array, address, call):
    x, bits = array(np.ones((2, 32), np.float32)), array(np.zeros((2, 32), np.int32))
    with pytest.raises(dither.UserError, match=f"{next(iter(address))}= and random="):
        call(x, SR, random=bits, **address)


@pytest.mark.parametrize("call", [dither.fake_quant, dither.quantize, dither.error_stats])
def test_bits_for_a_rounding_that_reads_none_are_refused_and_an_address_is_not(array, call):
    x, bits = array(np.ones((2, 32), np.float32)), array(np.zeros((2, 32), np.int32))
    with pytest.raises(dither.UserError, match="rounds nearest_even and reads no random bits"):
        call(x, "mxfp4", random=bits)
    call(x, "mxfp4", seed=1, stream=2, offset=3)


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.uint8, np.float32, np.complex64])
def test_bits_out_of_range_never_wrap_into_it(array, dtype):
    """2**63 and above are negative as int64; fractions and imaginary parts are no bits."""
    x = array(np.ones(32, np.float32))
    highest = {np.uint64: 2**64 - 1, np.int64: 2**32}.get(dtype, 3)
    bits = array(np.full(32, highest, dtype))
    if dtype == np.uint8:
        assert dither.fake_quant(x, SR, random=bits).shape == (32,)
        return
    with pytest.raises(dither.UserError, match="random= holds"):
        dither.fake_quant(x, SR, random=bits)


@pytest.mark.parametrize("other", [{"seed": 0}, {"stream": 3}, {"random": np.zeros(32, np.int32)}])
def test_a_tensor_of_the_position_stands_alone(other):
    with pytest.raises(dither.UserError, match="give it alone"):
        dither.fake_quant(torch.ones(32), SR, **{"rng": torch.zeros(2, dtype=torch.int64)}, **other)


def test_out_is_not_the_given_bits(array):
    """The element and its bits may lie in different lanes of a kernel, which would read what it wrote."""
    memory = array(np.zeros(64, np.int32))
    bits, floats = memory[:32], memory.view(array(np.ones(1, np.float32)).dtype)
    x = array(np.ones(32, np.float32))
    for out in (floats[:32], floats[16:48]):
        with pytest.raises(dither.UserError, match="overlaps random="):
            dither.fake_quant(x, SR, random=bits, out=out)
    dither.fake_quant(x, SR, random=bits, out=floats[32:])
    words = array(np.zeros(32, np.uint8))
    with pytest.raises(dither.UserError, match="overlaps random="):
        dither.encode(x, "e4m3", rounding="stochastic", random=words, out=words)


def test_texts_are_parsed_once():
    assert parse(SR) is parse(SR) == dither.Quantizer(SR)
    assert as_cast("e4m3", "up", None, None) is as_cast("e4m3", "up", None, None)
    assert parse.cache_info().maxsize  # it forgets, where names are made without end


@pytest.mark.parametrize("bits", [True, 1.5, [8]])
def test_what_equals_a_number_is_not_one(bits):
    """A cache finds True where 1 was remembered, and takes no list."""
    x = np.ones(4, np.float32)
    dither.cast(x, "e4m3", rounding="stochastic", bits=1, seed=0)
    with pytest.raises(dither.UserError, match="bits="):
        dither.cast(x, "e4m3", rounding="stochastic", bits=bits, seed=0)
