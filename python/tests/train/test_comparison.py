"""A comparison: same start for every arm, arms reused and resumed, differences over seeds, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from training_helpers import Silent

from dither.errors import UserError
from dither.scores import ScoreTable
from dither.train import compare, read
from dither.train.plan import load_plan

TOML = """
differences = [["rat", "ptq"]]
[model]
layers = 1
width = 32
heads = 2
context = 32
[data]
sources = ["{corpus}"]
[train]
steps = 8
batch = 4
lr = 1e-2
warmup = 2
threads = 1
checkpoint_every = 4
[eval]
tokens = 512
casts = ["int4_g32"]
draws = 2
[[arm]]
name = "fp32"
[[arm]]
name = "mxfp8"
recipe = {{ name = "mxfp8" }}
[[arm]]
name = "ptq"
same_as = "fp32"
method = {{ name = "ptq", quantizer = "int4_g32" }}
[[arm]]
name = "rat"
method = {{ name = "rat", quantizer = "int4_g32" }}
train = {{ lr = 5e-3 }}
"""


@pytest.fixture
def toml(tmp_path: Path, corpus_folder: Path) -> Path:
    path = tmp_path / "compare.toml"
    path.write_text(TOML.format(corpus=corpus_folder))
    return path


def test_arms_share_data_and_start_and_are_put_side_by_side(toml: Path, tmp_path: Path) -> None:
    comparison = compare(toml, tmp_path / "out", progress=Silent())
    arms = {arm.name: arm for arm in comparison.arms}
    assert list(arms) == ["fp32", "mxfp8", "ptq", "rat"]
    for arm in arms.values():
        assert arm.status == "done" and arm.full and arm.full.loss and arm.full.bits_per_byte
        assert set(arm.nearest) == set(arm.randomized) == {"int4_g32"}
        assert arm.randomized["int4_g32"].draws == 2 and arm.peak_rss_mib and arm.tokens_per_s
    assert arms["fp32"].slow_down == 1.0 and arms["mxfp8"].slow_down != 1.0
    assert arms["ptq"].same_as == "fp32" and arms["ptq"].nearest == arms["fp32"].nearest
    assert arms["ptq"].run_dir == arms["fp32"].run_dir and not (tmp_path / "out" / "ptq").exists()
    assert arms["mxfp8"].own_recipe is not None and arms["fp32"].own_recipe is None
    starts = {
        json.loads((tmp_path / "out" / name / "run.json").read_text())["initial_state"]
        for name in ("fp32", "rat")
    }
    assert starts == set(comparison.initial_states.values()) and len(starts) == 1
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == json.loads(
        json.dumps(comparison.to_dict())
    )
    views = [(d.view, d.cast) for d in comparison.differences]
    assert views == [("full", None), ("nearest", "int4_g32"), ("randomized", "int4_g32")]
    (difference,) = [d for d in comparison.differences if d.view == "nearest"]
    assert difference.interval.n == 1 and difference.interval.low is None
    losses = [arms[name].nearest["int4_g32"].loss for name in ("rat", "fp32")]
    assert difference.interval.mean == losses[0] - losses[1]  # type: ignore[operator]


def test_seeds_give_every_arm_a_run_each_and_paired_intervals(toml: Path, tmp_path: Path) -> None:
    overrides = {"seeds": [3, 5, 8], "train.steps": 4}
    comparison = compare(toml, tmp_path / "out", overrides, progress=Silent())
    assert [(arm.seed, arm.name) for arm in comparison.arms] == [
        (seed, name) for seed in (3, 5, 8) for name in ("fp32", "mxfp8", "ptq", "rat")
    ]
    assert len(set(comparison.initial_states.values())) == 3
    interval = comparison.differences[1].interval
    pairs = {}
    for arm in comparison.arms:
        pairs.setdefault(arm.name, []).append(arm.nearest["int4_g32"].loss)
    assert interval.n == 3
    assert interval.mean == pytest.approx(sum(pairs["rat"]) / 3 - sum(pairs["ptq"]) / 3)
    assert interval.low < interval.mean < interval.high  # type: ignore[operator]


AFTER = """
[[arm]]
name = "{name}"
same_as = "fp32"
eval = {{ casts = ["int3_row"] }}
method = {{ name = "{method}", quantizer = "int3_row" }}
"""
METHODS_AFTER = {"cast": "ptq", "gptq": "gptq", "rounding": "adaround"}


def test_methods_after_training_share_the_training_and_equal_runs_of_their_own(
    toml: Path, tmp_path: Path
) -> None:
    """One fp32 run serves GPTQ and learned rounding, bit for bit as if each had trained for itself."""
    shared = "".join(AFTER.format(name=name, method=method) for name, method in METHODS_AFTER.items())
    text = toml.read_text()
    toml.write_text(text + shared)
    comparison = compare(toml, tmp_path / "shared", progress=Silent())
    steps = []

    class Count(Silent):
        def step(self, row) -> None:
            steps.append(row["step"])

    assert compare(toml, tmp_path / "shared", progress=Count()) == comparison and not steps
    alone = tmp_path / "alone.toml"
    alone.write_text(text + shared.replace('same_as = "fp32"\n', ""))
    arms = {arm.name: arm for arm in comparison.arms}
    for other in compare(alone, tmp_path / "alone", progress=Silent()).arms:
        if other.name in METHODS_AFTER:
            arm = arms[other.name]
            assert arm.same_as == "fp32" and arm.status == "done" and set(arm.nearest) == {"int3_row"}
            assert (arm.full, arm.nearest, arm.randomized) == (other.full, other.nearest, other.randomized)
            rows = [[r for r in read(a.run_dir) if r["kind"] == "eval"] for a in (arm, other)]
            assert [r["loss"] for r in rows[0]] == [r["loss"] for r in rows[1]]
    assert len({arms[name].nearest["int3_row"].loss for name in METHODS_AFTER}) == 3


def test_arms_of_other_methods_never_take_the_losses_of_a_base_that_places_its_weights(
    toml: Path, tmp_path: Path
) -> None:
    """Under the casts of a GPTQ run, rounding to nearest gives what it gives under those of plain training;
    GPTQ again gives what it gave."""
    arm = '[[arm]]\nname = "{}"\n{}method = {{ name = "{}", quantizer = "int4_g32" }}\n'
    shared = 'same_as = "gptq"\n'
    text = toml.read_text().split('[[arm]]\nname = "mxfp8"')[0].replace('[["rat", "ptq"]]', "[]")
    text += arm.format("gptq", "", "gptq") + arm.format("ptq", shared, "ptq")
    text += '[[arm]]\nname = "none"\n' + shared + arm.format("again", shared, "gptq")
    toml.write_text(text)
    arms = {arm.name: arm for arm in compare(toml, tmp_path / "out", progress=Silent()).arms}
    for name in ("ptq", "none"):
        assert (arms[name].nearest, arms[name].randomized) == (arms["fp32"].nearest, arms["fp32"].randomized)
    assert arms["gptq"].nearest != arms["fp32"].nearest
    assert arms["again"].nearest == arms["gptq"].nearest and arms["again"].full == arms["fp32"].full


def test_an_arm_begins_at_a_valid_checkpoint_of_the_arm_it_shares(toml: Path, tmp_path: Path) -> None:
    """A damaged newest one is passed over with a message, and the steps after the one before it are trained
    again; where none is left, what to do is said and nothing is begun."""
    text = toml.read_text()
    after = text + AFTER.format(name="gptq", method="gptq")
    toml.write_text(after)
    whole = compare(toml, tmp_path / "whole", progress=Silent()).arms[-1]
    toml.write_text(text)
    compare(toml, tmp_path / "out", progress=Silent())
    folder = tmp_path / "out" / "fp32" / "checkpoints"
    older, newest = sorted(folder.glob("*.safetensors"))
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    toml.write_text(after)
    said = Silent()
    mended = compare(toml, tmp_path / "out", progress=said).arms[-1]
    assert any("does not match its SHA-256" in line for line in said.lines)
    assert "resuming at step 4" in said.lines
    assert (mended.full, mended.nearest) == (whole.full, whole.nearest)

    shutil.rmtree(tmp_path / "out" / "gptq")
    older.unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .*fp32.* can be used"):
        compare(toml, tmp_path / "out", progress=Silent())
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"fp32 has no checkpoint for 'gptq'.*trained again"):
        compare(toml, tmp_path / "out", progress=Silent())
    assert not (tmp_path / "out" / "gptq").exists()


def test_scores_of_a_run_go_on_in_an_arm_that_shares_it(toml: Path, tmp_path: Path) -> None:
    text = toml.read_text().replace("draws = 2", 'draws = 2\nscores = ["el2n", "forgetting"]\nevery = 4')
    toml.write_text(text + AFTER.format(name="gptq", method="gptq"))
    arms = {arm.name: arm for arm in compare(toml, tmp_path / "out", progress=Silent()).arms}
    tables = [ScoreTable.load(Path(arms[name].run_dir) / "scores.parquet") for name in ("fp32", "gptq")]
    for score in ("el2n", "forgetting"):
        np.testing.assert_array_equal(tables[0].values(score), tables[1].values(score))


def test_arms_may_be_added_or_left_out_but_not_changed(toml: Path, tmp_path: Path) -> None:
    text = toml.read_text()
    toml.write_text(text.replace('differences = [["rat", "ptq"]]', "").split('[[arm]]\nname = "rat"')[0])
    first = compare(toml, tmp_path / "out", progress=Silent())
    toml.write_text(text)
    began = []

    class Began(Silent):
        def start(self, name: str, steps: int, done: int) -> None:
            began.append(name)

    second = compare(toml, tmp_path / "out", progress=Began())
    assert began == ["rat"] and [a.full for a in second.arms[:3]] == [a.full for a in first.arms]
    assert (tmp_path / "out" / "config.toml").read_text() == text
    toml.write_text(text.split('[[arm]]\nname = "ptq"')[0].replace('[["rat", "ptq"]]', "[]"))
    third = compare(toml, tmp_path / "out", progress=Began())
    assert began == ["rat"] and [a.full for a in third.arms] == [a.full for a in first.arms[:2]]
    toml.write_text(text.replace('{ name = "mxfp8" }', '{ name = "mxfp6" }'))
    with pytest.raises(UserError, match="another plan"):  # an arm of this name is another one
        compare(toml, tmp_path / "out", progress=Silent())


def test_finished_arms_are_kept_and_unfinished_ones_resume(toml: Path, tmp_path: Path) -> None:
    whole = compare(toml, tmp_path / "whole", progress=Silent())

    class Stop(Silent):
        def start(self, name: str, steps: int, done: int) -> None:
            self.arm = name

        def step(self, row) -> None:
            if self.arm == "rat" and row["step"] == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(toml, tmp_path / "out", progress=Stop())
    stamp = (tmp_path / "out" / "fp32" / "summary.json").stat().st_mtime_ns
    said = Silent()
    comparison = compare(toml, tmp_path / "out", progress=said)
    assert (tmp_path / "out" / "fp32" / "summary.json").stat().st_mtime_ns == stamp
    assert "resuming at step 4" in said.lines
    assert [(a.full, a.nearest, a.randomized) for a in comparison.arms] == [
        (a.full, a.nearest, a.randomized) for a in whole.arms
    ]
    with pytest.raises(UserError, match=r"holds a comparison with another plan"):
        compare(toml, tmp_path / "out", {"train.lr": 1e-3}, progress=Silent())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"not empty and holds no comparison"):
        compare(toml, tmp_path / "other", progress=Silent())


def test_an_arm_that_diverges_does_not_stop_the_others(toml: Path, tmp_path: Path) -> None:
    text = toml.read_text().replace("lr = 5e-3", "lr = 1e30, clip = 0, warmup = 0")
    toml.write_text(text)
    comparison = compare(toml, tmp_path / "out", progress=Silent())
    rat = comparison.arms[-1]
    assert rat.status.startswith("diverged at step") and rat.full is None and rat.slow_down is None
    assert comparison.arms[1].status == "done" and comparison.differences == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[arm]]", "[[arms]]", "has no"),
        ('name = "mxfp8"\n', 'name = "fp32"\n', "taken by an earlier arm"),
        ('name = "mxfp8"\n', 'name = "../up"\n', "needs a name of letters"),
        ('same_as = "fp32"', 'same_as = "fp31"', "did you mean 'fp32'"),
        ('same_as = "fp32"', 'same_as = "rat"', "names no earlier arm"),
        ('same_as = "fp32"', 'same_as = "mxfp8"', "differ in more than .eval. and a method"),
        ("lr = 5e-3", "seed = 4", "has its own train.seed"),
        ("train = { lr = 5e-3 }", "model = { width = 64 }", r"another \[model\]"),
        ('["rat", "ptq"]', '["rat", "ptc"]', "unknown arm 'ptc' .did you mean 'ptq'"),
        ('["rat", "ptq"]', '"rat"', "a list of pairs of arms"),
        ("differences", "seeds = [1, 1]\ndifferences", "seeds must be different"),
        ("differences", "seeds = [0.5]\ndifferences", "seeds must be a whole number, not 0.5"),
        ("lr = 5e-3", "lrr = 5e-3", r"arm 4 .rat.*unknown key 'lrr'"),
        ("[model]", "[modell]", "unknown key 'modell'"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(toml: Path, old: str, new: str, message: str) -> None:
    assert old in toml.read_text()
    toml.write_text(toml.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        load_plan(toml)


def test_what_is_wrong_with_the_last_arm_is_said_before_anything_is_trained_or_claimed(
    toml: Path, tmp_path: Path
) -> None:
    toml.write_text(
        toml.read_text().replace(
            "train = { lr = 5e-3 }", 'recipe = { exempt = ["*.none"], fprop_x = "int8" }'
        )
    )
    toml.write_text(toml.read_text().replace('name = "rat", quant', 'name = "lotion", quant'))
    with pytest.raises(UserError, match=r"arm 'rat': .*none"):
        compare(toml, tmp_path / "out", progress=Silent())
    assert not (tmp_path / "out").exists()


def test_overrides_win_over_every_arm(toml: Path) -> None:
    plan = load_plan(toml, {"train.lr": 1e-4, "seeds": "[1, 2]"})
    assert {arm.config.train.lr for arm in plan.arms} == {1e-4} and plan.seeds == (1, 2)


def test_the_quickstart_is_a_valid_plan() -> None:
    plan = load_plan(Path(__file__).parents[3] / "examples" / "quickstart.toml")
    assert [arm.name for arm in plan.arms] == ["fp32", "mxfp8", "mxfp4", "ptq", "qat", "lotion"]
