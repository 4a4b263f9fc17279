"""`--layout gguf` against the package `gguf`: its reader and its dequantizers give the documented values."""

from typing import Any

import gguf as peer
import numpy as np
import pytest
import torch
from checkpoint_files import tensors, write_file, write_folder
from safetensors.torch import load_file, save_file

import dither
from dither.checkpoints import dequantize, open_checkpoint, quantize
from dither.checkpoints.layouts.ggml import dequantize as dequantize_blocks
from dither.errors import UserError

TYPES = {
    "format=uint4,block=32,zero_point=true": "Q4_1",
    "int8_g32": "Q8_0",
    "int4_g32": "Q4_0",
    "mxfp4": "MXFP4",
    "nvfp4": "NVFP4",
    "nvfp4:tensor_scale=false": "NVFP4",
}


def read_by_the_package(path) -> dict[str, np.ndarray]:
    """Every tensor as float32 as the package's reader and dequantizer return it."""
    found = {}
    for tensor in peer.GGUFReader(path).tensors:
        values = peer.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = values.reshape(tuple(int(n) for n in tensor.shape[::-1]))
    return found


def want_of(x: np.ndarray, name: str) -> np.ndarray:
    """What a reader should get: the fake-quantized values, with scales in fp16 for the Q types."""
    if "zero_point" in name:
        return asymmetric(x, dither.Quantizer(name))
    t = dither.quantize(x, name)
    if name in ("mxfp4", "nvfp4:tensor_scale=false"):
        return t.dequantize()
    assert t.scales is not None
    if name == "nvfp4":
        codes = np.stack([t.codes & 15, t.codes >> 4], -1).reshape(x.shape)
        return dither.decode(codes, "e2m1") * dither.decode(t.scales, "e4m3").repeat(16, 1)
    scales = t.scales.repeat(32, 1)
    codes = np.divide(t.dequantize(), scales, out=np.zeros_like(x), where=scales != 0).round()
    return codes * scales.astype(np.float16).astype(np.float32)


def asymmetric(x: np.ndarray, q: dither.Quantizer) -> np.ndarray:
    """d * code + m with d and m = -d * zero point in fp16, from the fake-quantized values alone."""
    blocks, values = x.reshape(-1, 32), dither.fake_quant(x, q).reshape(-1, 32)
    low, high = np.minimum(blocks.min(1, keepdims=True), 0), np.maximum(blocks.max(1, keepdims=True), 0)
    d = (high - low) / np.float32(15)
    zero = np.divide(-low, d, out=np.zeros_like(d), where=d > 0).round()
    codes = np.divide(values, d, out=np.zeros_like(values), where=d > 0).round() + zero
    half = [part.astype(np.float16).astype(np.float32) for part in (d, -(d * zero))]
    return (codes * half[0] + half[1]).reshape(x.shape)


@pytest.mark.parametrize("name", TYPES)
def test_the_package_reads_the_documented_values(name, tmp_path):
    source = write_file(tmp_path / "m.safetensors", layers=1)
    quantize(source, name, tmp_path / "q.gguf", layout="gguf")
    found, kinds = read_by_the_package(tmp_path / "q.gguf"), {}
    for tensor in peer.GGUFReader(tmp_path / "q.gguf").tensors:
        kinds[tensor.name] = tensor.tensor_type.name
    for key, tensor in tensors(1).items():
        x = tensor.numpy()
        if "proj" in key:
            assert kinds[key] == TYPES[name] and np.array_equal(found[key], want_of(x, name)), key
            if name == "nvfp4":
                scale = found[key.removesuffix(".weight") + ".scale"]
                assert scale.shape == (1,)
                error = np.abs(found[key] * scale - dither.fake_quant(x, "nvfp4"))
                assert error.max() <= 2**-22 * np.abs(x).max()  # the order of two products, nothing else
        else:
            assert kinds[key] == ("F16" if x.ndim > 1 else "F32")
            assert np.array_equal(found[key], x.astype(np.float16).astype(np.float32) if x.ndim > 1 else x)


@pytest.mark.parametrize("name", ["int8_g32", "int4_g32"])
def test_scales_in_fp16_cost_at_most_their_rounding(name, tmp_path):
    source = write_file(tmp_path / "m.safetensors", layers=1)
    quantize(source, name, tmp_path / "q.gguf", layout="gguf")
    found, x = (
        read_by_the_package(tmp_path / "q.gguf"),
        tensors(1)["model.layers.0.mlp.up_proj.weight"].numpy(),
    )
    error = np.abs(found["model.layers.0.mlp.up_proj.weight"] - dither.fake_quant(x, name))
    assert error.max() <= 2**-11 * np.abs(x).max()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "MXFP4", "NVFP4"])
def test_any_bytes_mean_the_same_to_the_package(kind):
    type_ = peer.GGMLQuantizationType[kind]
    size = peer.GGML_QUANT_SIZES[type_][1]
    data = np.random.default_rng(0).integers(0, 256, (4096, size), dtype=np.uint8)
    if kind == "NVFP4":
        data[:, :4] &= 0x7F  # its scales are unsigned, and 0x7F is no number
        data[:, :4][data[:, :4] == 0x7F] = 0
    if kind == "MXFP4":
        data[:, 0] %= 255  # a scale of 0xFF is NaN in E8M0 and here, 2^128 in ggml
    with np.errstate(invalid="ignore", over="ignore"):
        want = peer.quants.dequantize(data, type_).reshape(-1)
        assert np.array_equal(dequantize_blocks(data, kind), want, equal_nan=True)


