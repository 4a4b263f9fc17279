"""Configurations: what is read, what is refused and in which words, and that a dump reads back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from dither.errors import UserError
from dither.train.config import from_dict, load, resolve
from dither.train.toml import dump_toml, to_dict


def test_a_dump_reads_back_to_the_same_configuration(tiny) -> None:
    tree = tiny(
        eval={"casts": ["int4_g32", "format=e3m2,block=64,scale_format=e8m0,scale_rule=floor"]},
        method={
            "name": "lotion",
            "quantizer": "int4_g32",
            "options": {"lam": 1e-3, "mode": "loss", "nested": {"a b": [1, 2]}},
        },
        data={"sources": ['odd "name" \\ é\n']},
    )
    config = from_dict(tree, "test")
    text = dump_toml(to_dict(config))
    assert from_dict(tomllib.loads(text), "dump") == config
    assert dump_toml(to_dict(from_dict(tomllib.loads(text), "dump"))) == text


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"warmpu": 3}}, r"\[train\] unknown key 'warmpu' \(did you mean 'warmup'\?\)"),
        ({"modle": {}}, r"unknown key 'modle' \(did you mean 'model'"),
        ({"train": {"lr": "fast"}}, "train.lr must be a number, not 'fast'"),
        ({"train": {"steps": 2.5}}, "train.steps must be a whole number, not 2.5"),
        ({"train": {"steps": True}}, "train.steps must be a whole number, not True"),
        ({"train": {"lr": -1.0}}, "must be positive"),
        ({"train": {"lr": float("nan")}}, "must be positive"),
        ({"train": {"steps": 0}}, "exactly one of train.steps and train.tokens"),
        ({"train": {"tokens": 100}}, "exactly one of train.steps and train.tokens"),
        ({"train": {"seed": 2**63}}, "below 2.63"),
        ({"train": {"batch": 4, "accumulate": 3}}, "accumulate = 3 must divide train.batch = 4"),
        ({"train": {"schedule": "cosin"}}, "did you mean 'cosine'"),
        ({"train": {"betas": [0.9]}}, "two numbers"),
        ({"data": {"validation": 1.0}}, "data.validation must lie between 0 and 1"),
        ({"data": {"sources": []}}, "data.sources is empty"),
        ({"data": {"tokenizer": "none"}}, "needs data.vocab"),
        ({"model": {"width": 33}}, "multiple of twice model.heads"),
        ({"model": {"norm": "batchnorm"}}, "model.norm must be"),
        ({"method": {"name": "lotoin"}}, "did you mean 'lotion'"),
        ({"method": {"name": "qat"}}, "needs method.quantizer"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_way_out(tiny, sections, message) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_dict(tiny(**sections), "run.toml")
    assert str(caught.value).startswith("run.toml")


def test_overrides_win_and_strings_of_the_command_line_are_converted(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[train]\ntokens = 1000\nlr = 1e-3\n")
    config = load(path, {"train.steps": "7", "train.lr": 2, "eval.casts": "int4_g32", "recipe.name": "mxfp8"})
    assert (config.train.steps, config.train.tokens, config.train.lr) == (7, 0, 2.0)
    assert config.eval.casts == ("int4_g32",) and config.recipe.name == "mxfp8"
    options = {"method.name": "ptq", "method.quantizer": "int4", "method.options.lam": "0.5"}
    config = load(path, {**options, "method.options.mode": "grad"})
    assert config.method.options == {"lam": 0.5, "mode": "grad"}
    with pytest.raises(UserError, match=r"did you mean 'steps'"):
        load(path, {"train.step": 3})


def test_a_missing_or_malformed_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.toml: no such file"):
        load(tmp_path / "nowhere.toml")
    comparison = tmp_path / "arms.toml"
    comparison.write_text('[[arm]]\nname = "a"')
    with pytest.raises(UserError, match=r"run it with `dither compare`"):
        load(comparison)
    bad = tmp_path / "bad.toml"
    bad.write_text("[train\nsteps = 3")
    with pytest.raises(UserError, match=r"bad.toml is not valid TOML.*line 1"):
        load(bad)


def test_paths_that_cannot_be_recorded_are_refused_and_an_unknown_home_is_left(tiny) -> None:
    with pytest.raises(UserError, match=r"no Unicode name"):
        resolve(from_dict(tiny(data={"sources": ["\udcff"]}), "test"), 1)
    (source,) = resolve(from_dict(tiny(data={"sources": ["~nobody-here/x"]}), "test"), 1).data.sources
    assert source.endswith("/~nobody-here/x")


def test_tokens_become_steps_and_threads_are_fixed(tiny) -> None:
    tree = tiny(train={"threads": 0, "tokens": 1000.0})
    del tree["train"]["steps"]
    resolved = resolve(from_dict(tree, "test"), threads=3)
    assert (resolved.train.steps, resolved.train.tokens) == (8, 0)  # 4 sequences of 32 tokens a step
    assert resolved.train.threads == 3
    assert resolve(resolved, threads=5) == resolved
