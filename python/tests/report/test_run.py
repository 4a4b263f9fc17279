"""The page of one run, finished or not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dither import report
from dither.errors import UserError
from dither.report.load import label, load_run
from dither.train import read


@pytest.fixture
def run(copy: Path) -> Path:
    return copy / "seed-3" / "mxfp4"


def test_the_page_holds_the_final_losses(run: Path):
    page = report.write(run).read_text()
    summary = json.loads((run / "summary.json").read_text())
    for row in summary["final"]:
        assert f">{label(row)}</td><td>{row['loss']:.4f}</td><td>{row['bits_per_byte']:.4f}</td>" in page
    assert "not finished" not in page


def test_a_run_in_the_middle_is_reported_as_such(run: Path):
    (run / "summary.json").unlink()
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 4]
    (run / "metrics.jsonl").write_bytes(b"".join(kept))
    page = report.write(run).read_text()
    assert "not finished: 4 of 6 steps" in page
    assert {row["step"] for row in load_run(run).final} == {4}


def test_curves_hold_every_recorded_step(run: Path):
    loaded = load_run(run)
    steps, losses = loaded.train_loss()
    assert steps.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(losses, [r["loss"] for r in read(run) if r["kind"] == "train"])
    ways = loaded.validation_loss()
    assert list(ways) == ["full precision", "own recipe", "int4_g32 nearest", "int4_g32 randomized"]
    assert all(steps.tolist() == [2, 4, 6] for steps, _ in ways.values())


def test_a_damaged_file_is_a_message_and_a_directory_without_a_name_gets_its_own(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = tmp_path / "copied"
    shutil.copytree(run, copy)
    monkeypatch.chdir(copy)
    assert "<h1>copied</h1>" in report.write(".").read_text()
    (copy / "summary.json").write_text("")
    with pytest.raises(UserError, match=r"is damaged .*restore it"):
        report.write(copy)


def test_a_directory_that_is_neither_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="neither a run nor a comparison"):
        report.write(tmp_path)
    with pytest.raises(UserError, match="is no directory"):
        report.write(tmp_path / "nowhere")


def test_without_matplotlib_the_install_line_is_given(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'dither\[plot\]'"):
        report.write(run)
