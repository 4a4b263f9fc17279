"""`train.subset`: runs of a sweep on random subsets, and memorization and influence of windows from them."""

import numpy as np
import pytest
import torch

from dither.cli.main import main
from dither.errors import UserError
from dither.scores import ScoreTable, SubsetRuns, subset
from dither.train import train
from dither.train.batches import Batches
from dither.train.config import load
from dither.train.scoring import WindowScores, _trained
from dither.train.tokens import open_tokens

HALF = {"train.subset": 0.5, "eval.score_tokens": 4096}


class Killed(Exception): ...


def noise(folder) -> None:
    """In place of the corpus: text that nothing but memory can foretell."""
    rng = np.random.default_rng(0)
    for file in (folder / "corpus").iterdir():
        file.write_text("".join(rng.choice(list("abcdefgh"), 60)))


@pytest.mark.parametrize("length", [16 * 40 + 1, 16 * 41])
def test_a_subset_is_all_that_training_sees(length):
    tokens = np.arange(length, dtype=np.uint16)
    kept = subset(40, 0.3, 7) * 16
    batches = Batches(tokens, 16, batch=4, accumulate=2, seed=7, share=0.3)
    assert batches.windows == 12
    for epoch in range(3):
        rows = [batches.at(step, m) for step in range(3 * epoch, 3 * epoch + 3) for m in range(2)]
        x, y = (torch.cat(parts) for parts in zip(*rows, strict=True))
        assert sorted(x[:, 0].tolist()) == kept.tolist()  # every window once
        assert (x == x[:, :1] + torch.arange(16)).all() and (y == x + 1).all()
    assert len(set(Batches(tokens, 16, 4, 1, 7, 0.3).at(0)[0][:, 0].tolist()) & set(kept.tolist())) == 4
    with pytest.raises(UserError, match=r"too few for model.context"):
        Batches(tokens[:16], 16, 4, 1, 7, 0.3)
    with pytest.raises(UserError, match="leaves some in and some out"):
        Batches(tokens, 16, 4, 1, 7, 0.001)


