"""The written vectors: deterministic, complete, and true by arithmetic that does not use dither's kernels."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import dither
from dither import conformance, formats
from dither.conformance import blockwise, inputs
from dither.quantizer import ROUNDINGS

F32 = np.float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vectors")
    conformance.write_vectors(path)
    return path


def lines(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def ints(text: str) -> np.ndarray:
    return np.array([-1 if word == "-" else int(word, 16) for word in text.split(" ")], np.int64)


def floats(text: str) -> np.ndarray:
    return ints(text).astype(np.uint32).view(F32)


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def test_the_manifest_holds_digests_and_writing_again_gives_the_same_bytes(folder, tmp_path):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["version"] == conformance.VERSION
    for name, info in manifest["files"].items():
        data = (folder / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == info["sha256"] and data.count(b"\n") == info["lines"]
    assert conformance.write_vectors(tmp_path / "again") == manifest
    assert sum(info["bytes"] for info in manifest["files"].values()) < 16 << 20


GOLDEN = {
    "casts.jsonl": "bc9f7bd812019f58",
    "blocks.jsonl": "2fafa48cf219f81d",
    "random.jsonl": "5c46ac63615fb94d",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_digests(folder, name):
    """Lines that exist never change within a version: these ids and bit patterns are pinned."""
    pinned = (
        "cast/e4m3/nearest_even/",
        "cast/e5m2/nearest_even/",
        "cast/e2m1/nearest_even/",
        "block/mxfp8_e4m3/",
        "block/mxfp4/",
        "block/nvfp4/",
        "random/",
    )
    kept = [line for line in lines(folder, name) if line["id"].startswith(pinned)]
    text = "\n".join(f"{v['id']} {v.get('x')} {v['out']} {v.get('codes')} {v.get('scales')}" for v in kept)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN[name]


def test_ids_are_unique(folder):
    every = [
        line["id"]
        for name in ("casts", "decodes", "blocks", "random")
        for line in lines(folder, f"{name}.jsonl")
    ]
    assert len(every) == len(set(every))


def test_every_format_rounding_and_preset_has_vectors(folder):
    found = lines(folder, "casts.jsonl")
    assert {line["format"] for line in found} == set(formats.names()) - {"fp32", "e8m0"}
    assert {line["rounding"] for line in found} == set(ROUNDINGS)
    assert {line["input"] for line in found} == {"fp32", "fp16", "bf16"}
    for preset in blockwise.MX:
        have = {
            line["id"].split("/")[2] for line in lines(folder, "blocks.jsonl") if line["quantizer"] == preset
        }
        assert len(inputs.EDGES) == 11 and have >= set(inputs.EDGES)


def test_codes_of_casts_decode_to_the_values(folder):
    tables = {line["format"]: floats(line["out"]) for line in lines(folder, "decodes.jsonl")}
    for line in lines(folder, "casts.jsonl"):
        codes, out = ints(line["codes"]), floats(line["out"])
        if line["format"] in tables:
            held = codes >= 0
            assert equal(tables[line["format"]][codes[held]], out[held]), line["id"]
            assert np.isnan(out[~held]).all(), line["id"]


def test_half_inputs_are_the_halves_of_the_line(folder):
    for line in lines(folder, "casts.jsonl"):
        if line["input"] != "fp32":
            x = ints(line["x"]).astype(np.uint16)
            wide = (
                x.view(np.float16).astype(F32)
                if line["input"] == "fp16"
                else (x.astype(np.uint32) << 16).view(F32)
            )
            expected = dither.cast(wide, line["format"], overflow=line["overflow"])
            assert equal(expected, floats(line["out"]))


def test_stochastic_lines_follow_the_formulas_of_p3109(folder):
    """v is the fraction of the step; round away from zero iff floor-or-RNE(v 2^N') + R' reaches 2^N'."""
    seen = 0
    for line in lines(folder, "casts.jsonl"):
        if not line["rounding"].startswith("stochastic") or line["format"] not in (
            "e4m3",
            "e5m2",
            "binary8p4se",
        ):
            continue
        f = formats.get(line["format"])
        with np.errstate(invalid="ignore"):  # signalling NaNs
            x, out = floats(line["x"]).astype(np.float64), floats(line["out"]).astype(np.float64)
        usual = np.isfinite(x) & (np.abs(x) <= f.max)
        x, out = x[usual], out[usual]
        r, n = ints(line["random"])[usual].astype(object), line["bits"]
        e = np.frexp(np.where(x == 0, 1.0, x))[1] - 1
        quantum = np.ldexp(1.0, np.maximum(e, f.emin) - f.mbits)
        s = np.abs(x) / quantum
        v = s - np.floor(s)
        if line["rounding"] == "stochastic_a":
            away = np.floor(v * 2.0**n).astype(np.int64) + r >= 2**n
        elif line["rounding"] == "stochastic_c":
            away = np.rint(v * 2.0**n).astype(np.int64) + r >= 2**n
        else:
            away = np.floor(v * 2.0 ** (n + 1)).astype(np.int64) + 2 * r + 1 >= 2 ** (n + 1)
        expected = np.minimum((np.floor(s) + away.astype(bool)) * quantum, f.max)
        assert (np.abs(out) == expected).all(), line["id"]
        seen += len(x)
    assert seen > 3000


def test_stored_blocks_multiply_out_to_the_values(folder):
    """value = element * scale: exact for powers of two, rounded to fp32 once otherwise."""
    tables = {line["format"]: floats(line["out"]) for line in lines(folder, "decodes.jsonl")}
    stored = [line for line in lines(folder, "blocks.jsonl") if "codes" in line]
    assert {line["quantizer"] for line in stored} >= set(blockwise.PRESETS)
    for line in stored:
        shape = (line["rows"], line["block"])
        elements = tables[line["format"]][ints(line["codes"])].reshape(shape)
        out = floats(line["out"]).reshape(shape)
        if line["scale_format"] == "fp32":
            scale = floats(line["scales"])
        else:
            scale = tables[line["scale_format"]][ints(line["scales"])]
        if line["two_level"]:
            scale = scale * floats(line["tensor_scale"])
        with np.errstate(invalid="ignore", over="ignore"):
            got = (elements.astype(np.float64) * scale.astype(np.float64)[:, None]).astype(F32)
        assert equal(got, out), line["id"]


@pytest.mark.parametrize("preset", blockwise.MX)
def test_mx_blocks_follow_section_6_3(folder, preset):
    """Scale and elements in fp64, where all is exact; rounding by a search in the table."""
    for line in lines(folder, "blocks.jsonl"):
        if line["quantizer"] != preset or line["id"].endswith(("one_nan", "one_inf", "all_zero")):
            continue
        f = formats.get(line["format"])
        x = floats(line["x"]).astype(np.float64).reshape(line["rows"], line["block"])
        e = np.frexp(np.abs(x).max(axis=1))[1] - 1 - f.emax
        assert (ints(line["scales"]) == np.clip(e, -127, 127) + 127).all()
        z = np.ldexp(x, -np.clip(e, -127, 127)[:, None])
        values = inputs.grid(f)
        magnitudes = values[values >= 0]
        at = np.clip(np.searchsorted(magnitudes, np.abs(z)), 1, len(magnitudes) - 1)
        lo, hi = magnitudes[at - 1], magnitudes[at]
        lower = (np.abs(z) - lo < hi - np.abs(z)) | ((np.abs(z) - lo == hi - np.abs(z)) & ((at - 1) % 2 == 0))
        y = np.copysign(np.where(lower, lo, hi), z) * np.ldexp(1.0, np.clip(e, -127, 127))[:, None]
        out = floats(line["out"]).reshape(y.shape)
        if f.has_neg_zero:
            assert equal(y.astype(F32), out), line["id"]
        else:
            assert (y == out).all(), line["id"]


def test_the_edges_are_what_their_names_say():
    fmt = formats.get("e4m3")
    found = inputs.blocks(fmt, 32)
    top = {name: np.abs(x).max(axis=1) for name, x in found.items()}
    assert (top["below_2^100"] == np.nextafter(F32(2.0**100), F32(0))).all()
    assert (top["fp32_subnormal"] < 2.0**-126).all() and (top["near_2^-126"] < 2.0**-122).all()
    assert np.isnan(found["one_nan"]).sum() == 2 and np.isinf(found["one_inf"]).sum() == 2
    assert (found["all_zero"] == 0).all() and np.signbit(found["all_zero"]).any()
    assert (top["clipped"] > fmt.max).all() and (top["clipped"] < 512).all()
    assert top["largest"][0] == np.finfo(F32).max


def test_random_lines_are_the_addressed_bits_of_stochastic_rounding(folder):
    """Read back through fake quant: x = 2^-9 / 256 * k rounds up from 0 iff its bits reach 256 - k."""
    line = next(v for v in lines(folder, "random.jsonl") if v["id"] == "random/7/3/ff/8")
    drawn = ints(line["out"])
    for k in (1, 100, 255):
        x = np.full(len(drawn), 2.0**-9 * k / 256, F32)
        y = dither.cast(x, "e4m3", rounding="stochastic", bits=8, seed=7, stream=3, offset=255)
        assert ((y > 0) == (2 * drawn + 1 + 2 * k >= 512)).all()


def test_inputs_do_not_depend_on_a_generator():
    """SplitMix64's published first outputs for the seed 1234567 would need that seed; these are for 0."""
    assert [f"{w:016x}" for w in inputs.words(3, 0)] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]
