"""`--layout compressed-tensors` against the package that reads it: its dequantizer gives our fake-quantized
values."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import tensors, write_folder
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.compressors.naive_quantized import NaiveQuantizationCompressor
from compressed_tensors.config import CompressionFormat
from compressed_tensors.entrypoints.convert.converters.ct_dequantizer import CompressedTensorsDequantizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
from safetensors.torch import load_file, save_file

import dither
from dither.checkpoints import dequantize, open_checkpoint, quantize
from dither.checkpoints.dequantizing import find
from dither.checkpoints.layouts.compressed_config import scheme
from dither.errors import UserError

QUANTIZERS = [
    "int4_g32", "int4_g128", "int4_row", "int4_tensor", "int8_g128", "int8_row", "int3_g32", "int2_g32",
    "fp8_e4m3", "format=e4m3,block=row", "fp8_1x128", "mxfp8_e4m3", "mxfp6_e2m3", "mxfp4",
    "mxfp4:scale_rule=ceil", "nvfp4", "format=uint4,block=32,zero_point=true", "fp8_128x128",
    "format=uint8,block=row,zero_point=true", "format=uint3,block=tensor,zero_point=true",
]  # fmt: skip


def read_by_the_package(folder) -> dict[str, torch.Tensor]:
    """All tensors of a folder as compressed-tensors' own dequantizer returns them."""
    reader = CompressedTensorsDequantizer(str(folder), dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert QuantizationConfig.model_validate(config).quantization_status == "compressed"
    found = {}
    for name, group in reader.quant_config.config_groups.items():
        assert isinstance(group, QuantizationScheme)  # it infers another name for FP8 weights alone
        group.format = CompressionFormat(config["config_groups"][name]["format"])
    for file in folder.glob("*.safetensors"):
        found |= reader.validate(load_file(file))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_package_reads_our_fake_quantized_values(name, dtype, tmp_path):
    source = write_folder(tmp_path / "m", dtype, shards=2, layers=1)
    summary = quantize(source, name, tmp_path / "q", layout="compressed-tensors")
    found, q = read_by_the_package(tmp_path / "q"), dither.Quantizer(name)
    was, quantized = tensors(1, dtype), {row.name for row in summary.rows if row.quantizer}
    assert set(found) == set(was) and len(quantized) == 4
    for key, tensor in was.items():
        if key not in quantized:
            assert torch.equal(found[key], tensor)
            continue
        want = dither.fake_quant(tensor.float().numpy(), q)
        if name == "nvfp4":
            want = nvfp4_as_read(tensor.float().numpy())
        assert np.array_equal(found[key].numpy(), want), key


def nvfp4_as_read(x: np.ndarray) -> np.ndarray:
    """The documented difference: codes times (scale / global scale), rounded to bf16. At most 2^-8 off."""
    t = dither.quantize(x, "nvfp4")
    assert t.scales is not None and t.tensor_scale is not None
    ratio = dither.decode(t.scales, "e4m3") / (np.float32(1) / t.tensor_scale)
    codes = np.stack([t.codes & 15, t.codes >> 4], -1).reshape(x.shape)
    values = dither.decode(codes, "e2m1") * ratio.repeat(16, 1)
    assert np.abs(values - t.dequantize()).max() <= 2**-21 * np.abs(values).max()
    return torch.from_numpy(values).bfloat16().float().numpy()


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_arguments_are_those_of_the_package(name):
    found = scheme(dither.Quantizer(name))
    args = QuantizationArgs(**found.args)
    assert {k: v for k, v in args.model_dump(mode="json").items() if v is not None} == {
        k: v for k, v in found.args.items() if v is not None
    }
    inferred = infer_module_format(
        torch.nn.Linear, QuantizationScheme(targets=["Linear"], weights=args)
    ).value
    assert inferred in (
        found.format,
        "naive-quantized",
    )  # of weights alone it calls FP8 naive: the same tensors
    compressor: Any = BaseCompressor.get_value_from_registry(found.format)
    assert (inferred == found.format) or issubclass(compressor, NaiveQuantizationCompressor)


@pytest.mark.parametrize(
    ("preset", "name"),
    [("W4A16", "int4_g128"), ("NVFP4A16", "nvfp4"), ("MXFP4A16", "mxfp4"), ("MXFP8A16", "mxfp8_e4m3"),
     ("MXFP6A16", "mxfp6_e2m3"), ("FP8", "fp8_e4m3"), ("W8A16", "int8_g128"),
     ("W4A16_ASYM", "format=uint4,block=128,zero_point=true"), ("FP8_BLOCK", "fp8_128x128")],
)  # fmt: skip
def test_presets_of_the_package_are_quantizers_of_ours(preset, name):
    args = preset_name_to_scheme(preset, ["Linear"]).model_dump(mode="json")["weights"]
    assert {k: v for k, v in scheme(dither.Quantizer(name)).args.items() if v is not None} == {
        k: v for k, v in args.items() if v is not None
    }


def test_a_mix_names_the_modules_of_each_format(tmp_path):
    source = write_folder(tmp_path / "m", layers=1)
    prefix = "model.layers.0."
    mix = {f"{prefix}mlp.up_proj.weight": "mxfp4", f"{prefix}mlp.down_proj.weight": "int4_g32"}
    quantize(source, mix, tmp_path / "q", layout="compressed-tensors")
    settings = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert settings["format"] == "mixed-precision"
    targets = {group["format"]: group["targets"] for group in settings["config_groups"].values()}
    assert targets == {
        "mxfp4-pack-quantized": [f"{prefix}mlp.up_proj"],
        "pack-quantized": [f"{prefix}mlp.down_proj"],
    }
    found, was = read_by_the_package(tmp_path / "q"), tensors(1)
    for key, tensor in was.items():
        want = dither.fake_quant(tensor.numpy(), mix[key]) if key in mix else tensor.numpy()
        assert np.array_equal(found[key].numpy(), want)


def test_what_is_not_quantized_is_ignored_and_the_rest_of_the_folder_goes_along(tmp_path):
    source = write_folder(tmp_path / "m", shards=2)
    quantize(source, "mxfp4", tmp_path / "q", layout="compressed-tensors", exempt=["*.1.*"])
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    ignored = config["quantization_config"]["ignore"]
    assert {"lm_head", "model.embed_tokens", "model.layers.1.mlp.up_proj"} <= set(ignored)
    assert "model.layers.0.mlp.up_proj" not in ignored and config["model_type"] == "llama"
    index = json.loads((tmp_path / "q" / "model.safetensors.index.json").read_text())
    held = {f.name: set(load_file(f)) for f in (tmp_path / "q").glob("*.safetensors")}
    assert {name: file for file, names in held.items() for name in names} == index["weight_map"]
    assert index["metadata"]["total_size"] == open_checkpoint(tmp_path / "q").nbytes


def test_rows_that_are_no_multiple_of_the_group_stay_and_say_so(tmp_path):
    source = write_folder(tmp_path / "m", layers=1)
    odd = load_file(source / "model.safetensors") | {
        "odd.weight": torch.ones(4, 100),
        "odd_bias": torch.ones(4, 32),
    }
    save_file(odd, source / "model.safetensors", metadata={"format": "pt"})
    rows = quantize(source, "mxfp4", tmp_path / "q", layout="compressed-tensors").rows
    reasons = {row.name: row.reason for row in rows}
    assert reasons["odd.weight"] == "rows of 100 are no multiple of 32"
    assert reasons["odd_bias"] == "its name does not end in .weight"
    with pytest.raises(UserError, match=r"can hold none of the tensors: odd\.weight: rows of 100"):
        quantize(source, "mxfp4", tmp_path / "r", layout="compressed-tensors", only=["odd.weight"])


@pytest.mark.parametrize("name", ["mxint8", "mxfp8_e5m2", "fp4_g32", "nvfp4:tensor_scale=false", "bf16"])
def test_what_it_has_no_format_for_is_refused_with_what_it_has(name, tmp_path):
    with pytest.raises(UserError, match=r"compressed-tensors has no format for .*it has: int8"):
        quantize(write_folder(tmp_path / "m"), name, tmp_path / "q", layout="compressed-tensors")


def test_without_a_configuration_there_is_no_place_for_the_formats(tmp_path):
    source = write_folder(tmp_path / "m")
    (source / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        quantize(source, "mxfp4", tmp_path / "q", layout="compressed-tensors")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_it_is_turned_back_into_the_values_of_the_package(name, tmp_path):
    source = write_folder(tmp_path / "m", shards=2, layers=1)
    quantize(source, name, tmp_path / "q", layout="compressed-tensors")
    dequantize(tmp_path / "q", "fp32", tmp_path / "back")
    want = read_by_the_package(tmp_path / "q")
    got = {k: v for f in (tmp_path / "back").glob("*.safetensors") for k, v in load_file(f).items()}
    assert set(got) == set(want) and all(torch.equal(got[k], want[k]) for k in want)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert "quantization_config" not in config


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"config_groups": []}, "not as compressed-tensors writes it"),
        ({"config_groups": {}}, "names no group for"),
        ({"config_groups": {"g": {"targets": 5}}}, "not as compressed-tensors writes it"),
        ({"config_groups": {"g": {"targets": ["re:("]}}}, "not as compressed-tensors writes it"),
        ({"config_groups": {"g": {"targets": ["Linear"], "weights": None}}}, "are not read here"),
        ({"quant_method": "gptq"}, "holds no quantized tensors"),
        (3, "holds no quantized tensors"),
    ],
)
def test_a_configuration_that_lies_is_refused(change, says, tmp_path):
    quantize(write_folder(tmp_path / "m", layers=1), "mxfp4", tmp_path / "q", layout="compressed-tensors")
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    changed = config["quantization_config"] | change if isinstance(change, dict) else change
    (tmp_path / "q" / "config.json").write_text(json.dumps(config | {"quantization_config": changed}))
    with pytest.raises(UserError, match=says):
        dequantize(tmp_path / "q", "fp32", tmp_path / "back")


