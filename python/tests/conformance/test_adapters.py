"""The adapters that come with dither: what the libraries do, by version, stated as tests."""

from typing import Any

import pytest

from dither import conformance
from dither.conformance.findings import Report, summary


def judged(name: str) -> Report:
    return conformance.run(conformance.load(name))


def found(report: Report, verdict: Any) -> set[tuple[str, str]]:
    return set(summary(report, verdict))


OVF = "overflow is not saturated: infinity or NaN (OVF)"


def test_ml_dtypes_makes_choices_only():
    """ml_dtypes 0.5 and 0.6: no saturation in 8 bits, NaN becomes -0 in 6 and 4 bits."""
    report = judged("ml_dtypes_casts")
    assert report.conforming
    eight = ("e4m3", "e5m2", "e4m3_ieee", "e3m4_ieee", "e4m3fnuz", "e5m2fnuz", "e4m3b11fnuz")
    small = {(fmt, "NaN into a format without NaN") for fmt in ("e3m2", "e2m3", "e2m1")}
    assert found(report, "choice") == {(fmt, OVF) for fmt in eight} | small


def test_torch_float8_does_not_saturate_e5m2():
    """torch 2.12 and later saturate e4m3fn, not e5m2."""
    torch = pytest.importorskip("torch")
    if torch.tensor(1e6).to(torch.float8_e4m3fn).float().isnan():
        pytest.skip("torch before 2.12 overflows e4m3fn to NaN")
    report = judged("torch_float8")
    assert report.conforming and found(report, "choice") == {("e5m2", OVF)}


@pytest.mark.filterwarnings("ignore")
def test_torchao_loses_the_smallest_scale():
    """torchao 0.18: the scale is clamped to 2^-126 but stored as 2^-127; an infinity makes the others 0."""
    pytest.importorskip("torchao")
    report = judged("torchao_mx")
    presets = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4")
    assert found(report, "violation") == {(p, "scale used at 2^-126 but stored as 2^-127") for p in presets}
    infinity = "an infinity in the block: it stays and the others become 0"
    nvfp4 = ("nvfp4", "arithmetic order of the dialect torchao")
    assert found(report, "choice") == {(p, infinity) for p in presets} | {nvfp4}
    assert next(row.equal == row.compared for row in report.rows if row.what == "nvfp4")


def test_gfloat_keeps_negative_numbers_in_an_unsigned_format():
    """gfloat 0.5.2: everything else is equal, in every rounding and with given random bits."""
    pytest.importorskip("gfloat")
    report = judged("gfloat_casts")
    assert {what for what, _ in found(report, "violation")} == {"binary8p1uf"}
    assert ("binary8p1uf", "a negative number is kept by an unsigned format") in found(report, "violation")
    assert not found(report, "choice")
    others = [row for row in report.rows if row.what != "binary8p1uf"]
    assert len(others) > 70 and all(row.equal == row.compared for row in others)
