"""Every recipe by its name in a configuration: it learns; and what it remembers survives a resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_helpers import Silent, metrics

from dither.nn import Recipe
from dither.train import read, train
from dither.train.checkpoint import FOLDER


@pytest.mark.parametrize("name", Recipe.presets())
def test_a_run_learns_under_every_preset(tiny, tmp_path: Path, name) -> None:
    tree = tiny(recipe={"name": name}, train={"steps": 25, "checkpoint_every": 0})
    train(tree, tmp_path / "run", progress=Silent())
    losses = [row["loss"] for row in read(tmp_path / "run") if row["kind"] == "train"]
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["fp8_delayed", "nvfp4_pretraining"])
def test_a_resumed_run_has_its_scales_and_its_switch(tiny, tmp_path: Path, name) -> None:
    """The bf16 forward begins at step 10 of 12, after the checkpoint of step 8."""
    tree = tiny(recipe={"name": name}, eval={"every": 4})
    train(tree, tmp_path / "whole", progress=Silent())
    cut = tmp_path / "cut"
    train(tree, cut, progress=Silent())
    (cut / "summary.json").unlink()
    for newest in (cut / FOLDER).glob("step-00000012.*"):
        newest.unlink()
    train(None, cut, resume=True, progress=Silent())
    assert metrics(cut) == metrics(tmp_path / "whole")
    one, other = ((run / "model.safetensors").read_bytes() for run in (cut, tmp_path / "whole"))
    assert one == other
