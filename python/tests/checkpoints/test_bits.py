"""Codes between the layouts: packing and its inverse, offset binary, ggml's halves."""

import numpy as np
import pytest

from dither.checkpoints.layouts import bits


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
