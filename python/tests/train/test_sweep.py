"""Sweeps: what a file means, who claims a run, and that no death of a process loses or doubles one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_helpers import Silent, metrics

from dither import laws
from dither.errors import UserError
from dither.train import load_grid, sweep, train
from dither.train.claims import FAILED, RELEASED, SILENCE, Claims, Owner
from dither.train.config import from_dict
from dither.train.sweep import status
from dither.train.toml import dump_toml, to_dict


@pytest.fixture
def write(tiny: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Path]:
    """`write(text, train={...})`: the file of a sweep: the tiny configuration, then `text`."""

    def make(text: str, **sections: Any) -> Path:
        path = tmp_path / "grid.toml"
        path.write_text(dump_toml(to_dict(from_dict(tiny(**sections), "test"))) + "\n" + text)
        return path

    return make


def test_a_grid_and_a_list_multiply(write) -> None:
    path = write(
        '[grid]\n"train.seed" = [0, 1]\n[grid.model]\nwidth = [32, 64]\n'
        '[[run]]\n"train.lr" = 1e-3\n[[run]]\nrecipe = { name = "mxfp8" }\n'
    )
    entries, copies = load_grid(path)
    assert copies == 0 and len({entry.key for entry in entries}) == 8
    seen = {
        (e.config.train.seed, e.config.model.width, e.config.train.lr, e.config.recipe.name) for e in entries
    }
    assert seen == {
        (s, w, *rest) for s in (0, 1) for w in (32, 64) for rest in ((1e-3, "fp32"), (1e-2, "mxfp8"))
    }
    longer = load_grid(path, {"train.steps": 13})[0]
    assert {e.config.train.steps for e in longer} == {13}
    assert not {e.key for e in longer} & {e.key for e in entries}


def test_a_run_that_is_listed_twice_is_trained_once(write) -> None:
    entries, copies = load_grid(write('[grid]\n"train.lr" = [1e-3, 0.001, 2e-3]\n'))
    assert len(entries) == 2 and copies == 1
    # what changes no metric makes no other run
    entries, copies = load_grid(write('[grid]\n"train.checkpoint_every" = [4, 6]\n'))
    assert len(entries) == 1 and copies == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no \[grid\] and no \[\[run\]\] table"),
        ('[grid]\n"train.lr" = []\n', r"train.lr is empty"),
        ('[grid]\n"train.lr" = 1e-3\n', r"train.lr must be a list"),
        ('[grid]\n"train.lrr" = [1]\n', r"unknown key 'lrr' \(did you mean 'lr'\?\)"),
        ("[grid]\nlr = [1]\n", r'unknown key \'lr\'; keys are "section.key"'),
        ('[grid]\n"recipe.name" = ["mxfp8", "mxpf4"]\n', r"recipe.name=mxpf4.*mxfp4"),
        ('[grid]\n"train.lr" = [1]\n[[run]]\n"train.lr" = 2\n', r"train.lr stands in \[grid\] and in a"),
        ('[grid]\n"train.lr" = [1]\ntrain = { lr = [2] }\n', r"train.lr is set twice"),
        ('[[arm]]\nname = "a"\n', r"run it with `dither compare`"),
        ('[run]\n"train.lr" = 2\n', r"run must be a list"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(write, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_grid(write(text))


def test_an_option_for_what_the_file_sweeps_is_refused(write) -> None:
    with pytest.raises(UserError, match=r"gives train.lr to each run"):
        load_grid(write('[grid]\n"train.lr" = [1e-3]\n'), {"train.lr": 1.0})


def test_a_claim_is_taken_once_and_again_when_its_owner_is_dead(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    first = claims.take("key")
    assert first is not None and first.generation == 1
    assert Claims(tmp_path).take("key") is None, "this process lives"
    process = subprocess.Popen([sys.executable, "-c", ""])
    owner = Owner.of(process.pid)
    process.wait()
    path = claims.path / "key.1"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "pid": owner.pid, "born": owner.born}))
    second = claims.take("key")
    assert second is not None and second.generation == 2 and claims.take("key") is None
    # another process that got the number of the dead one
    (claims.path / "key.2").write_text(json.dumps({**content, "born": "1"}))
    third = claims.take("key")
    assert third is not None and third.generation == 3
    claims.close("key", third, RELEASED)
    assert claims.take("key") is not None


def test_of_two_that_find_a_claim_dead_one_gets_it(tmp_path: Path) -> None:
    slow, quick = Claims(tmp_path), Claims(tmp_path)
    claim = slow.take("key")
    assert claim is not None
    slow.close("key", claim, FAILED, "why")
    found = slow.newest("key")
    assert found is not None and found.error == "why"
    assert quick.take("key") is not None
    slow.newest = lambda key: found  # type: ignore[method-assign]  # it looked before the quick one took it
    assert slow.take("key") is None
    assert not [p for p in slow.path.iterdir() if p.name.startswith(".")]


def test_the_claim_of_another_machine_is_dead_after_silence(tmp_path: Path) -> None:
    now = [1000.0]
    claims = Claims(tmp_path, clock=lambda: now[0])
    claim = claims.take("key")
    assert claim is not None
    path = claims.path / "key.1"
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "elsewhere"}))
    away = claims.newest("key")
    assert away is not None and not claims.abandoned("key", away)
    now[0] += SILENCE - 1
    assert not claims.abandoned("key", away)
    os.utime(path, ns=(1, 1))  # a sign of life, whatever the other clock says
    now[0] += SILENCE - 1
    assert not claims.abandoned("key", away)
    now[0] += SILENCE + 1
    assert claims.abandoned("key", away) and claims.take("key") is not None


def test_a_sweep_trains_what_train_would_and_laws_read_it(write, tmp_path: Path) -> None:
    path = write('[grid]\n"train.steps" = [4, 8]\n"model.width" = [32, 64]\n')
    entries, _ = load_grid(path)
    said = Silent()
    states = sweep(entries, tmp_path / "out", workers=2, progress=said)
    assert [state.state for state in states] == ["done"] * 4 and [s.step for s in states] == [4, 4, 8, 8]
    assert any("left" in line for line in said.lines)
    train(entries[0].config, tmp_path / "alone", progress=Silent())
    assert metrics(tmp_path / "out" / entries[0].key) == metrics(tmp_path / "alone")
    table, left = laws.read_runs(sorted((tmp_path / "out").iterdir())[1:])  # without .sweep, as * has them
    assert not left and len(set(table["N"])) == 2 and set(table["D"]) == {4 * 4 * 32, 8 * 4 * 32}
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/metrics.jsonl")}
    assert sweep(entries, tmp_path / "out", workers=2, progress=said) == states, "nothing is trained again"
    assert before == {p: p.stat().st_mtime_ns for p in before}


@pytest.mark.slow
def test_one_failure_loses_no_other_run_and_is_tried_again(write, tmp_path: Path) -> None:
    path = write('[grid]\n"train.lr" = [1e30, 1e-2]\n', train={"clip": 0, "warmup": 0, "steps": 6})
    entries, _ = load_grid(path)
    for attempt in (1, 2):
        states = sweep(entries, tmp_path / "out", workers=1, progress=Silent())
        assert [state.state for state in states] == ["failed", "done"]
        assert "Lower train.lr" in states[0].note
        claim = Claims(tmp_path / "out").newest(entries[0].key)
        assert claim is not None and claim.generation == attempt
    assert [s.state for s in status(entries, tmp_path / "out")] == ["failed", "done"]


def start(path: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dither", "sweep", str(path), "--out", str(out), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_sweep_goes_on_where_it_was(write, tmp_path: Path) -> None:
    path = write('[grid]\n"train.seed" = [0, 1]\n', train={"steps": 400, "checkpoint_every": 20})
    entries, _ = load_grid(path)
    out = tmp_path / "out"
    process = start(path, out)
    files = [out / entry.key / "metrics.jsonl" for entry in entries]
    deadline = time.monotonic() + 90
    while not all(file.exists() and file.read_bytes().count(b"\n") >= 50 for file in files):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    claims = Claims(out)
    found = [claims.newest(entry.key) for entry in entries]
    process.kill()
    assert process.wait() == -signal.SIGKILL
    while not all(c is not None and c.owner.dead() for c in found):  # its runs end with it
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [s.state for s in status(entries, out)] == ["stopped", "stopped"]
    again = start(path, out)
    text, _ = again.communicate()
    assert again.returncode == 0 and "2 done" in text, text
    logs = [(out / ".sweep" / "logs" / f"{e.key}.log").read_text() for e in entries]
    assert all("resuming at step" in log for log in logs)
    train(entries[0].config, tmp_path / "alone", progress=Silent())
    assert metrics(out / entries[0].key) == metrics(tmp_path / "alone")


@pytest.mark.slow
def test_two_sweeps_share_the_work(write, tmp_path: Path) -> None:
    path = write('[grid]\n"train.seed" = [0, 1, 2]\n', train={"steps": 40})
    entries, _ = load_grid(path)
    out = tmp_path / "out"
    both = [start(path, out), start(path, out)]
    for process in both:
        text, _ = process.communicate()
        assert process.returncode == 0 and "3 done" in text, text
    claims = Claims(out)
    for entry in entries:
        claim = claims.newest(entry.key)
        rows = [row["step"] for row in metrics(out / entry.key) if row["kind"] == "train"]
        assert claim is not None and claim.generation == 1 and rows == list(range(1, 41))


@pytest.mark.slow
def test_a_run_that_is_killed_is_reported(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, _ = load_grid(write('[grid]\n"train.seed" = [0]\n', train={"steps": 3000}))
    short, _ = load_grid(write('[grid]\n"train.seed" = [7]\n', train={"steps": 2}))
    out = tmp_path / "out"
    killer = Silent()

    def say(text: str) -> None:  # the first run is killed when the second one ends
        if short[0].key in text:
            claim = Claims(out).newest(entries[0].key)
            while claim is None:
                time.sleep(0.01)
                claim = Claims(out).newest(entries[0].key)
            os.kill(claim.owner.pid, signal.SIGKILL)

    monkeypatch.setattr(killer, "say", say)
    states = sweep([entries[0], short[0]], out, workers=2, progress=killer)
    assert [state.state for state in states] == ["failed", "done"]
    assert "was killed by signal 9" in states[0].note