def test_weights_that_the_package_itself_compressed_are_read(tmp_path):
    """Scales in bf16, regular expressions as targets: files that other programs write."""
    folder = write_folder(tmp_path / "m", layers=1)
    weights = tensors(1)
    args = scheme(dither.Quantizer("int4_g32")).args
    kind = QuantizationScheme(
        targets=["re:.*proj"], weights=QuantizationArgs(**args), format=CompressionFormat.pack_quantized
    )
    compressor, found, want = BaseCompressor.get_value_from_registry("pack-quantized"), {}, {}
    for key, w in weights.items():
        if "proj" not in key:
            found[key] = w
            continue
        scale = (w.unflatten(1, (-1, 32)).abs().amax(-1) / 7.5).bfloat16()
        state = compressor.compress({"weight": w, "weight_scale": scale}, kind)
        want[key] = compressor.decompress(dict(state), kind)["weight"]
        found |= {key.removesuffix("weight") + k: v.contiguous() for k, v in state.items() if v is not None}
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"quant_method": "compressed-tensors", "config_groups": {"g": kind.model_dump(mode="json")}}
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    assert len(find(open_checkpoint(folder))[1]) == 4
    dequantize(folder, "fp32", tmp_path / "back")
    got = load_file(tmp_path / "back" / "model.safetensors")
    for key, w in want.items():
        assert torch.equal(got[key].bfloat16(), w), key
