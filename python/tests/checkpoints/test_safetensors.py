"""Our safetensors container against the package of that name, and against files that are not what they
say."""

import json
import struct

import numpy as np
import pytest
import torch
from checkpoint_files import tensors, write_file
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dither.checkpoints.safetensors import Entry, build_header, read_header, sort_for_alignment
from dither.checkpoints.tensors import narrow, read_bytes, read_values, widen
from dither.errors import UserError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_those_of_the_safetensors_package(dtype, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(tensors(dtype=DTYPES[dtype]), path, metadata={"format": "pt", "a": "ü"})
    infos, metadata = read_header(path)
    assert metadata == {"format": "pt", "a": "ü"}
    want = load_file(path)
    assert {info.name for info in infos} == set(want)
    for info in infos:
        x = read_values(info)
        assert info.dtype == dtype and x.shape == tuple(want[info.name].shape)
        assert x.dtype == (np.float64 if dtype == "F64" else np.float32)
        assert np.array_equal(x, want[info.name].double().numpy())


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_half_precision_pattern_is_widened_and_narrowed_as_torch_does(dtype):
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = widen(bits.view(np.uint8), dtype)
    want = torch.from_numpy(bits.view(np.int16)).view(DTYPES[dtype]).float().numpy()
    assert np.array_equal(wide, want, equal_nan=True)
    back = narrow(wide, dtype).view(np.uint16)
    finite = ~np.isnan(wide)
    assert (
        np.array_equal(back[finite], bits[finite])
        and np.isnan(widen(back.view(np.uint8), dtype)[~finite]).all()
    )


def test_narrowing_rounds_as_torch_does_and_keeps_nan():
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32)
    patterns[:4] = [
        0x7F800001,
        0xFF800001,
        0x7F7FFFFF,
        0x7F808000,
    ]  # NaN payloads in the low half, the largest
    x = patterns.view(np.float32)
    for dtype in ("BF16", "F16"):
        want = torch.from_numpy(x).to(DTYPES[dtype]).float().numpy()
        assert np.array_equal(widen(narrow(x, dtype), dtype), want, equal_nan=True), dtype


def test_a_file_written_from_its_plan_is_read_by_the_package(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.uint8),
        "b": np.ones((2, 3), np.float32),
        "empty": np.ones((0, 4), np.int64),
    }
    words = {"a": "U8", "b": "F32", "empty": "I64"}
    entries = [Entry(name, words[name], x.shape, x.nbytes) for name, x in arrays.items()]
    head, places = build_header(sort_for_alignment(entries), {"k": "v"})
    data = bytearray(head) + bytearray(sum(x.nbytes for x in arrays.values()))
    for name, x in arrays.items():
        at, n = places[name]
        data[at : at + n] = x.tobytes()
        assert at % x.itemsize == 0  # wide elements lie first
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"k": "v"}
        for name, x in arrays.items():
            assert np.array_equal(file.get_tensor(name), x)
    assert {info.name: bytes(read_bytes(info)) for info in read_header(path)[0]} == {
        name: x.tobytes() for name, x in arrays.items()
    }


def with_header(header, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LIES = {
    "empty": b"",
    "short": b"\x01\x02",
    "length beyond the file": struct.pack("<Q", 1 << 40) + b"{}",
    "no JSON": with_header(b"{nothing", b""),
    "no object": with_header([1], b""),
    "not UTF-8": with_header(b'{"\xff": 1}', b""),
    "cut off": with_header({"a": ONE}, bytes(7)),
    "too long": with_header({"a": ONE}, bytes(9)),
    "hole": with_header({"a": ONE | {"data_offsets": [4, 12]}}, bytes(12)),
    "overlap": with_header({"a": ONE, "b": ONE}, bytes(8)),
    "wrong size": with_header({"a": ONE | {"shape": [3]}}, bytes(8)),
    "negative": with_header({"a": ONE | {"shape": [-2], "data_offsets": [0, -8]}}, b""),
    "huge shape": with_header({"a": ONE | {"shape": [1 << 62, 1 << 62]}}, bytes(8)),
    "true as a size": with_header({"a": ONE | {"shape": [True, 2]}}, bytes(8)),
    "unknown dtype": with_header({"a": ONE | {"dtype": "F3"}}, bytes(8)),
    "missing key": with_header({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "twice": with_header(
        b'{"a":' + json.dumps(ONE).encode() + b',"a":' + json.dumps(ONE).encode() + b"}", bytes(8)
    ),
    "metadata of numbers": with_header({"__metadata__": {"a": 1}, "a": ONE}, bytes(8)),
    "nested without end": with_header(b"[" * 100_000, b""),
}


@pytest.mark.parametrize("what", LIES)
def test_a_file_that_lies_is_refused_with_its_name(what, tmp_path):
    path = tmp_path / "lies.safetensors"
    path.write_bytes(LIES[what])
    with pytest.raises(UserError, match=r"lies\.safetensors is no"):
        read_header(path)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (b"PK\x03\x04" + bytes(99), "a pickle.*save_file"),
        (b"\x80\x02ctorch" + bytes(99), "a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"GGUF" + bytes(99), r"\.gguf"),
    ],
)
def test_other_kinds_of_files_get_their_own_advice(start, says, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(start)
    with pytest.raises(UserError, match=says):
        read_header(path)


def test_any_damage_to_the_header_is_refused_or_harmless(tmp_path):
    """Flip bytes of the header at random: a UserError or a header that describes the file exactly."""
    whole = bytearray(write_file(tmp_path / "whole.safetensors", layers=1).read_bytes())
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    random, path, refused = np.random.default_rng(0), tmp_path / "damaged.safetensors", 0
    for _ in range(300):
        data = bytearray(whole)
        for at in random.integers(0, header, 2):
            data[at] = random.integers(0, 256)
        path.write_bytes(data)
        try:
            infos, _ = read_header(path)
        except UserError:
            refused += 1
        else:
            assert infos[-1].offset + infos[-1].nbytes == len(data)
    assert refused > 200


def test_a_file_that_shrank_after_it_was_opened_is_an_error(tmp_path):
    path = write_file(tmp_path / "a.safetensors")
    last = read_header(path)[0][-1]
    with open(path, "r+b") as file:
        file.truncate(last.offset + 5)
    with pytest.raises(UserError, match="was cut off"):
        read_values(last)
