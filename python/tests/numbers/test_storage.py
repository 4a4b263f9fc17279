"""Packed arrays in files: what was saved comes back, and files that are damaged or lie are refused."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc

import bad_files
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dither
from dither import QuantizedTensor, storage

MORE = ["nvfp4:scale_rule=rceil,block=8", "format=ue5m3", "format=int4,block=column", "nvfp4:dialect=torchao"]
MORE += ["format=uint3,block=8,zero_point=true"]


def arrays() -> dict[str, QuantizedTensor | np.ndarray]:
    x = np.random.default_rng(0).standard_normal((4, 100)).astype(np.float32)
    return {
        "nv": dither.quantize(x, "nvfp4"),
        "odd": dither.quantize(x[:, :9], "format=e3m1,block=4,scale_format=e8m0"),
        "int": dither.quantize(x.astype(np.float64), "int3_row", 0),
        "cast": dither.quantize(x.astype(ml_dtypes.bfloat16), "format=e3m2"),
        "plain": x[:2],
    }


def same(a: object, b: object) -> bool:
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "x.safetensors"
    dither.save_tensors(arrays(), path)
    return path.read_bytes()


@pytest.mark.parametrize("q", [*dither.Quantizer.presets(), *MORE])
def test_every_quantizer_comes_back(q, tmp_path):
    path = tmp_path / "x.safetensors"
    for shape, axis in (((3, 70), 1), ((70, 3), 0), ((), 0), ((2, 0, 5), 2)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float16)
        x.flat[:1] = np.nan if dither.Quantizer(q).block else 0
        t = dither.quantize(x, q, axis)
        t.save(path)
        assert QuantizedTensor.load(path) == t


def test_several_arrays_and_plain_ones(good, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(good)
    found = dither.load_tensors(path)
    want = arrays()
    assert found.keys() == want.keys() and all(same(found[k], want[k]) for k in want)
    assert QuantizedTensor.load(path, "odd") == want["odd"]
    with pytest.raises(dither.UserError, match="holds 4 packed arrays"):
        QuantizedTensor.load(path)
    with pytest.raises(dither.UserError, match="did you mean 'odd'"):
        QuantizedTensor.load(path, "od")
    with pytest.raises(dither.UserError, match="no file"):
        dither.load_tensors(tmp_path / "none")
    with pytest.raises(dither.UserError, match="cannot be read"):
        dither.load_tensors(tmp_path)


def test_plain_tensors_of_fp8_are_read(tmp_path):
    """The safetensors package looks for these types in numpy itself, which has none."""
    path = tmp_path / "x.safetensors"
    codes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    kinds = ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz"]
    want = {name: codes.view(name) for name in kinds}
    dither.save_tensors(want | {"packed": arrays()["nv"], "none": codes[:0].view(kinds[0])}, path)
    found = dither.load_tensors(path)
    assert found["packed"] == arrays()["nv"] and np.shape(found["none"]) == (0, 3)
    for name, x in want.items():
        got = found[name]
        assert isinstance(got, np.ndarray) and got.dtype == x.dtype
        assert np.array_equal(got.view(np.uint8), codes)


def test_two_numbers_a_byte_are_no_type_of_numpy(good, tmp_path):
    path = tmp_path / "x.safetensors"
    header = {"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    path.write_bytes(bad_files.join(header, bytes(2)))
    with pytest.raises(dither.UserError, match="'a' is F4, for which numpy has no type"):
        dither.load_tensors(path)


def test_parts_made_by_hand_are_not_saved_where_they_would_not_load(tmp_path):
    t = dither.quantize(np.ones((2, 31), np.float32), "mxfp4")
    assert t.scales is not None
    beyond = QuantizedTensor("mxfp4", t.shape, 1, "fp32", np.full_like(t.codes, 255), t.scales)
    with pytest.raises(dither.UserError, match="behind the end of a row"):
        beyond.save(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_the_file_describes_itself(good):
    header, description, _ = bad_files.split(good)
    assert header["nv.codes"]["dtype"] == "U8" and header["nv.codes"]["shape"] == [4, 50]
    assert header["nv.scales"]["shape"] == [4, 7] and header["nv.tensor_scale"]["shape"] == []
    nv = description["tensors"]["nv"]
    assert (nv["quantizer"], nv["shape"], nv["axis"], nv["dtype"]) == ("nvfp4", [4, 100], 1, "fp32")
    assert description["version"] == 1 and "plain" not in description["tensors"]


def test_names_that_collide(tmp_path):
    t = dither.quantize(np.ones((2, 32), np.float32), "mxfp4")
    for bad in ({"a": t, "a.codes": t.codes}, {"a.scales": t.codes, "a": t}, {"__metadata__": t.codes}):
        with pytest.raises(dither.UserError, match="is taken"):
            dither.save_tensors(bad, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    t = dither.quantize(np.ones((2, 32), np.float32), "mxfp4")
    t.save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no"):
            t[:1].save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_file_without_check_sums_is_read(good, tmp_path):
    """They are optional: a program that writes piece by piece knows them too late."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(bad_files.changed(good, bad_files._forget))
    assert same(dither.load_tensors(path)["nv"], arrays()["nv"])


