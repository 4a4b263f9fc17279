"""Small checkpoints for the tests: what a little transformer looks like on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

WIDTH, HIDDEN, VOCABULARY = 128, 256, 100
LINEARS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def tensors(layers: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    """Names and shapes as those of a Llama; weights with outliers, zeros, a zero row and negative zeros."""
    random = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> torch.Tensor:
        w = torch.randn(shape, generator=random) * 0.05
        w *= 1 + 9 * (torch.rand(shape, generator=random) > 0.999)
        return w

    found = {"model.embed_tokens.weight": weight(VOCABULARY, WIDTH)}
    shapes = {"up_proj": (HIDDEN, WIDTH), "down_proj": (WIDTH, HIDDEN)}
    for layer in range(layers):
        for linear in LINEARS:
            shape = shapes.get(linear.rpartition(".")[2], (WIDTH, WIDTH))
            found[f"model.layers.{layer}.{linear}.weight"] = weight(*shape)
        found[f"model.layers.{layer}.input_layernorm.weight"] = torch.ones(WIDTH)
    w = found["model.layers.0.self_attn.q_proj.weight"]
    w[3], w[5, ::2] = 0.0, -0.0
    w[7] *= 1e-6
    found["lm_head.weight"] = weight(VOCABULARY, WIDTH)
    return {name: tensor.to(dtype) for name, tensor in found.items()}


CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH}


def write_file(path: Path, dtype: torch.dtype = torch.float32, layers: int = 2, seed: int = 0) -> Path:
    save_file(tensors(layers, dtype, seed), path, metadata={"format": "pt"})
    return path


def write_folder(folder: Path, dtype: torch.dtype = torch.float32, shards: int = 1, layers: int = 2) -> Path:
    """A Hugging Face folder with configuration, tokenizer, and things that do not belong into a copy."""
    folder.mkdir(parents=True)
    found = tensors(layers, dtype)
    if shards == 1:
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        names, weight_map = list(found), {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: found[name] for name in names[i::shards]}
            weight_map |= dict.fromkeys(part, file)
            save_file(part, folder / file, metadata={"format": "pt"})
        total = sum(t.numel() * t.element_size() for t in found.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling": "mean"}')
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02pickle")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "secret").write_text("not copied")
    return folder


def as_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().numpy()
