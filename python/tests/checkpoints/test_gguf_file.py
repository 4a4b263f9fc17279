"""Our GGUF container against the writer and the reader of the `gguf` package, and against damaged files."""

import gguf as peer
import numpy as np
import pytest

from dither.checkpoints import gguf
from dither.checkpoints.safetensors import Entry
from dither.checkpoints.tensors import read_bytes, read_values
from dither.errors import UserError


def write_with_the_package(path) -> dict[str, np.ndarray]:
    """Every kind of value, and tensors of several types."""
    writer = peer.GGUFWriter(path, "llama")
    writer.add_uint32("a.u32", 7)
    writer.add_float64("a.f64", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "größe")
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "bc"])
    writer.add_array("a.numbers", [1, 2, 3])
    random = np.random.default_rng(0)
    x = {
        "blk.0.attn_q.weight": random.standard_normal((8, 64), np.float32),
        "blk.0.attn_norm.weight": np.ones(64, np.float32),
        "blk.0.ffn_up.weight": random.standard_normal((4, 64), np.float32).astype(np.float16),
        "odd": np.arange(5, dtype=np.int32),
    }
    for name, array in x.items():
        writer.add_tensor(name, array)
    quantized = peer.quants.quantize(x["blk.0.attn_q.weight"], peer.GGMLQuantizationType.Q4_0)
    writer.add_tensor("blk.1.attn_q.weight", quantized, raw_dtype=peer.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return x


def test_a_file_of_the_package_is_read(tmp_path):
    path = tmp_path / "a.gguf"
    x = write_with_the_package(path)
    infos, pairs = gguf.read_header(path)
    values = {pair.key: pair.value for pair in pairs}
    assert values["general.architecture"] == "llama" and values["a.text"] == "größe"
    assert (values["a.u32"], values["a.f64"], values["a.bool"], values["a.numbers"]) == (7, 0.5, True, None)
    found = {info.name: info for info in infos}
    assert found["blk.0.attn_q.weight"].shape == (8, 64)
    for name in ("blk.0.attn_q.weight", "blk.0.attn_norm.weight", "blk.0.ffn_up.weight"):
        assert np.array_equal(read_values(found[name]), x[name].astype(np.float32))
    assert bytes(read_bytes(found["odd"])) == x["odd"].tobytes()
    assert (found["blk.1.attn_q.weight"].dtype, found["blk.1.attn_q.weight"].nbytes) == (
        "GGUF:Q4_0",
        8 * 2 * 18,
    )


def test_every_type_that_is_known_has_the_sizes_of_the_package():
    for name, (number, block, size) in gguf.TYPES.items():
        kind = peer.GGMLQuantizationType(number)
        assert kind.name == name.removeprefix("GGUF:")
        assert peer.GGML_QUANT_SIZES[kind] == (block, size)


def test_a_header_of_ours_is_read_by_the_package_with_every_pair_of_the_original(tmp_path):
    path, copy = tmp_path / "a.gguf", tmp_path / "b.gguf"
    write_with_the_package(path)
    infos, pairs = gguf.read_header(path)
    entries = [Entry(info.name, info.dtype, info.shape, info.nbytes) for info in infos]
    more = [gguf.uint32_pair("b.u32", 9), gguf.text_pair("b.text", "ok")]
    head, places = gguf.build_header(entries, [*pairs, *more])
    data = bytearray(max(at + n for at, n in places.values()))
    data[: len(head)] = head
    for info in infos:
        at, n = places[info.name]
        data[at : at + n] = read_bytes(info).tobytes()
    copy.write_bytes(data)
    old, new = peer.GGUFReader(path), peer.GGUFReader(copy)
    for key, field in old.fields.items():
        if not key.startswith("GGUF."):
            assert new.fields[key].contents() == field.contents(), key
    assert new.fields["b.u32"].contents() == 9 and new.fields["b.text"].contents() == "ok"
    for a, b in zip(old.tensors, new.tensors, strict=True):
        assert (a.name, a.tensor_type) == (b.name, b.tensor_type) and np.array_equal(a.data, b.data)


def test_any_damage_to_the_header_is_refused_or_harmless(tmp_path):
    path, damaged = tmp_path / "a.gguf", tmp_path / "damaged.gguf"
    write_with_the_package(path)
    whole = bytearray(path.read_bytes())
    header = min(info.offset for info in gguf.read_header(path)[0])
    random, refused = np.random.default_rng(1), 0
    for _ in range(400):
        data = bytearray(whole)
        for at in random.integers(0, header, 2):
            data[at] = random.integers(0, 256)
        damaged.write_bytes(data)
        try:
            infos, _ = gguf.read_header(damaged)
        except UserError:
            refused += 1
        else:
            assert all(info.offset + info.nbytes <= len(data) for info in infos)
    assert refused > 100


@pytest.mark.parametrize("keep", [0, 3, 4, 12, 30, 200, -1])
def test_a_file_cut_off_is_refused(keep, tmp_path):
    path = tmp_path / "a.gguf"
    write_with_the_package(path)
    last = max(info.offset + info.nbytes for info in gguf.read_header(path)[0])
    path.write_bytes(path.read_bytes()[: keep if keep >= 0 else last + keep])
    with pytest.raises(UserError, match=r"a\.gguf is no"):
        gguf.read_header(path)
