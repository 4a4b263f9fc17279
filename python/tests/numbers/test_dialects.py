"""Dialects and policies whose libraries do not run here, or that are papers' rules: against scalar references
written from the rules ("by rule, not executed")."""

from fractions import Fraction

import numpy as np
import pytest
import rational
from data import adversarial, bits
from test_edge_blocks import EDGES

import dither
from dither import Quantizer

f = np.float32
FORMATS = {"e4m3": (4, 5, 448.0), "e5m2": (5, 4, 57344.0), "e3m2": (3, 4, 28.0), "e2m3": (2, 5, 7.5)}
FORMATS |= {
    "e2m1": (2, 3, 6.0),
    "mxint8": (0, 8, 1.984375),
}  # exponent bits, bits with sign and hidden one, max


def blocks(n: int = 96) -> np.ndarray:
    """Rows of 32: the edge blocks, and some of every family."""
    rows = [np.resize(x, 32) for x in EDGES.values()]
    rows += [x[:n].reshape(-1, 32)[i] for x in adversarial(n).values() for i in range(n // 32)]
    return np.stack(rows).astype(f)


def kernel_element(x: np.float32, fmt: str, rounding: str) -> np.float32:
    """One element of microxcaling's kernel: exponent and significand as integers, shifted and rounded."""
    ebits, width, top = FORMATS[fmt]
    pattern = int(f(x).view(np.uint32))
    sign, field, significand = pattern >> 31, pattern >> 23 & 255, pattern & 0x7FFFFF
    normal = field > 0
    significand |= normal << 23
    held, kept = (24 if normal else 23), width - 1
    bias = (1 << (ebits - 1)) - 1 if ebits else 1
    lost = min(max(1 - (field - 127 + bias), 0), 24) + held - kept  # bits below the element's last one
    whole, rest = significand >> lost, significand & ((1 << lost) - 1)
    half = 1 << (lost - 1)
    if rounding == "nearest_away":
        whole += rest >= half
    elif rounding == "nearest_even":
        whole += rest > half or (rest == half and whole & 1)
    if whole == 0:
        return f(0.0)  # whatever the sign
    value = min(float(whole) * 2.0 ** (lost + max(field, 1) - 127 - 23), top)
    return f(-value if sign else value)


def kernel_block(x: np.ndarray, fmt: str, rounding: str) -> np.ndarray:
    """microxcaling's kernel on a block: the largest exponent field decides; 255 makes the scale NaN."""
    shared = int((x.view(np.uint32) >> 23 & 255).max())
    if shared == 255:
        return np.full(len(x), np.nan, f)
    emax = int(np.log2(FORMATS[fmt][2])) if fmt != "mxint8" else 0
    scale = f(2.0 ** (max(shared - emax, 0) - 127))
    return np.array([kernel_element(v / scale, fmt, rounding) * scale for v in x], f)


@pytest.mark.parametrize("rounding", ["nearest_away", "nearest_even", "toward_zero"])
@pytest.mark.parametrize("fmt", FORMATS)
def test_microxcaling_by_rule(fmt, rounding):
    x = blocks()
    q = Quantizer(format=fmt, block=32, dialect="microxcaling", rounding=rounding)
    assert q.scale_format == "e8m0"
    got = dither.fake_quant(x, q)
    for row, ours in zip(x, got, strict=True):
        theirs = kernel_block(row, fmt, rounding)
        assert np.array_equal(bits(ours), bits(theirs)), (row, ours, theirs)


def te_block(x: np.ndarray, fmt: str) -> np.ndarray:
    """Transformer Engine's MXFP8 on a block: fmaxf passes over NaN, amax * (1 / max) is rounded up."""
    top = FORMATS[fmt][2]
    amax = f(np.nanmax(np.abs(x))) if not np.isnan(x).all() else f(0)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = amax * (f(1) / f(top))
        code = 254 if np.isinf(wanted) else 0
        while code < 254 and f(2.0 ** (code - 127)) < wanted:
            code += 1
        factor = f(1) if code == 0 else f(2.0 ** (127 - code))
        out = []
        for v in x:
            z = v * factor
            table = rational.magnitudes(fmt)
            r = f(rational.nearest_even(Fraction(float(min(abs(z), f(top)))), table)) if z == z else f(np.nan)
            out.append(np.copysign(r, v) * f(2.0 ** (code - 127)))
    return np.array(out, f)


@pytest.mark.parametrize("fmt", ["e4m3", "e5m2", "e2m1"])
def test_te_mx_by_rule(fmt):
    x = blocks(64)
    q = Quantizer(format=fmt, block=32, scale_format="e8m0", dialect="te")
    got = dither.fake_quant(x, q)
    for row, ours in zip(x, got, strict=True):
        assert np.array_equal(bits(ours), bits(te_block(row, fmt))), (row, ours, te_block(row, fmt))


def test_te_clips_what_a_rounded_reciprocal_hides():
    """amax * fl(1/448) can round down to a power of two: then the largest element is just above 448."""
    near = (f(448) * f(2.0**10)).view(np.int32) + np.arange(-4, 5)
    for peak in near.astype(np.int32).view(f):
        x = np.full(32, peak, f)
        assert np.array_equal(dither.fake_quant(x, "mxfp8_e4m3:dialect=te"), te_block(x, "e4m3"))


def p3109_block(x: np.ndarray, fmt: str, rule: str) -> np.ndarray:
    """P3109 v4.0 ConvertToBlockMaxAbsFinite with a power-of-two scale."""
    numbers = [abs(Fraction(float(v))) for v in x if np.isfinite(v)]
    peak = max(numbers, default=Fraction(0))
    table = rational.magnitudes(fmt)
    if peak == 0:
        scale = Fraction(0)
    else:
        low = Fraction(2) ** rational.floor_log2(peak)
        up = {"floor": False, "ceil": peak > low, "absmax": peak - low >= low / 2}[rule]
        scale = min(max(low * (2 if up else 1), Fraction(2) ** -127), Fraction(2) ** 127)
    out = []
    for v in x:
        if np.isfinite(v):
            z = (
                Fraction(0)
                if scale == 0
                else rational.nearest_even(Fraction(float(v)) / scale, table) * scale
            )
            out.append(rational.result(fmt, float(v), z))
        else:
            out.append(f(v) if fmt == "e5m2" and np.isinf(v) else f(np.nan))
    return np.array(out, f)


@pytest.mark.parametrize("rule", ["absmax", "floor", "ceil"])
@pytest.mark.parametrize("fmt", ["e4m3", "e5m2", "e2m1"])
def test_p3109_by_rule(fmt, rule):
    """The scale is the largest finite magnitude itself; a tie between two powers of two takes the larger."""
    q = Quantizer(format=fmt, block=32, scale_format="e8m0", dialect="p3109", scale_rule=rule)
    x = blocks(64)
    got = dither.fake_quant(x, q)
    for row, ours in zip(x, got, strict=True):
        expected = p3109_block(row, fmt, rule)
        assert np.array_equal(bits(ours), bits(expected)), (row, ours, expected)


@pytest.mark.parametrize("scale_format", ["binary8p1uf", "binary8p3uf", "binary8p5ue"])
def test_p3109_scales_in_its_own_formats(scale_format):
    """The project's own P3109 formats hold the scale; a tie of two powers of two takes the even exponent."""
    q = Quantizer(format="binary8p4se", block=32, scale_format=scale_format, dialect="p3109")
    assert Quantizer(str(q)) == q
    assert Quantizer(format="binary8p4se", block=32, dialect="p3109").scale_format == "binary8p1uf"
    x = blocks(64)
    x = x[np.isfinite(x).all(axis=1)]
    for row, ours in zip(x, dither.fake_quant(x, q), strict=True):
        scale = float(dither.cast(np.abs(row).max(keepdims=True), scale_format)[0])
        if scale == 0:
            assert not ours.any()
            continue
        z = dither.cast(
            row.astype(float) / scale, "binary8p4se"
        )  # fp64: the quotient decides as the exact one
        assert np.array_equal(ours, (z * scale).astype(f))


def test_p3109_divides_by_the_scale_exactly():
    """Under an fp32 scale: the quotient is rounded once, to the element, and not to fp32 before."""
    x = adversarial()["normal"].reshape(-1, 16)
    q = Quantizer(format="e4m3", block=16, scale_format="fp32", dialect="p3109", scale_rule="absmax")
    table = rational.magnitudes("e4m3")
    for row, ours in zip(x[:40], dither.fake_quant(x[:40], q), strict=True):
        scale = max(abs(Fraction(float(v))) for v in row)
        expected = [
            rational.result(
                "e4m3", float(v), rational.nearest_even(Fraction(float(v)) / scale, table) * scale
            )
            for v in row
        ]
        assert np.array_equal(bits(ours), bits(np.array(expected)))
        assert np.abs(ours).max() == float(scale)  # the largest element is 1


def test_cudnn_rounds_the_block_scale_up():
    x = adversarial()["wide"].reshape(-1, 32)
    cudnn = dither.fake_quant(x, "nvfp4:dialect=cudnn")
    assert np.array_equal(bits(cudnn), bits(dither.fake_quant(x, "nvfp4:scale_rule=rceil")))
    assert not np.array_equal(cudnn, dither.fake_quant(x, "nvfp4"))


def test_nothing_but_the_named_dialects_differs():
    """On ordinary numbers (no ties, no zeros, no clipping) ocp, torchao and microxcaling agree."""
    x = np.random.default_rng(2).uniform(1.0, 1.7, (40, 32)).astype(f)
    plain = dither.fake_quant(x, "mxfp8_e4m3")
    for dialect in ("torchao", "microxcaling"):
        assert np.array_equal(dither.fake_quant(x, Quantizer("mxfp8_e4m3", dialect=dialect)), plain)
