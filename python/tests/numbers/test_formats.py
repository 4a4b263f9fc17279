"""Formats as values: names, fields, tables of values, what is exact where."""

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest

import dither
from dither import formats
from dither.quantizer import ROUNDINGS, STOCHASTIC

CATALOGUE = formats.names()
ANY = {formats.get(f"e{e}m{m}").name for e in range(1, 9) for m in range(11) if 1 + e + m <= 16}


@pytest.mark.parametrize("name", sorted({n for n in CATALOGUE if formats.get(n).bits <= 16} | ANY))
def test_every_code(name):
    """Codes decode and encode back; NaN, -128 and unused codes have the codes that stand for them."""
    fmt = formats.get(name)
    codes = np.arange(1 << fmt.bits).astype(np.uint8 if fmt.bits <= 8 else np.uint16)
    values = dither.decode(codes, name)
    used = ~np.isnan(values) & (values >= (-np.inf if fmt.has_inf and fmt.signed else fmt.min))
    overflow = "ieee" if fmt.has_inf else "saturate"
    assert np.array_equal(dither.encode(values[used], name, overflow=overflow), codes[used])
    finite = values[used & np.isfinite(values)]
    assert (finite.max(), finite.min()) == (fmt.max, fmt.min)
    assert finite[finite > 0].min() == fmt.min_positive
    assert dither.decode(np.array([fmt.max_code]), name)[0] == fmt.max
    assert (0.0 in finite) == fmt.has_zero and np.isnan(values).any() == fmt.has_nan
    assert np.array_equal(dither.cast(finite, name, overflow=overflow), finite)


@pytest.mark.parametrize("name", [n for n in CATALOGUE if n not in ("fp32", "tf32", "bf16", "fp16")])
def test_every_half_precision_input_into_every_format(name):
    """All fp16 and bf16 inputs, every rounding: the result is one of the two values around the input."""
    fmt = formats.get(name)
    values = dither.decode(np.arange(1 << fmt.bits), name).astype(np.float64)
    table = np.unique(values[np.isfinite(values) & (values >= fmt.min)])
    for half in ("fp16", "bf16"):
        x = dither.decode(np.arange(1 << 16), half)
        x = x[np.isfinite(x)]
        inside = np.clip(x.astype(np.float64), table[0], table[-1])
        hi = table[np.searchsorted(table, inside, "left")]
        lo = table[np.searchsorted(table, inside, "right") - 1]
        for rounding in ROUNDINGS:
            y = dither.cast(x, name, rounding=rounding, seed=3, overflow="saturate").astype(np.float64)
            assert ((y == lo) | (y == hi)).all(), rounding
            if rounding in ("up", "down"):
                assert np.array_equal(y, hi if rounding == "up" else lo)
            if rounding == "nearest_even":
                assert np.array_equal(np.abs(y - inside), np.minimum(hi - inside, inside - lo))


def test_variants_of_one_layout_differ_at_the_top():
    top = {n: formats.get(n).max for n in CATALOGUE if "e4m3" in n or "e5m3" in n}
    assert top == {
        "e4m3": 448,
        "e4m3_480": 480,
        "e4m3_ieee": 240,
        "e4m3fnuz": 240,
        "e4m3b11fnuz": 30,
        "e5m3": 61440,
        "e5m3_114688": 114688,
        "ue5m3": 114688,
        "ue5m3_61440": 61440,
    }
    assert [formats.get(n).min for n in ("mxint8", "mxint8_full", "uint4")] == [-127 / 64, -2, 0]


def test_a_codebook_rounds_to_its_nearest_entry():
    table = [-1.0, -0.5, 0.0, 0.125, 3.0]
    fmt = formats.codebook(table)
    assert (fmt.name, fmt.bits, fmt.kind) == ("codebook_-1_-0.5_0_0.125_3", 3, "codebook")
    assert formats.get(fmt.name) == fmt and formats.codebook(iter(table)) == fmt
    x = np.random.default_rng(0).uniform(-1.5, 4, 1000).astype(np.float32)
    nearest = np.array(table)[np.abs(x[:, None].astype(float) - table).argmin(axis=1)]
    assert np.array_equal(dither.cast(x, fmt), nearest)
    assert np.isnan(dither.decode(np.array([5, 7]), fmt)).all()
    with pytest.raises(dither.UserError, match="no code"):
        dither.encode(np.array([np.nan], np.float32), fmt)


