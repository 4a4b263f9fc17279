"""Addressed random bits: golden vectors, the stated probability, independence from threads and shape."""

from typing import Any

import numpy as np
import pytest

import dither
from dither import _core

# Never to be changed: (seed, stream, index, bits) -> R. The words of counter 0 under key 0 are Random123's
# published known answer 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
GOLDEN = [
    ((0, 0, 0, 32), 0x6627E8D5),
    ((0, 0, 0, 8), 0xD5),
    ((0, 0, 16, 8), 0xE8),
    ((0, 0, 48, 8), 0x66),
    ((0, 0, 64, 8), 0x8D),
    ((0, 0, 192, 8), 0xD8),
    ((0, 0, 16, 16), 0x6627),
    ((0, 0, 16, 12), 0x27E),
]


def philox_words(seed: int, stream: int, counter: int) -> list[int]:
    """The words of one counter, from the definition of Philox4x32-10 in plain Python."""
    mask = 0xFFFFFFFF
    key = [seed & mask, seed >> 32]
    c = [counter & mask, counter >> 32, stream & mask, stream >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ key[0], b & mask, (a >> 32) ^ c[3] ^ key[1], a & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return c


def expected_bits(seed: int, stream: int, index: int, n: int) -> int:
    per_word = 32 // n
    tile, j = divmod(index, 64 * per_word)
    lane, g = j % 16, j // 16
    word = philox_words(seed, stream, (16 * tile + lane) % 2**64)[g // per_word]
    return (word >> (n * (g % per_word))) & (2**n - 1)


@pytest.mark.parametrize(("address", "value"), GOLDEN)
def test_golden_vectors(address, value):
    assert _core.random_bits(*address) == value


def test_address_formula():
    rng = np.random.default_rng(0)
    for n in range(1, 33):
        for _ in range(40):
            seed, stream, index = (int(v) for v in rng.integers(0, 2**63, 3))
            assert _core.random_bits(seed, stream, index % 2**50, n) == expected_bits(
                seed, stream, index % 2**50, n
            )


@pytest.mark.parametrize("n", [1, 5, 8, 12, 16, 24, 32])
@pytest.mark.parametrize("preset", ["mxfp4", "bf16", "int4_g32"])
def test_addressed_equals_given_bits(preset, n):
    """What the address gives is what `random=` takes: element i of the array reads index offset + i."""
    x = np.random.default_rng(n).standard_normal((3, 130)).astype(np.float32)
    q = dither.Quantizer(preset, rounding="stochastic", bits=n)
    seed, stream, offset = 123456789123, 2**63 + 5, 2**33 + 11
    r = [_core.random_bits(seed, stream, offset + i, n) for i in range(x.size)]
    given = np.array(r, np.uint32).reshape(x.shape)
    addressed = dither.fake_quant(x, q, seed=seed, stream=stream, offset=offset)
    assert np.array_equal(addressed, dither.fake_quant(x, q, random=given))
    columns = dither.fake_quant(x, q, axis=0, seed=seed, stream=stream, offset=offset)
    assert np.array_equal(columns, dither.fake_quant(x, q, axis=0, random=given))


def test_stochastic_b_formula():
    """Round away iff floor(v 2^(N+1)) + 2R + 1 >= 2^(N+1), for every R of 6 bits and many v."""
    v = np.arange(64) / 64
    x = np.repeat((16 + 2 * v).astype(np.float32), 64)  # e4m3 has spacing 2 in [16, 32)
    r = np.tile(np.arange(64), 64)
    q = dither.Quantizer(format="e4m3", rounding="stochastic", bits=6)
    away = np.floor(np.repeat(v, 64) * 128) + 2 * r + 1 >= 128
    assert np.array_equal(dither.fake_quant(x, q, random=r), np.where(away & (np.repeat(v, 64) > 0), 18, 16))


@pytest.mark.parametrize("preset", ["mxfp4:scale_rule=rceil", "int4_g32", "fp8_e4m3", "bf16"])
def test_stochastic_rounding_is_unbiased(preset):
    """Mean of 4096 draws of 256 elements. A bias of 1 % of the spacing would be found: the standard error of
    the mean over all elements is below 0.5 / sqrt(4096 * 256) = 0.0005 spacings, and 8 bits truncate at most
    2^-9 of a spacing."""
    q = dither.Quantizer(preset, rounding="stochastic")
    x = np.random.default_rng(5).uniform(-1, 1, 256).astype(np.float32)
    lo, hi = dither.neighbours(x, q)
    draws = dither.fake_quant(np.tile(x, (4096, 1)), q, seed=7)
    assert (np.isin(draws, lo) | np.isin(draws, hi)).all()
    inside = hi > lo
    error = (draws.mean(axis=0, dtype=np.float64) - x)[inside] / (hi - lo)[inside]
    assert abs(error.mean()) < 0.0005 * 4 + 2.0**-9 / 2
    assert np.abs(error).max() < 6 * 0.5 / np.sqrt(4096) + 2.0**-9


def test_streams_seeds_and_offsets_differ():
    x = np.full(4096, 1.05, np.float32)
    base: dict[str, Any] = {"rounding": "stochastic", "seed": 1}
    a = dither.cast(x, "e4m3", **base)
    for other in ({"seed": 2}, {"stream": 1}, {"offset": 1}, {"seed": 1 << 40}, {"stream": 1 << 40}):
        given: dict[str, Any] = base | other
        assert (dither.cast(x, "e4m3", **given) != a).mean() > 0.2
    assert np.array_equal(dither.cast(x[100:], "e4m3", offset=100, **base), a[100:])


def test_stochastic_rounding_needs_an_address():
    x = np.ones(4, np.float32)
    q = dither.Quantizer("mxfp4", rounding="stochastic")
    with pytest.raises(ValueError, match="needs seed="):
        dither.fake_quant(x, q)
    with pytest.raises(dither.UserError, match="64"):
        dither.fake_quant(x, q, seed=-1)
    with pytest.raises(dither.UserError, match="one integer an element"):
        dither.fake_quant(x, q, random=np.zeros(3, int))
    with pytest.raises(dither.UserError, match="2\\*\\*8"):
        dither.fake_quant(x, q, random=np.full(4, 256))
