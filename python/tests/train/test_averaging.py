"""A run whose measurements and final weights are those of an average along a constant rate."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import Silent, metrics

from dither.errors import UserError
from dither.train import train
from dither.train.branch import branch
from dither.train.config import load, resolve


def steps_of(run: Path) -> list[dict[str, torch.Tensor]]:
    """The weights after every step."""
    found = []
    for path in sorted((run / "checkpoints").glob("*.safetensors")):
        found.append({k[6:]: v for k, v in load_file(path).items() if k.startswith("model.")})
    return found


@pytest.mark.parametrize("kind", ["tail", "ema"])
def test_a_run_ends_with_the_average_of_its_weights(tiny, tmp_path, kind):
    settings = {"schedule": "constant", "checkpoint_every": 1, "keep": 100}
    average = {"average": kind, "average_from": 0.5, "average_decay": 0.6}
    evaluation = {"every": 4, "casts": ["int4_g32"]}
    train(tiny(train=settings, eval=evaluation), tmp_path / "plain", progress=Silent())
    train(tiny(train=settings | average, eval=evaluation), tmp_path / "run", progress=Silent())
    weights = steps_of(tmp_path / "run")
    assert len(weights) == 12
    for own, plain in zip(weights, steps_of(tmp_path / "plain"), strict=True):
        assert all(torch.equal(own[name], plain[name]) for name in own)  # training takes no notice
    counted = weights[6:]
    final = load_file(tmp_path / "run" / "model.safetensors")
    for name, value in final.items():
        want = counted[0][name].double()
        for number, one in enumerate(counted[1:], start=2):
            want += (1 / number if kind == "tail" else 0.4) * (one[name].double() - want)
        torch.testing.assert_close(value.double(), want, rtol=0, atol=1e-6)
        assert not torch.equal(value, weights[-1][name])
    rows, plain = metrics(tmp_path / "run"), metrics(tmp_path / "plain")
    for row, other in zip(rows, plain, strict=True):
        averaged = row["kind"] == "eval" and row["step"] > 6
        assert (row["loss"] != other["loss"]) == averaged, row


@pytest.mark.parametrize("method", [{}, {"name": "lsq", "quantizer": "int4_row"}], ids=["none", "lsq"])
def test_a_resumed_run_has_its_average(tiny, tmp_path, method):
    run, again = tmp_path / "run", tmp_path / "again"
    tree = tiny(train={"average": "ema", "average_from": 0.2, "average_decay": 0.9}, method=method)
    train(tree, run, progress=Silent())
    shutil.copytree(run, again)  # as if it had been killed after the checkpoint of step 8
    for path in (*(again / "checkpoints").glob("step-00000012.*"), again / "summary.json"):
        path.unlink()
    train(None, again, resume=True, progress=Silent())
    assert metrics(again) == metrics(run)
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_a_method_after_training_begins_with_the_average(tiny, tmp_path):
    """As an arm that shares the training of another does (`same_as`): the same as a run of its own."""
    settings = {"average": "tail", "average_from": 0.5}
    gptq = {"name": "gptq", "quantizer": "int4_row"}
    evaluation = {"casts": ["int4_row"]}
    train(tiny(train=settings, eval=evaluation), tmp_path / "base", progress=Silent())
    own = train(tiny(train=settings, eval=evaluation, method=gptq), tmp_path / "own", progress=Silent())
    config = resolve(load(tiny(train=settings, eval=evaluation, method=gptq)), threads=1)
    branch(tmp_path / "base", config, tmp_path / "arm", print)
    arm = train(None, tmp_path / "arm", resume=True, progress=Silent())
    assert arm["final"] == own["final"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average": "tial"}, "did you mean 'tail'"),
        ({"average": "tail", "average_from": 1.0}, "average_from"),
        ({"average": "ema", "average_decay": 1.0}, "average_decay"),
    ],
)
def test_what_cannot_be_meant(tiny, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        train(tiny(train=settings), tmp_path / "run", progress=Silent())