def in_fractions(table: list[float], x: float, mode: str, r: int, n: int) -> float:
    """A table's rounding as docs/numbers.md states it, with exact fractions."""
    low, high = max(v for v in table if v <= x), min(v for v in table if v >= x)
    if low == high:
        return low
    near, far = (high, low) if high <= 0 else (low, high)
    v = (Fraction(x) - Fraction(near)) / (Fraction(far) - Fraction(near))
    even, half = table.index(near) % 2 == 0, Fraction(1, 2)
    scaled = v * 2**n
    whole, rest = floor(scaled), scaled - floor(scaled)
    away = {
        "nearest_even": v > half or (v == half and not even),
        "nearest_away": v >= half,
        "toward_zero": x >= 0 if low < 0 < high else False,
        "up": far > near,
        "down": far < near,
        "to_odd": even,
        "stochastic_a": whole + r >= 2**n,
        "stochastic": floor(v * 2 ** (n + 1)) + 2 * r + 1 >= 2 ** (n + 1),
        "stochastic_c": whole + (rest > half or (rest == half and whole % 2 == 1)) + r >= 2**n,
    }[mode]
    return far if away else near


def tables() -> list[list[float]]:
    rng = np.random.default_rng(6)
    drawn = [rng.standard_normal(n) * 10.0 ** rng.integers(-3, 4, n) for n in (2, 3, 5, 16, 40)]
    drawn = [np.append(np.unique(t.astype(np.float32)), np.float32(7)) for t in drawn]
    return [[float(v) for v in rng.permutation(t)] for t in drawn] + [[1.0, -1.0], [0.0, 1.0, 3.0, -2.0]]


@pytest.mark.parametrize("mode", ROUNDINGS)
def test_codebooks_in_exact_fractions(mode):
    """Random tables of up to 41 entries, on, between and just beside their values."""
    rng = np.random.default_rng(7)
    for table in tables():
        fmt = formats.codebook(table)
        grid = np.sort(table)
        middle = (grid[1:] + grid[:-1]) / 2
        quarter = grid[:-1] + np.diff(grid) * rng.choice([0.25, 0.75, 0.5, 1 / 3, 1e-9], len(middle))
        x = np.concatenate(
            [grid, middle, quarter, rng.uniform(grid[0], grid[-1], 20), [0.0, 5e-324, -5e-324]]
        )
        x = np.concatenate([x, np.nextafter(x, np.inf), np.nextafter(x, -np.inf)])
        x = x[(x >= grid[0]) & (x <= grid[-1])]
        for n in (1, 4, 32):
            r = rng.integers(0, 2**n, x.shape)
            given = {"random": r, "bits": n} if mode in STOCHASTIC else {}
            got = dither.cast(x, fmt, rounding=mode, **given)
            expected = [in_fractions(table, float(v), mode, int(k), n) for v, k in zip(x, r, strict=True)]
            assert np.array_equal(got, expected), (fmt.name, n)


def test_a_codebook_under_a_scale_is_described_by_its_print():
    q = dither.Quantizer(format=formats.codebook([-1, 0, 0.3, 1]), block=16)
    assert str(q) == "format=codebook_-1_0_0.3_1,block=16,scale_format=fp32" and dither.Quantizer(str(q)) == q
    x = np.random.default_rng(1).standard_normal((4, 32)).astype(np.float32)
    y = dither.fake_quant(x, q)
    scale = np.abs(x.reshape(4, 2, 16)).max(axis=2, keepdims=True)
    entries = np.array([-1, 0, np.float32(0.3), 1], np.float32)
    assert np.isin(y.reshape(4, 2, 16), scale * entries).all()
    assert not q.clips and dither.Quantizer(format=formats.codebook([-0.5, 1]), block=16).clips
    assert dither.Quantizer(format="uint4", block=16).clips
    nf4 = dither.fake_quant(x, dither.Quantizer(format="nf4", block=64))
    assert dither.error_stats(x, "format=nf4,block=64")["mse"] == pytest.approx(((nf4 - x) ** 2).mean())