def write_gguf(path, layers: int = 1) -> dict[str, np.ndarray]:
    """What llama.cpp's converter writes: F16 matrices, F32 vectors, a tokenizer."""
    writer = peer.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "a"])
    writer.add_uint32("general.file_type", 1)
    random = np.random.default_rng(0)
    x: dict[str, Any] = {"token_embd.weight": random.standard_normal((20, 64)).astype(np.float16)}
    for layer in range(layers):
        x[f"blk.{layer}.attn_q.weight"] = random.standard_normal((64, 64)).astype(np.float16)
        x[f"blk.{layer}.ffn_down.weight"] = random.standard_normal((64, 128)).astype(np.float16)
        x[f"blk.{layer}.attn_norm.weight"] = np.ones(64, np.float32)
    x["output.weight"] = random.standard_normal((20, 64)).astype(np.float16)
    for name, array in x.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return x


@pytest.mark.parametrize("name", TYPES)
def test_a_converted_model_keeps_its_pairs_and_what_is_not_quantized(name, tmp_path):
    x = write_gguf(tmp_path / "m.gguf", layers=2)
    quantize(tmp_path / "m.gguf", name, tmp_path / "q.gguf", layout="gguf")
    reader = peer.GGUFReader(tmp_path / "q.gguf")
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["<s>", "a"]
    assert reader.fields["general.architecture"].contents() == "llama"
    kind = TYPES[name]
    file_type = peer.LlamaFileType["MOSTLY_MXFP4_MOE" if kind == "MXFP4" else f"MOSTLY_{kind}"]
    assert reader.fields["general.file_type"].contents() == file_type
    assert reader.fields["general.quantization_version"].contents() == peer.GGML_QUANT_VERSION
    found = read_by_the_package(tmp_path / "q.gguf")
    for key, array in x.items():
        kept = key in ("token_embd.weight", "output.weight") or array.ndim == 1
        want = array.astype(np.float32) if kept else want_of(array.astype(np.float32), name)
        assert np.array_equal(found[key], want), key


@pytest.mark.parametrize("name", TYPES)
def test_it_is_turned_back(name, tmp_path):
    x = write_gguf(tmp_path / "m.gguf")
    quantize(tmp_path / "m.gguf", name, tmp_path / "q.gguf", layout="gguf")
    dequantize(tmp_path / "q.gguf", "fp32", tmp_path / "back.safetensors")
    back, found = load_file(tmp_path / "back.safetensors"), read_by_the_package(tmp_path / "q.gguf")
    assert set(back) == set(x)
    for key in x:
        want = found[key]
        if f"{key.removesuffix('.weight')}.scale" in found:
            want = want * found[key.removesuffix(".weight") + ".scale"]
        assert np.array_equal(back[key].float().numpy(), want)


def test_what_ggml_cannot_hold_is_refused(tmp_path):
    source = write_file(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=r"ggml has no type for int4_g128; it has: int8_g32 \(Q8_0\)"):
        quantize(source, "int4_g128", tmp_path / "q.gguf", layout="gguf")
    with pytest.raises(UserError, match=r"name it with --out NAME\.gguf"):
        quantize(source, "mxfp4", tmp_path / "q", layout="gguf")
    save_file({"a" * 80: torch.ones(32, 32)}, tmp_path / "long.safetensors")
    with pytest.raises(UserError, match="longer than ggml allows"):
        quantize(tmp_path / "long.safetensors", "mxfp4", tmp_path / "q.gguf", layout="gguf", only=["a*"])
    save_file({"w": torch.full((32, 32), 1e8)}, tmp_path / "large.safetensors")
    with pytest.raises(UserError, match=r"'w' needs scales up to 1\.429e\+07.*exempt it"):
        quantize(tmp_path / "large.safetensors", "int4_g32", tmp_path / "q.gguf", layout="gguf")
    save_file({"w": torch.ones(32, 32), "emb.weight": torch.full((2, 2), 1e5)}, tmp_path / "emb.safetensors")
    with pytest.raises(UserError, match=r"'emb\.weight' has values up to 1e\+05.*keeps it in F16"):
        quantize(tmp_path / "emb.safetensors", "int4_g32", tmp_path / "q.gguf", layout="gguf")


def test_a_gguf_file_is_written_as_gguf_alone(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    with pytest.raises(UserError, match="add --layout gguf"):
        quantize(tmp_path / "m.gguf", "mxfp4", tmp_path / "q.safetensors")


def test_quantizing_twice_finds_nothing_left(tmp_path):
    write_gguf(tmp_path / "m.gguf")
    quantize(tmp_path / "m.gguf", "mxfp4", tmp_path / "q.gguf", layout="gguf")
    with pytest.raises(UserError, match=r"no tensor is left to quantize .*quantized already"):
        quantize(tmp_path / "q.gguf", "mxfp4", tmp_path / "r.gguf", layout="gguf")


def test_a_folder_becomes_one_file(tmp_path):
    quantize(write_folder(tmp_path / "m", shards=3), "mxfp4", tmp_path / "q.gguf", layout="gguf")
    assert set(open_checkpoint(tmp_path / "q.gguf").tensors) == set(tensors())
    architecture = peer.GGUFReader(tmp_path / "q.gguf").fields["general.architecture"]
    assert architecture.contents() == "llama"
