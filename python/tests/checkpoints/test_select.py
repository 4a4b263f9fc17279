"""Which tensors are quantized: the default rule on the names of real models, and globs."""

from pathlib import Path

import pytest

from dither.checkpoints.select import role, select
from dither.checkpoints.tensors import TensorInfo
from dither.errors import UserError


def info(name: str, shape=(64, 64), dtype="F32") -> TensorInfo:
    return TensorInfo(name, dtype, shape, Path("a"), 0, 0)


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("model.embed_tokens.weight", "embedding"),  # Llama, Mistral, Qwen
        ("model.layers.0.self_attn.o_proj.weight", None),
        ("model.layers.3.block_sparse_moe.gate.weight", None),
        ("lm_head.weight", "head"),
        ("transformer.wte.weight", "embedding"),  # GPT-2
        ("transformer.h.0.attn.c_attn.weight", None),
        ("embeddings.word_embeddings.weight", "embedding"),  # BERT, MiniLM
        ("encoder.layer.0.attention.output.dense.weight", None),
        ("encoder.layer.0.output.dense.weight", None),
        ("pooler.dense.weight", None),
        ("cls.predictions.decoder.weight", "head"),
        ("classifier.weight", "head"),
        ("shared.weight", "embedding"),  # T5
        ("gpt_neox.layers.0.mlp.dense_h_to_4h.weight", None),  # Pythia
        ("embed_out.weight", "embedding"),
        ("token_embd.weight", "embedding"),  # GGUF
        ("output.weight", "head"),
        ("blk.0.attn_output.weight", None),
        ("embed.weight", "embedding"),  # dither.models.gpt
        ("head.weight", "head"),
    ],
)
def test_the_role_is_told_by_the_name(name, want):
    assert role(name) == want


def test_the_default_rule_takes_matrices():
    tensors = [
        info("a.weight"), info("norm.weight", (64,)), info("conv.weight", (8, 8, 3)),
        info("ids", (4, 4), "I64"), info("lm_head.weight"),
        info("blk.0.q.weight", dtype="GGUF:Q4_0"), info("none.weight", (0, 4)),
        info("b.weight", dtype="BF16"),
    ]  # fmt: skip
    assert select(tensors) == {
        "a.weight": None, "norm.weight": "1 dimension", "conv.weight": "3 dimensions",
        "ids": "no floating-point tensor", "lm_head.weight": "head", "blk.0.q.weight": "quantized already",
        "none.weight": "empty", "b.weight": None,
    }  # fmt: skip


def test_globs_take_away_and_choose():
    tensors = [
        info("l.0.q"),
        info("l.0.k"),
        info("l.1.q"),
        info("embed"),
        info("norm", (64,)),
        info("ids", dtype="I8"),
    ]
    assert select(tensors, exempt=["*.q"]) == {
        "l.0.q": "exempt", "l.0.k": None, "l.1.q": "exempt", "embed": "embedding", "norm": "1 dimension",
        "ids": "no floating-point tensor",
    }  # fmt: skip
    chosen = select(tensors, exempt=["l.1.*"], only=["*.q", "embed", "norm", "ids"])
    assert [name for name, why in chosen.items() if why is None] == ["l.0.q", "embed", "norm"]
    assert chosen["l.0.k"] == "not chosen" and chosen["ids"] == "no floating-point tensor"


def test_a_glob_that_matches_nothing_lists_the_names():
    tensors = [info(f"model.layers.{i}.mlp.weight") for i in range(15)]
    with pytest.raises(
        UserError, match=r"--exempt 'modle.*' matches no tensor.*The tensors: model\.layers\.0.*and 3 more"
    ):
        select(tensors, exempt=["modle.*"])
    with pytest.raises(UserError, match=r"--only .*did you mean 'model\.layers\.3\.mlp\.weight'"):
        select(tensors, only=["model.layers.3.mlp.wieght"])


def test_nothing_left_is_an_error_that_says_why():
    with pytest.raises(UserError, match=r"no tensor is left to quantize \(a: exempt; norm: 1 dimension\)"):
        select([info("a"), info("norm", (4,))], exempt=["a"])