@pytest.mark.parametrize(
    "values", [[1], [], [1, 1], [0, -1], [np.nan, 1], [np.inf, 1], range(257), [1e-30, 1], [1e39, 0]]
)
def test_what_is_no_codebook(values):
    with pytest.raises(dither.UserError, match="a codebook holds 2 to 256"):
        formats.codebook(values)


SCALINGS: list[dict[str, Any]] = [
    {},
    {"block": 32, "scale_format": "e8m0", "scale_rule": "ceil"},
    {"block": 16, "scale_format": "e4m3", "tensor_scale": True},
    {"block": "row", "scale_format": "fp32"},
    {"block": "tensor", "scale_format": "ue5m3"},
    {"block": (2, 16), "scale_format": "fp32"},
]


@pytest.mark.parametrize("rounding", ["nearest_even", "to_odd", "stochastic_c"])
@pytest.mark.parametrize(
    "name", [*CATALOGUE, "codebook_0_0.5_2", "binary16p5se", "binary3p1ue", "binary5p5uf"]
)
def test_every_format_under_every_scaling(name, rounding):
    """Results are neighbours of the input, and what can be stored is read back as it was, on ordinary, tiny,
    huge, zero and poisoned blocks."""
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((6, 70)) * 2.0 ** rng.integers(-6, 7, (6, 70))).astype(np.float32)
    x[0] = 0
    x[1], x[2] = x[1] * np.float32(1e-30), x[2] * np.float32(1e30)
    poisoned = x.copy()
    poisoned[3, 3], poisoned[4, 60] = np.nan, np.inf
    for scaling in SCALINGS:
        q = dither.Quantizer(format=name, rounding=rounding, **scaling)
        for values in (x, poisoned):
            y = dither.fake_quant(values, q, seed=1)
            lo, hi = dither.neighbours(values, q)
            infinite = np.isinf(y) if q.overflow == "ieee" else np.isinf(values)
            # Under other scales the quotient is rounded first, which can cost a step.
            if q.scale_format in (None, "e8m0"):
                assert ((y == lo) | (y == hi) | np.isnan(lo) | infinite).all(), str(q)
        try:
            packed = dither.quantize(x, q, seed=1)
        except dither.UserError as refusal:
            assert "cannot be stored" in str(refusal)
            continue
        assert np.array_equal(packed.dequantize(), dither.fake_quant(x, q, seed=1)), str(q)


def test_stochastic_b_is_another_name_of_stochastic():
    q = dither.Quantizer("mxfp4", rounding="stochastic_b")
    assert q == dither.Quantizer("mxfp4", rounding="stochastic") and q.is_stochastic
    for rounding in ("stochastic_a", "stochastic_c"):
        q = dither.Quantizer("mxfp4", rounding=rounding)
        assert str(q) == f"mxfp4:rounding={rounding}" and q.is_stochastic and dither.Quantizer(str(q)) == q
    assert not dither.Quantizer("mxfp4", rounding="to_odd").is_stochastic


def test_to_odd_makes_a_second_rounding_harmless():
    """Boldo and Melquiond (2008): to odd with two digits more, then to nearest, is to nearest at once."""
    x = np.random.default_rng(2).standard_normal(100_000).astype(np.float32)
    through = dither.cast(dither.cast(x, "e8m9", rounding="to_odd"), "bf16")
    assert np.array_equal(through, dither.cast(x, "bf16"))
    twice = dither.cast(dither.cast(x, "e8m9"), "bf16")
    assert not np.array_equal(twice, dither.cast(x, "bf16"))


def test_exact_in():
    table = {"nf4": [], "ternary": ["fp16", "bf16"], "binary8p1uf": ["bf16"], "e5m3_114688": ["bf16"]}
    table |= {"uint8": ["fp16", "bf16"], "mxint8_full": ["fp16", "bf16"], "binary12p9se": ["fp16"]}
    for name, carriers in table.items():
        assert [c for c in ("fp16", "bf16") if formats.get(name).exact_in(c)] == carriers, name
    assert dither.decode(np.array([1]), "binary16p5se").dtype == np.float64
    assert dither.decode(np.array([1]), "binary16p8se").dtype == np.float32
