"""Opening checkpoints: files, folders, shards, and what is said about everything that is none."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_files import tensors, write_file, write_folder
from safetensors.torch import load_file, save_file

from dither.checkpoints.source import INDEX, open_checkpoint
from dither.checkpoints.tensors import read_values
from dither.errors import UserError


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_is_read_whole_or_in_shards(shards, tmp_path):
    folder = write_folder(tmp_path / "m", torch.bfloat16, shards)
    found = open_checkpoint(folder)
    want = tensors(dtype=torch.bfloat16)
    assert set(found.tensors) == set(want) and len(found.files) == shards
    for name, info in found.tensors.items():
        assert (read_values(info) == want[name].float().numpy()).all()
    assert found.nbytes == sum(t.numel() * 2 for t in want.values())
    assert found.config == json.loads((folder / "config.json").read_text())
    if shards > 1:
        assert set(open_checkpoint(folder / INDEX).tensors) == set(want)


def test_what_goes_along_is_neither_weights_nor_hidden(tmp_path):
    folder = write_folder(tmp_path / "m", shards=2)
    beside = {str(path) for path in open_checkpoint(folder).other_files()}
    assert beside == {"tokenizer.json", str(Path("1_Pooling", "config.json"))}


def test_a_single_file_has_no_folder(tmp_path):
    found = open_checkpoint(write_file(tmp_path / "a.safetensors"))
    assert found.folder is None and not list(found.other_files()) and not found.is_gguf


def refused(path, says: str) -> None:
    with pytest.raises(UserError, match=says):
        open_checkpoint(path)


def test_what_is_missing_or_of_another_kind_is_said(tmp_path):
    refused(tmp_path / "nothing", "does not exist")
    refused(tmp_path, "holds no safetensors file")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    refused(tmp_path, r"pytorch_model\.bin is a pickle.*save_pretrained")
    refused(tmp_path / "pytorch_model.bin", "is no safetensors file but a pickle")
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "pytorch_model.bin").unlink()
    refused(tmp_path, r"for the GGUF file give its own name, .*a\.gguf")


def test_several_files_without_an_index_are_not_guessed_at(tmp_path):
    for name in ("a", "b"):
        write_file(tmp_path / f"{name}.safetensors")
    refused(tmp_path, "holds 2 safetensors files and no model.safetensors.index.json")


def change_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


def test_an_index_that_lies_is_refused(tmp_path):
    def folder(i):
        return write_folder(tmp_path / str(i), shards=2)

    a = folder(0)
    (a / "model-00002-of-00002.safetensors").unlink()
    refused(a, r"model-00002-of-00002\.safetensors is missing")
    b = folder(1)
    change_index(b, lambda index: index["weight_map"].update({"ghost": "model-00001-of-00002.safetensors"}))
    refused(b, "'ghost' lies in")
    c = folder(2)
    change_index(c, lambda index: index["weight_map"].pop("lm_head.weight"))
    refused(c, r"'lm_head\.weight' lies in .* but not in")
    d = folder(3)
    change_index(d, lambda index: index["weight_map"].update({"x": "../outside.safetensors"}))
    refused(d, "lies outside the folder")
    e = folder(4)
    change_index(e, lambda index: index.pop("weight_map"))
    refused(e, "has no weight_map")
    f = folder(5)
    (f / INDEX).write_text("{")
    refused(f, "is no JSON")
    g = folder(6)
    (g / "config.json").write_text("[]")
    refused(g, "holds no JSON object")


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    folder = write_folder(tmp_path / "m", shards=2)
    first = folder / "model-00001-of-00002.safetensors"
    second = load_file(folder / "model-00002-of-00002.safetensors")
    save_file(load_file(first) | {"lm_head.weight": second.popitem()[1]} | second, first)
    refused(folder, "mixes two checkpoints")
