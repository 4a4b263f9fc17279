"""A run that is killed and resumed equals one that was not: bit for bit, wherever the kill falls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_helpers import Silent, metrics

from dither.errors import UserError
from dither.train import train
from dither.train.checkpoint import FOLDER

DRIVER = Path(__file__).with_name("killed_run.py")
PLAIN = {"eval": {"every": 5}, "train": {"threads": 2}}
# stochastic rounding of weights, activations and gradients, two microbatches, and a method with a state of
# its own
EVERYTHING = {
    "train": {"accumulate": 2},
    "eval": {"every": 5, "casts": ["int4_g32"]},
    "recipe": {
        "name": "mxfp4",
        "fprop_x": "mxfp4:rounding=stochastic",
        "fprop_w": "mxfp4:rounding=stochastic",
        "dgrad_g": "mxfp4:rounding=stochastic",
    },
    "method": {
        "name": "lotion",
        "quantizer": "int4_g32",
        "options": {"curvature": "fisher", "every": 3, "lam": 0.1},
    },
}
RAT = {"method": {"name": "rat", "quantizer": "int4_g32"}, "eval": {"every": 5, "casts": ["int4_g32"]}}


def assert_equal(run: Path, reference: Path) -> None:
    assert metrics(run) == metrics(reference)
    for name in ("model.safetensors", f"{FOLDER}/step-00000012.safetensors"):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    assert (run / "metrics.parquet").exists() and (run / "summary.json").exists()
    assert not list(run.rglob("*.tmp-*"))


def spawn(config: Path, run: Path, point: str) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, str(DRIVER), str(config), str(run), point], env=environment, capture_output=True
    )
    if process.returncode not in (0, -signal.SIGKILL):
        raise AssertionError(process.stderr.decode())
    return process.returncode


@pytest.mark.parametrize(
    ("sections", "points"),
    [
        (PLAIN, ["row:1", "row:6", "tensors:1"]),
        (RAT, ["header:1", "row:9"]),
        (EVERYTHING, ["row:7", "header:2", "tensors:1", "parquet", "summary"]),
    ],
    ids=["plain", "rat", "everything"],
)
def test_killed_again_and_again_it_ends_the_same(tiny, tmp_path: Path, sections, points) -> None:
    tree = tiny(**sections)
    (tmp_path / "config.json").write_text(json.dumps(tree))
    train(tree, tmp_path / "reference", progress=Silent())
    run = tmp_path / "run"
    for point in points:
        assert spawn(tmp_path / "config.json", run, point) == -signal.SIGKILL, point
        assert not (run / "summary.json").exists()
    train(None, run, resume=True, progress=Silent())
    assert_equal(run, tmp_path / "reference")


def test_the_command_killed_from_outside_resumes(tiny, tmp_path: Path) -> None:
    """`python -m dither train`, killed at a moment that it does not know of."""
    from dither.train.config import from_dict
    from dither.train.toml import dump_toml, to_dict

    tree = tiny(train={"steps": 300, "checkpoint_every": 25}, eval={"every": 60})
    config = tmp_path / "run.toml"
    config.write_text(dump_toml(to_dict(from_dict(tree, "test"))))
    train(tree, tmp_path / "reference", progress=Silent())
    run = tmp_path / "run"
    command = [sys.executable, "-m", "dither", "train", str(config), "--out", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    rows, deadline = run / "metrics.jsonl", time.monotonic() + 60
    while not (rows.exists() and rows.read_bytes().count(b"\n") >= 60):
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (run / "summary.json").exists()
    done = subprocess.run([*command, "--resume"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert metrics(run) == metrics(tmp_path / "reference")


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tiny, tmp_path: Path) -> None:
    tree, said = tiny(), Silent()
    train(tree, tmp_path / "reference", progress=Silent())
    run = tmp_path / "run"
    train(tree, run, progress=Silent())
    (run / "summary.json").unlink()
    newest = run / FOLDER / "step-00000012.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    train(None, run, resume=True, progress=said)
    assert any("step-00000012" in line and "cut off" in line for line in said.lines)
    assert "resuming at step 8" in said.lines
    assert_equal(run, tmp_path / "reference")

    (run / "summary.json").unlink()
    for path in (run / FOLDER).glob("*.safetensors"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used"):
        train(None, run, resume=True, progress=said)
    assert any("does not match its SHA-256" in line for line in said.lines)


def test_only_the_same_run_is_resumed(tiny, tmp_path: Path, corpus_folder: Path) -> None:
    run = tmp_path / "run"
    train(tiny(), run, progress=Silent())
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match=r"train.lr was 0.01 and is now 0.02"):
        train(tiny(train={"lr": 0.02}), run, resume=True, progress=Silent())
    train(
        tiny(train={"keep": 1, "threads": 0}), run, resume=True, progress=Silent()
    )  # what changes no metric

    (run / "summary.json").unlink()
    extra = corpus_folder / "extra.txt"
    extra.write_text("a document that was not there")
    try:
        with pytest.raises(UserError, match=r"the corpus has changed since it was started"):
            train(None, run, resume=True, progress=Silent())
    finally:
        extra.unlink()
    with pytest.raises(UserError, match=r"holds no run to resume"):
        train(None, tmp_path / "nothing", resume=True, progress=Silent())