def test_a_file_of_another_program_is_plain(tmp_path):
    path = tmp_path / "x.safetensors"
    storage.write(path, {"a": np.arange(3)}, {}, "numpy")
    assert list(dither.load_tensors(path)) == ["a"]


@pytest.mark.parametrize("name", bad_files.CHANGES)
def test_files_that_lie_are_refused(name, good, tmp_path):
    change, says = bad_files.CHANGES[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(bad_files.changed(good, change))
    with pytest.raises(dither.UserError, match=says) as caught:
        dither.load_tensors(path)
    assert str(path) in str(caught.value)


def test_files_that_cannot_be_read(good, tmp_path):
    path = tmp_path / "x.safetensors"
    for name, content in bad_files.raw(good).items():
        path.write_bytes(content)
        with pytest.raises(dither.UserError) as caught:
            dither.load_tensors(path)
        assert str(path) in str(caught.value), name


def test_nothing_large_is_allocated_for_a_lie(good, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(bad_files.changed(good, bad_files.CHANGES["terabytes"][0]))
    tracemalloc.start()
    with pytest.raises(dither.UserError):
        dither.load_tensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_flipped_cut_and_inserted_bytes(good, tmp_path_factory, data):
    """Whatever happens to the bytes: refused, or every packed array in it is what was saved. (A plain tensor
    beside them has no check sum: its values may change.)"""
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        header = 8 + struct.unpack("<Q", good[:8])[0]
        end = min(len(content) - 1, data.draw(st.sampled_from([header, len(content)])))
        at = data.draw(st.integers(0, end))
        match data.draw(st.sampled_from(["bit", "byte", "cut", "insert"])):
            case "bit":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "byte":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 20))]
            case _:
                content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        if not content:
            break
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(content)
    try:
        found = dither.load_tensors(path)
    except dither.UserError:
        return
    for name, t in found.items():
        if isinstance(t, QuantizedTensor):
            assert any(same(t, u) for u in arrays().values()), name


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_WORDS = st.sampled_from(["nvfp4", "mxfp4", "int3_row", "format=e3m2", "block=0", "fp32", "bf16", ""])


@settings(max_examples=300, deadline=None)
@given(
    fields=st.dictionaries(st.sampled_from(["quantizer", "shape", "axis", "dtype", "crc32"]), _JSON | _WORDS),
    top=st.dictionaries(st.sampled_from(["version", "tensors", "x"]), _JSON, max_size=1),
)
def test_any_description(good, tmp_path_factory, fields, top):
    header, description, content = bad_files.split(good)
    before = json.dumps(description)
    description["tensors"]["nv"] |= fields
    description |= top
    header["__metadata__"]["dither"] = json.dumps(description)
    path = tmp_path_factory.getbasetemp() / "described.safetensors"
    path.write_bytes(bad_files.join(header, content))
    try:
        found = dither.load_tensors(path)
    except dither.UserError:
        return
    assert json.dumps(description) == before or "nv" not in found or same(found["nv"], arrays()["nv"])


def run_alone(code: str) -> None:
    subprocess.run([sys.executable, "-c", "import sys\n" + code], check=True)


def test_bf16_is_read_by_who_imported_nothing(tmp_path):
    """numpy learns bfloat16 from ml_dtypes, which a reader of a checkpoint need not know."""
    x = np.linspace(-1, 1, 64, dtype=ml_dtypes.bfloat16)
    dither.save_tensors({"packed": dither.quantize(x, "mxfp4"), "plain": x}, tmp_path / "x")
    run_alone(
        "import dither\n"
        f"t = dither.load_tensors({str(tmp_path / 'x')!r})\n"
        "assert t['plain'].dtype.name == t['packed'].dequantize().dtype.name == 'bfloat16'"
    )
    run_alone(
        "sys.modules['ml_dtypes'] = None\n"
        "import dither\n"
        f"try: dither.load_tensors({str(tmp_path / 'x')!r})\n"
        "except dither.MissingExtraError as error: assert 'dither[safetensors]' in str(error), error\n"
        "else: raise SystemExit('no error')\n"
    )


def test_without_safetensors_the_error_has_the_install_line(tmp_path):
    run_alone(
        "sys.modules['safetensors'] = None; sys.modules['safetensors.numpy'] = None\n"
        "import dither, numpy as np\n"
        "t = dither.quantize(np.ones(32, np.float32), 'mxfp4')\n"
        f"for call in (lambda: t.save({str(tmp_path / 'x')!r}), lambda: t.load('x')):\n"
        "    try: call()\n"
        "    except dither.MissingExtraError as error: assert 'dither[safetensors]' in str(error), error\n"
        "    else: raise SystemExit('no error')\n"
    )
