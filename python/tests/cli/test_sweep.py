"""`dither sweep`: what it prints and how it ends."""

import os
from pathlib import Path

import pytest

from dither.cli.main import main


@pytest.fixture
def grid(folder: Path) -> Path:
    path = folder / "grid.toml"
    path.write_text((folder / "run.toml").read_text() + '\n[grid]\n"train.seed" = [0, 1, 1]\n')
    return path


def test_the_command_lists_trains_and_tells(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "grid.toml", "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "1 entries are copies" in text and "2 waiting in runs/grid" in text and "train.seed=1" in text
    assert not Path("runs").exists(), "a dry run writes nothing"
    # a file of the working directory does not come before the standard library
    Path("random.py").write_text("raise SystemExit('the wrong random')")
    assert main(["sweep", "grid.toml", "--workers", "2"]) == 0
    assert "2 done in runs/grid" in capsys.readouterr().out
    assert main(["sweep", "grid.toml", "--status"]) == 0
    assert "4/4" in capsys.readouterr().out
    runs = [str(Path("runs/grid", name)) for name in os.listdir("runs/grid") if not name.startswith(".")]
    assert main(["report", runs[0]]) == 0
    capsys.readouterr()
    assert main(["fit", "chinchilla", *runs, "--bootstrap", "0"]) == 2, "two runs of one size fix no law"
    assert "there are 2 rows" in capsys.readouterr().err


@pytest.mark.slow
def test_failed_runs_make_exit_code_1_and_wrong_input_2(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid.write_text(grid.read_text().replace("train.seed", "train.lr").replace("[0, 1, 1]", "[1e30]"))
    options = ["sweep", "grid.toml", "--train.clip", "0"]
    assert main(options) == 1
    text = capsys.readouterr().out
    assert "1 failed in runs/grid" in text and "Lower train.lr" in text
    assert main([*options, "--status"]) == 1
    assert main([*options, "--workers", "0"]) == 2
    assert main(["sweep", "run.toml"]) == 2 and "for one run: dither train" in capsys.readouterr().err
    assert main(["train", "grid.toml"]) == 2 and "dither sweep" in capsys.readouterr().err