def test_a_run_writes_down_what_it_saw_and_what_it_is_right_on(folder):
    train(folder / "run.toml", folder / "a", overrides=HALF | {"eval.scores": ["loss_mean"]})
    config, table = load(folder / "a" / "config.toml"), ScoreTable.load(folder / "a" / "scores.parquet")
    tokens, run = open_tokens(config.data), table.runs["a"]
    windows = (len(tokens.train) - 1) // 16
    kept = subset(windows, 0.5, config.train.seed)
    np.testing.assert_array_equal(run.columns["member"], np.isin(run.ids // 16, kept))
    assert 0 < run.columns["member"].sum() < len(run.ids) and set(table.scores) == {"correct", "loss_mean"}
    assert run.provenance["fraction"] == 0.5 and run.provenance["step"] == 4
    model = _trained(folder / "a", config, tokens.vocab).eval()
    for file, stream, of in (
        ("scores", tokens.train, "training"),
        ("tests", tokens.validation, "validation"),
    ):
        found = ScoreTable.load(folder / "a" / f"{file}.parquet")
        assert found.data == f"{of} tokens of the corpus {tokens.hash[:16]} in windows of 16"
        spans = torch.from_numpy(np.stack([stream[s : s + 17] for s in found.ids]).astype(np.int64))
        with torch.no_grad():
            right = (model(spans[:, :-1]).argmax(-1) == spans[:, 1:]).double().mean(dim=1)
        np.testing.assert_allclose(found.values("correct")[0], right, atol=1e-12)


LEARNS = {
    **HALF, "train.steps": 160, "train.batch": 8, "train.lr": 1e-2, "train.checkpoint_every": 0,
    "eval.every": 0, "eval.casts": [],
}  # fmt: skip


def sweep(folder) -> None:
    grid = (folder / "run.toml").read_text() + '\n[grid]\n"train.seed" = [0, 1, 2, 3, 4, 5]\n'
    (folder / "grid.toml").write_text(grid)
    options = [word for key, value in LEARNS.items() if value != [] for word in (f"--{key}", str(value))]
    assert main(["sweep", "grid.toml", "--out", "runs", "--workers", "1", *options]) == 0


def one_by_one(folder) -> None:
    for seed in range(6):
        train(folder / "run.toml", folder / "runs" / f"s{seed}", overrides={**LEARNS, "train.seed": seed})


@pytest.mark.parametrize("runs", [one_by_one, pytest.param(sweep, marks=pytest.mark.slow)])
def test_runs_over_seeds_give_memorization_and_influence(folder, capsys, runs):
    noise(folder)
    runs(folder)
    paths = [str(p) for p in (folder / "runs").iterdir() if p.name[0] != "."]
    assert main(["score", *paths, "--scores", "memorization", "--influence", "influence.npz"]) == 0
    said = capsys.readouterr().out
    assert "6 runs on 50%" in said and "two halves of the runs agree to" in said
    found = SubsetRuns.load("runs")
    assert found.test_ids is not None and found.correct.dtype == np.float64 and len(found.names) == 6
    inside, outside = found.correct[found.member].mean(), found.correct[~found.member].mean()
    assert inside > outside + 0.1, "what was trained on is remembered"
    values = ScoreTable.load("scores.parquet").values("memorization")[0]
    member, correct = found.member, found.correct
    for i in range(len(values)):
        sides = [correct[member[:, i] == side, i] for side in (True, False)]
        expected = sides[0].mean() - sides[1].mean() if all(map(len, sides)) else np.nan
        np.testing.assert_allclose(values[i], expected, atol=1e-12)
    assert np.nanmean(values) > 0.1
    with np.load("influence.npz") as archive:
        assert archive["influence"].shape == (len(found.ids), len(found.test_ids))
        np.testing.assert_allclose(archive["influence"], found.influence(), atol=1e-6)
    assert main(["report", "scores.parquet", "--texts", paths[0], "--score", "memorization"]) == 0
    (folder / "runs" / found.names[2] / "scores.parquet").unlink()
    assert main(["score", *paths, "--scores", "memorization", "--out", "b.parquet"]) == 2
    assert found.names[2] in capsys.readouterr().err
    assert main(["score", "runs", "--scores", "memorization", "--out", "b.parquet"]) == 0
    assert f"not finished: runs/{found.names[2]}" in capsys.readouterr().out


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_killed_run_goes_on_to_the_same_record(folder, monkeypatch, moment):
    """Killed at its measurements, at the windows of the validation split, and before the last file."""
    train(folder / "run.toml", folder / "whole" / "run", overrides=HALF)
    calls, visit = [], WindowScores.visit

    def dies(self, model, step):
        calls.append(step)
        if len(calls) == moment:
            raise Killed
        visit(self, model, step)

    monkeypatch.setattr(WindowScores, "visit", dies)
    if moment == 4:
        monkeypatch.setattr("dither.train.loop.write_json", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train(folder / "run.toml", folder / "cut" / "run", overrides=HALF)
    monkeypatch.undo()
    train(None, folder / "cut" / "run", resume=True)
    whole, cut = SubsetRuns.load(folder / "whole"), SubsetRuns.load(folder / "cut")
    for name in ("ids", "member", "correct", "test_ids", "tests"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name))


def test_what_cannot_be_a_subset_is_refused_before_the_directory_is_taken(folder, capsys):
    for share, words in (
        ("0", "train.subset = 0.0 is a share"), ("1.5", "is a share"), ("-0.5", "is a share"),
        ("nan", "is a share"), ("0.0001", "leaves some in and some out"),
    ):  # fmt: skip
        assert main(["train", "run.toml", "--out", "x", "--train.subset", share]) == 2
        assert words in capsys.readouterr().err and not (folder / "x").exists()
    assert main(["train", "run.toml", "--out", "y"]) == 0
    assert main(["score", "y", "--scores", "memorization"]) == 2
    assert "no folder of a finished run" in capsys.readouterr().err
    train(folder / "run.toml", folder / "z", overrides={"eval.scores": ["correct"]})
    assert main(["score", "z", "--scores", "memorization"]) == 2
    assert "no column 'member'" in capsys.readouterr().err
    for name in "ab":
        train(folder / "run.toml", folder / name, overrides=HALF)
    assert main(["score", "a", "b", "--scores", "memorization"]) == 2
    assert "all 2 runs have the same subset" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"train.subset was 0.5 and is now 0.4"):
        train(folder / "run.toml", folder / "a", resume=True, overrides={**HALF, "train.subset": 0.4})
