"""Hugging Face folders: in, trained, out again, packed for others."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dither.nn as dnn
from dither import checkpoints, methods
from dither.errors import UserError
from dither.nn import ops

transformers = pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A GPT-2 of one layer, as transformers saves it."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=40, n_positions=16)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "vocab.json").write_text("{}")
    return tmp_path / "gpt2"


def batch() -> torch.Tensor:
    return torch.randint(0, 40, (4, 16), generator=torch.Generator().manual_seed(0))


def loss_of(model: Any) -> torch.Tensor:
    return model(input_ids=batch(), labels=batch()).loss


@pytest.mark.parametrize("name", ["qat", "lotion", "gptq"])
def test_a_folder_is_trained_packed_and_written(name, folder, tmp_path):
    model: Any = dnn.from_folder(folder)
    assert type(model).__name__ == "GPT2LMHeadModel" and not model.training
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    options = {}
    if name == "lotion":
        options["curvature"] = methods.AdamSecondMoment(optimizer, n_eff=64)
    method = methods.get(name)(model, "int4_g32", **options)
    assert len(method.found) == 4
    first = float(loss_of(model))
    for step in range(10):
        method.set_step(step)
        optimizer.zero_grad()
        (loss_of(model) + method.penalty(step)).backward()
        optimizer.step()
        method.after_step_(step, 1e-3)
    method.calibrate_([{"input_ids": batch()}])
    with method.deployed():
        deployed = float(loss_of(model))
        dnn.to_folder(model, tmp_path / "out", like=folder)
    assert deployed < first
    assert {"config.json", "model.safetensors", "vocab.json"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    again = dnn.from_folder(tmp_path / "out")
    assert float(loss_of(again)) == pytest.approx(deployed, rel=1e-6)
    method.convert_()  # GPT-2's linears hold their weights transposed: packed along the first axis
    assert float(loss_of(model)) == pytest.approx(deployed, rel=1e-5)
    if name != "gptq":  # whose scales are not those of its points
        assert float(loss_of(dnn.convert_(again, "int4_g32"))) == pytest.approx(deployed, rel=1e-5)
    dnn.save_model(model, tmp_path / "packed.safetensors")
    fresh = dnn.load_model_(dnn.from_folder(folder), tmp_path / "packed.safetensors")
    assert float(loss_of(fresh)) == pytest.approx(deployed, rel=1e-5)
    assert model.transformer.h[0].attn.c_attn.weight.nbytes_held < 32 * 96


def test_a_bert_goes_the_whole_way(tmp_path):
    """QAT, a folder, and files for vLLM: what is read back is what training ended
    with."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        num_hidden_layers=1, hidden_size=64, num_attention_heads=2, intermediate_size=64, vocab_size=40
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    model: Any = dnn.from_folder(tmp_path / "bert")
    method = methods.Qat(model, "int4_g32", exempt="*pooler*")
    with method.deployed():
        expected = {target.name: target.weight.detach().clone() for target in method.found}
        dnn.to_folder(model, tmp_path / "trained", like=tmp_path / "bert")
    checkpoints.quantize(
        tmp_path / "trained",
        "int4_g32",
        tmp_path / "packed",
        layout="compressed-tensors",
        only=list(expected),
    )
    assert "quantization_config" in json.loads((tmp_path / "packed" / "config.json").read_text())
    checkpoints.dequantize(tmp_path / "packed", "fp32", tmp_path / "back")
    again = dict(dnn.from_folder(tmp_path / "back").named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(again[name].detach(), value, rtol=4e-3, atol=1e-6)
    method.convert_()
    dnn.save_model(model, tmp_path / "model.safetensors")
    fresh = dnn.load_model_(dnn.from_folder(tmp_path / "bert"), tmp_path / "model.safetensors")
    for name, value in expected.items():
        held: Any = fresh.get_parameter(name)
        torch.testing.assert_close(held.dequantize(), value)
    dnn.to_folder(fresh, tmp_path / "plain")
    values = dict(dnn.from_folder(tmp_path / "plain").named_parameters())
    for name, value in expected.items():
        torch.testing.assert_close(values[name].detach(), ops.fake_quant(value, "int4_g32"))


def test_what_is_no_folder_or_no_model_of_transformers(folder, tmp_path):
    with pytest.raises(UserError, match=r"needs config\.json"):
        dnn.from_folder(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        dnn.to_folder(dnn.from_folder(folder), folder)
    with pytest.raises(UserError, match="save_model"):
        dnn.to_folder(nn.Linear(2, 2), tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchModel"]}))
    with pytest.raises(UserError, match="class 'NoSuchModel'"):
        dnn.from_folder(folder)
