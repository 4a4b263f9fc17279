"""`eval.scores` in a training configuration, and `dither score RUN`."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dither.cli.main import main
from dither.scores import ScoreTable
from dither.train import train
from dither.train.config import load
from dither.train.scoring import WindowScores
from dither.train.tokens import open_tokens
from dither.train.wiring import make_model

SCORED = {"eval.scores": ["el2n", "loss_mean", "forgetting"], "eval.score_tokens": 128}


class Killed(Exception): ...


def run(folder, name: str, **more):
    train(folder / "run.toml", folder / name, overrides=SCORED | more)
    return ScoreTable.load(folder / name / "scores.parquet")


def test_a_run_tracks_windows_of_its_training_data(folder):
    table = run(folder, "a")
    assert set(table.scores) == {"el2n", "forgetting", "loss_mean"} and len(table.ids) == 8
    assert np.all(table.ids % 16 == 0) and table.runs["a"].provenance["step"] == 4
    assert table.data is not None and "windows of 16" in table.data
    loss = table.values("loss_mean")[0]
    assert ((loss > 2) & (loss < 6)).all()  # two visits of a model that has hardly begun: about ln 257


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_killed_run_goes_on_to_the_same_scores(folder, monkeypatch, moment):
    whole = run(folder, "whole").select(["whole"])
    calls, visit = [], WindowScores.visit

    def dies(self, model, step):
        calls.append(step)
        if len(calls) == moment and moment < 3:
            raise Killed
        visit(self, model, step)
        if len(calls) == moment - 2:
            raise Killed

    monkeypatch.setattr(WindowScores, "visit", dies)
    with pytest.raises(Killed):
        run(folder, "cut")
    monkeypatch.setattr(WindowScores, "visit", visit)
    train(None, folder / "cut", resume=True)
    cut = ScoreTable.load(folder / "cut" / "scores.parquet")
    for score in whole.scores:
        np.testing.assert_array_equal(cut.values(score), whole.values(score))


def test_the_scores_of_a_window_are_the_means_of_its_tokens(folder):
    config = load(folder / "run.toml")
    tokens = open_tokens(config.data)
    model = make_model(config, tokens.vocab)
    windows = WindowScores(config, tokens, ["loss", "loss_mean", "correctness"], 128)
    for step in range(2):
        windows.visit(model, step)
    table = windows.table("r", {})
    spans = np.stack([tokens.train[s : s + 17] for s in windows.starts]).astype(np.int64)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(spans[:, :-1]))
    y = torch.from_numpy(spans[:, 1:])
    expected = F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(dim=1)
    np.testing.assert_allclose(table.values("loss")[0], expected, rtol=1e-5)
    np.testing.assert_allclose(table.values("loss_mean")[0], expected, rtol=1e-5)
    right = (logits.argmax(-1) == y).float().mean(dim=1)
    np.testing.assert_allclose(table.values("correctness")[0], right, atol=1e-7)


def test_tracking_changes_nothing_of_the_training(folder):
    run(folder, "a")
    train(folder / "run.toml", folder / "plain")
    assert (folder / "a" / "model.safetensors").read_bytes() == (
        folder / "plain" / "model.safetensors"
    ).read_bytes()


def test_runs_are_scored_from_the_command_line(folder, capsys):
    for seed in range(2):
        run(folder, f"s{seed}", **{"train.seed": seed})
    assert main(["score", "s0", "s1"]) == 0  # what they tracked
    table = ScoreTable.load("scores.parquet")
    assert list(table.runs) == ["s0", "s1"] and "forgetting" in table.scores
    assert (
        main(["score", "s0", "s1", "--tokens", "256", "--scores", "loss", "el2n", "--out", "t.parquet"]) == 0
    )
    again = ScoreTable.load("t.parquet")
    assert len(again.ids) == 16 and set(again.scores) == {"el2n", "loss"}
    shared = np.isin(again.ids, table.ids)
    # The trained weights in full precision are those of the last visit of the fp32 run.
    both = again.select(["s0"]).values("el2n")[0][shared]
    tracked = table.select(["s0"]).values("el2n")[0][np.isin(table.ids, again.ids)]
    np.testing.assert_allclose(both, tracked, rtol=1e-5)
    assert main(["select", "scores.parquet", "--score", "loss_mean", "--keep", "3"]) == 0
    capsys.readouterr()
    assert main(["score", "s0", "--scores", "aum", "--out", "u.parquet"]) == 2
    assert "eval.scores" in capsys.readouterr().err


def test_what_cannot_be_tracked_or_scored_is_refused(folder, capsys):
    assert main(["train", "run.toml", "--eval.scores", "el2m", "--out", "x"]) == 2
    assert "did you mean 'el2n'" in capsys.readouterr().err and not (folder / "x").exists()
    assert main(["train", "run.toml", "--out", "y", "--train.steps", "2"]) == 0
    (folder / "y" / "summary.json").unlink()
    assert main(["score", "y"]) == 2
    assert "--resume" in capsys.readouterr().err


def test_the_report_shows_the_text_of_windows(folder):
    run(folder, "a")
    assert main(["report", "a/scores.parquet", "--texts", "a", "--score", "loss_mean"]) == 0
    page = (folder / "a" / "scores.html").read_text()
    cells = re.findall(r'<td class="long">(.*?)</td>', page, re.S)
    corpus = "".join(p.read_text() for p in (folder / "corpus").iterdir())
    assert len(cells) == 16 and sum(cell in corpus for cell in cells) >= 12  # others span two documents
