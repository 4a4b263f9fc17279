"""Quantizing checkpoints: what is written, what is said, what is refused before anything is written."""

import json

import numpy as np
import pytest
import torch
from checkpoint_files import as_array, tensors, write_file, write_folder
from safetensors.torch import load_file, save_file

import dither
from dither.checkpoints import Observer, dequantize, inspect, open_checkpoint, quantize
from dither.checkpoints.dequantizing import find
from dither.checkpoints.quantizing import sqnr_db, stream_of
from dither.checkpoints.tensors import read_array
from dither.errors import UserError
from dither.tensor import load_tensors

NAMES = [
    "mxfp8_e4m3",
    "mxfp4",
    "nvfp4",
    "int4_g128",
    "int8_row",
    "fp4_g32",
    "mxint8",
    "bf16",
    "format=e3m2,block=7",
]


def values(path) -> dict[str, np.ndarray]:
    """The quantized tensors of a file of ours, read back."""
    source = open_checkpoint(path)
    how, found = find(source)
    return {
        item.info.name: how.decode([read_array(part) for part in item.parts], item.info, item.quantizer)
        for item in found
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_the_fake_quantized_ones(name, dtype, tmp_path):
    source, out = write_file(tmp_path / "m.safetensors", dtype, layers=1), tmp_path / "q.safetensors"
    summary = quantize(source, name, out)
    found, was = values(out), tensors(1, dtype)
    assert len(found) == 4 and summary.out == out
    plain = load_file(out)
    for key, tensor in was.items():
        if key not in found:
            assert torch.equal(plain[key], tensor)
            continue
        x = tensor.double().numpy() if dtype == torch.float64 else as_array(tensor)
        want = dither.fake_quant(x, name)
        assert np.array_equal(found[key], want), key
        row = next(row for row in summary.rows if row.name == key)
        ratio = sqnr_db(x, want)
        assert row.sqnr_db == (pytest.approx(ratio) if np.isfinite(ratio) else None)
        assert row.after == dither.quantize(x, name).nbytes
    assert summary.after == open_checkpoint(out).nbytes
    assert summary.before == sum(t.numel() * t.element_size() for t in was.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_the_packed_tensors_are_what_the_package_saves_itself(name, dtype, tmp_path):
    """Streamed from a checkpoint or made in memory: the same codes, scales and description."""
    source = write_file(tmp_path / "m.safetensors", getattr(torch, dtype), layers=1)
    quantize(source, name, tmp_path / "q.safetensors")
    found, was = load_tensors(tmp_path / "q.safetensors"), tensors(1, getattr(torch, dtype))
    for key, tensor in was.items():
        x = tensor.double().numpy() if dtype == "float64" else as_array(tensor)
        if "proj" in key:
            t = found[key]
            assert isinstance(t, dither.QuantizedTensor)
            assert t == dither.quantize(x.astype(np.dtype(dtype)), name)
        else:
            assert np.array_equal(np.asarray(found[key]).astype(x.dtype), x)


def test_the_ratio_is_that_of_error_stats():
    x = np.random.default_rng(0).standard_normal((64, 3 << 12), np.float32)
    want = dither.error_stats(x, "mxfp4")["sqnr_db"]
    assert sqnr_db(x, dither.fake_quant(x, "mxfp4")) == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_becomes_a_folder_with_everything_but_other_weights(shards, tmp_path):
    source = write_folder(tmp_path / "m", torch.bfloat16, shards)
    quantize(source, "mxfp4", tmp_path / "q")
    names = {str(p.relative_to(tmp_path / "q")) for p in (tmp_path / "q").rglob("*") if p.is_file()}
    weights = {p.name for p in source.glob("*.safetensors")}
    index = {"model.safetensors.index.json"} if shards > 1 else set()
    assert names == weights | index | {
        "config.json",
        "tokenizer.json",
        "1_Pooling/config.json",
        "dither.json",
    }
    assert json.loads((tmp_path / "q" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )
    assert len(values(tmp_path / "q")) == 8
    rows = json.loads((tmp_path / "q" / "dither.json").read_text())["tensors"]
    assert sum(row["quantizer"] == "mxfp4" for row in rows) == 8 and len(rows) == len(tensors())


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("shards", [1, 2])
def test_it_is_turned_back(dtype, shards, tmp_path):
    source = write_folder(tmp_path / "m", shards=shards)
    quantize(source, "nvfp4", tmp_path / "q")
    summary = dequantize(tmp_path / "q", dtype, tmp_path / "back")
    want = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    back = {k: v for f in (tmp_path / "back").glob("*.safetensors") for k, v in load_file(f).items()}
    quantized = values(tmp_path / "q")
    assert set(back) == set(tensors())
    for key, tensor in tensors().items():
        expected = torch.from_numpy(quantized[key]).to(want) if key in quantized else tensor
        assert torch.equal(back[key], expected)
    assert summary.after == open_checkpoint(tmp_path / "back").nbytes
    assert (tmp_path / "back" / "tokenizer.json").exists()
    dequantize(tmp_path / "q", dtype, tmp_path / "back", force=True)  # its own output is replaced
    with pytest.raises(UserError, match="holds no quantized tensors"):
        dequantize(tmp_path / "back", dtype, tmp_path / "again")


def test_stochastic_rounding_reads_the_stream_of_the_name(tmp_path):
    source, name = write_file(tmp_path / "m.safetensors"), "mxfp4:rounding=stochastic"
    quantize(source, name, tmp_path / "a.safetensors", seed=3)
    quantize(source, name, tmp_path / "b.safetensors", seed=3, only=["*.1.mlp.up_proj.weight"])
    key = "model.layers.1.mlp.up_proj.weight"
    x = as_array(tensors()[key])
    want = dither.fake_quant(x, name, seed=3, stream=stream_of(key))
    for file in ("a", "b"):
        assert np.array_equal(values(tmp_path / f"{file}.safetensors")[key], want)
    with pytest.raises(UserError, match="add --seed 0"):
        quantize(source, name, tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors.part").exists()


def test_a_mix_gives_every_tensor_its_own_format(tmp_path):
    source, prefix = write_file(tmp_path / "m.safetensors"), "model.layers.0."
    mix = {
        f"{prefix}mlp.up_proj.weight": "mxfp4",
        f"{prefix}mlp.down_proj.weight": dither.Quantizer("int8_row"),
    }
    rows = quantize(source, mix, tmp_path / "q.safetensors").rows
    assert {row.name: row.quantizer for row in rows if row.quantizer} == {k: str(q) for k, q in mix.items()}
    found = values(tmp_path / "q.safetensors")
    for key, q in mix.items():
        assert np.array_equal(found[key], dither.fake_quant(as_array(tensors()[key]), q))
    with pytest.raises(UserError, match=r"the mix names 'nobody', which is not in"):
        quantize(source, {"nobody": "mxfp4"}, tmp_path / "r.safetensors")


def test_a_dry_run_writes_nothing_and_has_the_right_sizes(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    dry = quantize(source, "nvfp4", dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before and dry.out.name == "m-nvfp4"
    wet = quantize(source, "nvfp4")
    assert [row.after for row in dry.rows] == [row.after for row in wet.rows] and wet.out == dry.out
    assert all(row.sqnr_db is None for row in dry.rows)


def test_the_default_name_says_what_was_done(tmp_path, monkeypatch):
    source = write_file(tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    assert quantize(source, "mxfp4:scale_rule=ceil").out.name == "m-mxfp4-scale_rule-ceil.safetensors"
    assert quantize(source, "mxfp4", layout="gguf").out.name == "m-mxfp4.gguf"


def test_the_observer_hears_of_every_tensor(tmp_path):
    heard = []

    class Ear(Observer):
        def start(self, tensors, nbytes):
            heard.append((tensors, nbytes))

        def tensor(self, row):
            heard.append(row.name)

        def finish(self):
            heard.append("end")

    summary = quantize(
        write_file(tmp_path / "m.safetensors"), "mxfp4", tmp_path / "q.safetensors", observer=Ear()
    )
    assert heard[0] == (len(tensors()), summary.before) and heard[-1] == "end"
    assert sorted(heard[1:-1]) == sorted(tensors())


def test_bad_values_are_refused_by_name(tmp_path):
    weights = tensors()
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    weights["model.layers.1.mlp.up_proj.weight"][5, 6] = float("inf")
    save_file(weights, tmp_path / "m.safetensors")
    out = tmp_path / "q.safetensors"
    with pytest.raises(
        UserError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' .* holds 2 NaN or infinite"
    ):
        quantize(tmp_path / "m.safetensors", "mxfp4", out)
    assert not out.exists()
    quantize(tmp_path / "m.safetensors", "mxfp4", out, exempt=["*.1.mlp.up*"])
    assert torch.isnan(load_file(out)["model.layers.1.mlp.up_proj.weight"]).sum() == 1


@pytest.mark.parametrize(
    ("to", "options", "says"),
    [
        ("mxpf4", {}, "unknown preset 'mxpf4' .did you mean 'mxfp4'"),
        ("mxfp4", {"layout": "ggfu"}, "unknown layout 'ggfu' .did you mean 'gguf'"),
        ("mxfp4", {"exempt": ["nothing*"]}, "--exempt 'nothing.' matches no tensor"),
        ("mxfp4", {"only": ["*norm*"], "exempt": ["*"]}, "no tensor is left to quantize"),
        ("mxfp4", {"out": "m.safetensors"}, "is the source itself"),
        ("mxfp4", {"out": "."}, "is the source itself or no name"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(to, options, says, tmp_path, monkeypatch):
    write_file(tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        quantize("m.safetensors", to, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_the_output_lies_neither_in_the_source_nor_around_it(tmp_path):
    source = write_folder(tmp_path / "around" / "m")
    with pytest.raises(UserError, match="lies in the source's folder"):
        quantize(source, "mxfp4", source / "q")
    with pytest.raises(UserError, match="holds the source"):
        quantize(source, "mxfp4", tmp_path / "around")


@pytest.mark.parametrize("layout", ["dither", "compressed-tensors"])
def test_quantized_weights_are_not_quantized_again(layout, tmp_path):
    """The description of those that are packed already would be lost with the old file."""
    source = write_folder(tmp_path / "m")
    quantize(source, "mxfp4", tmp_path / "q", layout=layout)
    for again in (
        lambda: quantize(tmp_path / "q", "mxfp8_e4m3", tmp_path / "r", only=["lm_head*"]),
        lambda: inspect(tmp_path / "q", ["mxfp8_e4m3"], only=["lm_head*"]),
    ):
        with pytest.raises(UserError, match=rf"quantized already \(layout {layout}\).*--dequantize bf16"):
            again()
    assert not (tmp_path / "r.part").exists()


def test_bf16_that_is_too_narrow_is_refused(tmp_path):
    """3.4e38 is an fp32 number that bf16 rounds to infinity."""
    save_file({"w": torch.full((32, 32), 3.4e38)}, tmp_path / "m.safetensors")
    quantize(tmp_path / "m.safetensors", "fp32", tmp_path / "q.safetensors")
    with pytest.raises(UserError, match=r"'w' has values up to 3\.4e\+38, beyond the range of bf16"):
        dequantize(tmp_path / "q.safetensors", "bf16", tmp_path / "back.safetensors")
    dequantize(tmp_path / "q.safetensors", "fp32", tmp_path / "back.safetensors")


def test_fp16_that_is_too_narrow_is_refused(tmp_path):
    save_file({"w": torch.full((32, 32), 1e8)}, tmp_path / "m.safetensors")
    quantize(tmp_path / "m.safetensors", "mxfp8_e4m3", tmp_path / "q.safetensors")
    with pytest.raises(UserError, match=r"beyond the range of fp16; use fp32"):
        dequantize(tmp_path / "q.safetensors", "fp16", tmp_path / "back.safetensors")
    with pytest.raises(UserError, match=r"is one of fp64, fp32, fp16, bf16, not 'b16' .did you mean 'bf16'"):
        dequantize(tmp_path / "q.safetensors", "b16", tmp_path / "back.safetensors")
