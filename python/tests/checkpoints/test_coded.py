"""Codes that are formed here: asymmetric integers and tiles give the fake-quantized values bit for bit."""

import numpy as np
import pytest

import dither
from dither.checkpoints.coded import check, code, is_coded_here
from dither.checkpoints.layouts import bits
from dither.errors import UserError

ROWS, COLUMNS = 200, 300


def hard() -> np.ndarray:
    """Rows of zeros, of one sign, tiny, huge, subnormal."""
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)) * 0.05 + 0.01
    x[3], x[5, ::2], x[7], x[8] = 0, -0.0, np.abs(x[7]), -np.abs(x[8])
    x[9] *= 1e-30
    x[10] *= 1e37
    x[11] *= 1e-42
    x[128:, 128:256] = 0  # a tile of zeros
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [32, 50, "row", "tensor"])
@pytest.mark.parametrize("width", [8, 4, 3, 2])
def test_asymmetric_integers(width, block, dtype):
    x, q = hard().astype(dtype), dither.Quantizer(format=f"uint{width}", block=block, zero_point=True)
    c = code(x, q, None, 0)
    assert c.scales is not None and c.zero_points is not None and c.zero_points.dtype == np.uint8
    wide = COLUMNS if isinstance(block, str) else block
    scales, zeros = (
        part.reshape(-1, part.shape[-1] if part.ndim else 1).astype(dtype).repeat(wide, 1)[:, :COLUMNS]
        for part in (c.scales, c.zero_points)
    )
    values = (bits.unpack(c.codes, COLUMNS, width).astype(dtype) - zeros) * scales
    want = dither.fake_quant(x, q)
    assert np.array_equal(values, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [(128, 128), (16, 16), (7, 300), (1, 32)])
def test_tiles(block, dtype):
    x, q = hard().astype(dtype), dither.Quantizer(format="e4m3", block=block, scale_format="fp32")
    c = code(x, q, None, 0)
    assert c.scales is not None and c.scales.shape == (-(-ROWS // block[0]), -(-COLUMNS // block[1]))
    scales = c.scales.astype(dtype).repeat(block[0], 0)[:ROWS].repeat(block[1], 1)[:, :COLUMNS]
    values, want = dither.decode(c.codes, "e4m3").astype(dtype) * scales, dither.fake_quant(x, q)
    assert np.array_equal(values, want) and np.array_equal(np.signbit(values), np.signbit(want))


@pytest.mark.parametrize("width", range(1, 9))
@pytest.mark.parametrize("columns", [1, 5, 8, 31, 32, 33])
def test_packing_is_undone_and_turning_high_bits_twice_is_nothing(width, columns):
    codes = np.random.default_rng(0).integers(0, 1 << width, (3, columns), dtype=np.uint8)
    rows = bits.pack(codes, width)
    assert rows.shape == (3, bits.row_bytes(columns, width))
    assert np.array_equal(bits.unpack(rows, columns, width), codes)
    turned = bits.turn_high_bits(rows, columns, width)
    assert np.array_equal(bits.unpack(turned, columns, width), codes ^ (1 << width - 1))
    assert np.array_equal(bits.turn_high_bits(turned, columns, width), rows)
    assert bits.to_words(rows).tobytes()[: rows.shape[1]] == rows[0].tobytes()


def test_halves_are_undone():
    codes = np.random.default_rng(0).integers(0, 16, (3, 96), dtype=np.uint8)
    stored = bits.halves(bits.pack(codes, 4), 32)
    assert np.array_equal(bits.from_halves(stored).reshape(3, 96), codes)
    assert np.array_equal(stored[0, 0], codes[0, :16] | codes[0, 16:32] << 4)


@pytest.mark.parametrize(
    "name",
    ["format=uint4,block=32,zero_point=true,rounding=up", "format=uint4,block=32,zero_point=true,dialect=torchao",
     "format=e4m3,block=16x16,rounding=up", "format=uint4,block=column,zero_point=true",
     "format=uint4,block=8x8,zero_point=true"],
)  # fmt: skip
def test_what_has_no_codes_is_refused(name):
    q = dither.Quantizer(name)
    assert is_coded_here(q)
    with pytest.raises(UserError, match="has no codes for a checkpoint"):
        check(q)
