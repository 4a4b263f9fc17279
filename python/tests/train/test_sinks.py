"""TensorBoard and Weights & Biases: what their own readers find, resumed runs, missing packages, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_helpers import Silent

from dither.errors import MissingExtraError, UserError
from dither.train import load, read, train
from dither.train.checkpoint import FOLDER
from dither.train.grid import run_key
from dither.train.toml import dump_toml


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """wandb without network, account and files of the user's."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_RESUME"):
        monkeypatch.delenv(name, raising=False)


def synced(run_dir: Path) -> list[dict[str, Any]]:
    """For each file that `wandb sync` would upload, oldest first: id, project, config and rows by step."""
    found = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        deadline = time.monotonic() + 60.0
        while "exit" not in (kinds := dict(records(path))):  # wandb's process writes on for a moment
            assert time.monotonic() < deadline, f"{path} has no end"
            time.sleep(0.1)
        run = kinds["run"].run
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        content = {"id": run.run_id, "project": run.project, "name": run.display_name, "config": config}
        rows = {}
        for kind, record in records(path):
            if kind == "history":
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                rows[int(row["_step"])] = row
        found.append({**content, "rows": rows})
    return found


def records(path: Path) -> Iterator[tuple[str, Any]]:
    """The kinds and contents of the records of a file of wandb's, by its own reader."""
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]
    from wandb.sdk.internal.datastore import DataStore

    store = DataStore()
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        yield record.WhichOneof("record_type"), record


def again(run_dir: Path) -> None:
    """Resume from the checkpoint before the last, as after a kill."""
    (run_dir / "summary.json").unlink()
    (run_dir / FOLDER / "step-00000012.json").unlink()
    train(None, run_dir, resume=True, progress=Silent())


def test_wandb_gets_every_row_and_a_resumed_run_goes_on_under_its_name(tiny, tmp_path, offline) -> None:
    config = tiny(train={"wandb": "dither tests"}, eval={"casts": ["int4_g32"]})
    train(config, tmp_path / "run", progress=Silent())
    again(tmp_path / "run")
    first, second = synced(tmp_path / "run")
    assert first["id"] == second["id"] == (tmp_path / "run" / "wandb.id").read_text()
    assert first["project"] == "dither tests" and first["name"] == "run"
    assert first["config"]["train"]["lr"] == 1e-2 and first["config"]["model"]["width"] == 32
    assert sorted(first["rows"]) == list(range(1, 13)) and sorted(second["rows"]) == list(range(9, 13))
    rows = read(tmp_path / "run")
    for row in rows:
        for content in (first, second):
            if row["step"] not in content["rows"]:
                continue
            items = content["rows"][row["step"]]
            if row["kind"] == "train":
                assert [items[f"train/{key}"] for key in ("loss", "lr", "grad_norm")] == [
                    row[key] for key in ("loss", "lr", "grad_norm")
                ]
            elif row["view"] == "full":
                assert items["validation/full"] == row["loss"]
            else:
                assert items[f"validation/cast/int4_g32/{row['rounding']}"] == row["loss"]
    assert {row["view"] for row in rows if row["kind"] == "eval"} == {"full", "cast"}


def test_runs_of_one_process_are_runs_of_their_own_in_wandb(tiny, tmp_path, offline) -> None:
    for name in ("a", "b"):
        train(tiny(train={"wandb": "p", "steps": 2}), tmp_path / name, progress=Silent())
    (a,), (b,) = synced(tmp_path / "a"), synced(tmp_path / "b")
    assert a["id"] != b["id"] and (a["name"], b["name"]) == ("a", "b") and len(a["rows"]) == 2


def test_what_wandb_refuses_is_the_users_error_and_the_run_can_go_on(tiny, tmp_path, offline) -> None:
    with pytest.raises(UserError, match=r"train\.wandb: Invalid project name 'a/b'"):
        train(tiny(train={"wandb": "a/b"}), tmp_path / "run", progress=Silent())
    assert train(tiny(), tmp_path / "run", resume=True, progress=Silent())["steps"] == 12


@pytest.mark.slow  # a process each: wandb reads its environment once
@pytest.mark.parametrize(("mode", "message"), [("nowhere", "nowhere"), (None, "No API key")])
def test_a_wrong_mode_and_a_missing_account_end_the_command_with_code_2(
    tiny, tmp_path, offline, monkeypatch, mode, message
) -> None:
    (tmp_path / "run.toml").write_text(dump_toml(tiny(train={"wandb": "p"})))
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    if mode is None:
        monkeypatch.delenv("WANDB_MODE")
    else:
        monkeypatch.setenv("WANDB_MODE", mode)
    command = [
        sys.executable,
        "-m",
        "dither",
        "train",
        str(tmp_path / "run.toml"),
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "train.wandb" in done.stderr and message in done.stderr and "WANDB_MODE=offline" in done.stderr


def test_sinks_change_neither_the_metrics_nor_the_name_of_a_run(tiny, tmp_path, offline) -> None:
    sinks = {"wandb": "p", "tensorboard": True}
    plain, sunk = load(tiny()), load(tiny(train=sinks))
    assert run_key(plain) == run_key(sunk)
    train(plain, tmp_path / "plain", progress=Silent())
    train(sunk, tmp_path / "sunk", progress=Silent())
    losses = [[row["loss"] for row in read(tmp_path / name)] for name in ("plain", "sunk")]
    assert losses[0] == losses[1]
    assert train(plain, tmp_path / "sunk", resume=True, progress=Silent())["steps"] == 12


def test_tensorboard_events_go_on_after_a_resume(tiny, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tiny(train={"tensorboard": True}), tmp_path / "run", progress=Silent())
    again(tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    rows = [row for row in read(tmp_path / "run") if row["kind"] == "train"]
    assert losses == [(row["step"], pytest.approx(row["loss"], rel=1e-6)) for row in rows]
    assert [event.step for event in events.Scalars("validation/full")] == [12]


@pytest.mark.parametrize(("package", "value"), [("tensorboard", True), ("wandb", "project")])
def test_a_sink_without_its_package_says_how_to_get_it(tiny, tmp_path, monkeypatch, package, value) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'dither\[{package}\]'"):
        train(tiny(train={package: value}), tmp_path / "run", progress=Silent())
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_closes_what_was_opened(tiny, tmp_path, monkeypatch) -> None:
    closed = []

    class Opened:
        def write(self, row: dict[str, Any]) -> None:
            raise AssertionError("nothing was trained")

        def close(self) -> None:
            closed.append(self)

    def sinks(*args: Any) -> Iterator[Opened]:
        yield Opened()
        yield Opened()
        raise UserError("the third refuses")

    monkeypatch.setattr("dither.train.loop.make_sinks", sinks)
    with pytest.raises(UserError, match="the third refuses"):
        train(tiny(), tmp_path / "run", progress=Silent())
    assert len(closed) == 2
    monkeypatch.undo()
    assert train(tiny(), tmp_path / "run", resume=True, progress=Silent())["steps"] == 12
