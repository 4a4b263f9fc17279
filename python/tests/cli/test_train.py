"""`dither train`: a real run, its overrides, and the ways a user goes wrong."""

import json
import tomllib
from pathlib import Path

import pytest

from dither.cli.main import main
from dither.cli.place import choose
from dither.train import read


def fails(capsys, *arguments: str) -> str:
    """The one message of a command that exits with 2."""
    assert main(list(arguments)) == 2
    text = capsys.readouterr().err
    assert text.startswith("dither: ") and "Traceback" not in text
    return text


def test_a_run_leaves_its_directory_and_says_where_the_report_is(folder, capsys):
    assert main(["train", "run.toml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "report: runs/run/report.html"
    names = {path.name for path in Path("runs/run").iterdir()}
    assert {"config.toml", "metrics.jsonl", "metrics.parquet", "checkpoints", "report.html"} <= names


def test_a_second_run_gets_a_directory_of_its_own(folder):
    assert main(["train", "run.toml"]) == main(["train", "run.toml"]) == 0
    first, second = (json.loads(Path(f"runs/{name}/summary.json").read_text()) for name in ("run", "run-2"))
    assert first["final"] == second["final"]


def test_keys_and_method_options_are_overridden(folder):
    options = ["--train.steps", "2", "--method.name", "lotion", "--method.quantizer", "int4_g32"]
    assert main(["train", "run.toml", "--out", "a", *options, "--method.options.lam", "0.5"]) == 0
    config = tomllib.loads(Path("a/config.toml").read_text())
    assert config["train"]["steps"] == 2
    assert config["method"] == {"name": "lotion", "quantizer": "int4_g32", "options": {"lam": 0.5}}
    assert [row["step"] for row in read("a") if row["kind"] == "train"] == [1, 2]


def test_a_finished_run_is_not_trained_again(folder, capsys):
    assert main(["train", "run.toml", "--out", "a"]) == 0
    before = Path("a/metrics.jsonl").read_bytes()
    assert main(["train", "--resume", "--out", "a"]) == 0
    assert "a is finished" in capsys.readouterr().out
    assert Path("a/metrics.jsonl").read_bytes() == before


def test_a_used_directory_is_refused_and_kept(folder, capsys):
    assert main(["train", "run.toml", "--out", "a"]) == 0
    before = Path("a/metrics.jsonl").read_bytes()
    assert "--resume" in fails(capsys, "train", "run.toml", "--out", "a")
    assert Path("a/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train"], "name a TOML configuration"),
        (["train", "no.toml"], "no.toml: no such file"),
        (["train", "corpus"], "is a directory"),
        (["train", "run.toml", "--resume"], "nothing to resume"),
        (["train", "run.toml", "--recipe.name", "mxpf8"], "did you mean 'mxfp8'"),
        (["train", "run.toml", "--eval.casts", "int4_g33"], "did you mean 'int4_g32'"),
        (["train", "run.toml", "--data.sources", "missing.txt"], "missing.txt"),
        (["train", "run.toml", "--train.lr", "-1"], "train.lr"),
        (["train", "run.toml", "--method.options.lam"], "needs a value"),
        (["compare", "run.toml"], "[[arm]]"),
        (["report", "nowhere"], "nowhere is no directory"),
        (["report", "corpus"], "neither a run nor a comparison"),
    ],
)
def test_what_a_user_gets_wrong_is_one_clear_message(folder, capsys, arguments, says):
    assert says in fails(capsys, *arguments)
    assert choose("run.toml", None, False) == Path("runs/run"), "the next try gets the same directory"


def test_a_wrong_key_in_the_file_names_the_nearest(folder, capsys):
    path = Path("run.toml")
    path.write_text(path.read_text().replace("steps = 4", "stpes = 4"))
    assert "did you mean 'steps'" in fails(capsys, "train", "run.toml")


def test_broken_toml_names_the_line(folder, capsys):
    Path("run.toml").write_text("[model\nlayers = 1")
    assert "line 1" in fails(capsys, "train", "run.toml")


def test_a_loss_that_diverges_is_a_message_that_says_what_to_do(folder, capsys):
    text = fails(capsys, "train", "run.toml", "--out", "a", "--train.lr", "1e30", "--train.clip", "0")
    assert "Lower train.lr" in text
