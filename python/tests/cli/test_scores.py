"""`dither score` and `dither select`: tables, ids, exit codes, nothing half written."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest

from dither.cli.main import main
from dither.errors import UserError
from dither.files import alone
from dither.scores import ScoreTable, score_paths, selection

N = 200
RNG = np.random.default_rng(0)
LABELS, DIFFICULTY = RNG.integers(0, 5, N), RNG.random(N)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    for run in range(4):
        rng = np.random.default_rng(run)
        (folder / f"seed{run}").mkdir(parents=True)
        for epoch in range(5):
            z = rng.standard_normal((N, 5)).astype(np.float32)
            z[np.arange(N), LABELS] += 4 * (1 - DIFFICULTY) + 0.3 * epoch
            np.save(folder / f"seed{run}" / f"{epoch}.npy", z)
    np.save(folder / "labels.npy", LABELS)
    return tmp_path


@pytest.fixture
def table(runs):
    assert main(["score", "runs", "--scores", "aum", "el2n", "forgetting"]) == 0
    return ScoreTable.load("scores.parquet")


def refused(arguments, capsys) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_a_folder_becomes_a_table_with_its_reliability(runs, capsys):
    assert main(["score", "runs", "--scores", "aum", "el2n"]) == 0
    said = capsys.readouterr().out
    assert "4 runs, 200 examples" in said and "of 2 against 2 runs" in said
    table = ScoreTable.load("scores.parquet")
    r1 = float(next(line for line in said.splitlines() if line.startswith("aum")).split()[7])
    # Signal: sd of 4 (1 - d) is 1.15; noise of a mean margin over 5 visits is below .7.
    assert 0.7 < r1 < 0.99 and np.corrcoef(table.mean("aum"), DIFFICULTY)[0, 1] < -0.8


def test_a_table_that_exists_is_added_to_or_replaced_only_on_request(table, capsys):
    before = (pq.ParquetFile("scores.parquet").metadata.num_rows, table.fingerprint())
    assert "--merge" in refused(["score", "runs"], capsys)
    assert "give one" in refused(["score", "runs", "--merge", "--force"], capsys)
    assert ScoreTable.load("scores.parquet").fingerprint() == before[1]
    assert main(["score", "runs/seed0/4.npy", "--scores", "el2n", "--merge"]) == 0
    assert list(ScoreTable.load("scores.parquet").runs) == ["4", "seed0", "seed1", "seed2", "seed3"]
    assert main(["score", "runs/seed0/4.npy", "--force"]) == 0
    assert list(ScoreTable.load("scores.parquet").runs) == ["4"]


def test_errors_of_score_leave_nothing(runs, capsys):
    assert "no such file" in refused(["score", "nowhere"], capsys)
    assert "at least one" in refused(["score"], capsys)
    assert ".parquet" in refused(["score", "runs", "--out", "x.csv"], capsys)
    assert "no folder" in refused(["score", "runs", "--out", "none/x.parquet"], capsys)
    assert "aun" in refused(["score", "runs", "--scores", "aun"], capsys)
    assert "--target 1.5" in refused(["score", "runs", "--target", "1.5"], capsys)
    np.save("runs/seed3/4.npy", np.full((N, 5), np.nan, np.float32))
    assert "seed3/4.npy" in refused(["score", "runs"], capsys)
    assert [p.name for p in runs.iterdir()] == ["runs"]


def test_a_table_has_the_scores_that_are_asked_of_it(table, capsys):
    assert main(["score", "scores.parquet", "--scores", "aum", "--out", "again.parquet"]) == 0
    told = refused(["score", "scores.parquet", "--scores", "aun", "--out", "b.parquet"], capsys)
    assert "scores.parquet: no run has a score 'aun' (did you mean 'aum'?)" in told


POLICIES = {
    "top": (("--keep", ".1"), lambda h: selection.top(h, 0.1)),
    "bottom": (("--keep", "7"), lambda h: selection.bottom(h, 7)),
    "band": (("--low", ".2", "--high", ".4"), lambda h: selection.band(h, 0.2, 0.4)),
    "window": (("--keep", ".3", "--drop_hardest", ".1"), lambda h: selection.window(h, 0.3, 0.1)),
    "class_floor": (
        ("--keep", "50", "--labels", "runs/labels.npy", "--floor", ".9"),
        lambda h: selection.with_class_floor(h, LABELS, 50, 0.9),
    ),
    "softmax": (("--keep", "9", "--seed", "4"), lambda h: selection.sample_softmax(h, 9, seed=4)),
    "linear": (("--keep", "9", "--eps", ".5"), lambda h: selection.sample_linear(h, 9, 0.5)),
    "coverage": (("--keep", "30", "--strata", "6"), lambda h: selection.coverage(h, 30, strata=6)),
    "budget": (("--keep", "9", "--examples_per_parameter", ".5"), lambda h: selection.bottom(h, 9)),
    "repetition": (
        ("--seen", "5000", "--utilities", "-.4", "-.1", "--half_life", "2", "--scale", "10"),
        lambda h: selection.repetition_aware(h, 5000, (-0.4, -0.1), 2.0, 10.0),
    ),
    "random": (("--keep", ".5", "--seed", "2"), lambda h: selection.random(len(h), 0.5, 2)),
}


@pytest.mark.parametrize("policy", selection.POLICIES)
def test_every_policy_writes_what_the_function_keeps(policy, table, capsys):
    options, expected = POLICIES[policy]
    for suffix in ("txt", "npy", "parquet"):
        out = f"kept.{suffix}"
        assert (
            main(["select", "scores.parquet", "--score", "aum", "--policy", policy, *options, "--out", out])
            == 0
        )
    hard = -table.mean_rank("aum")
    ids = table.ids[expected(hard)]
    np.testing.assert_array_equal(np.loadtxt("kept.txt", int), ids)
    np.testing.assert_array_equal(np.load("kept.npy"), ids)
    frame = pq.read_table("kept.parquet")
    np.testing.assert_array_equal(frame["id"], ids)
    np.testing.assert_array_equal(frame["hardness_by_aum"], hard[ids])
    capsys.readouterr()
    assert main(["select", "scores.parquet", "--score", "aum", "--policy", policy, *options]) == 0
    said = capsys.readouterr()
    assert [int(line) for line in said.out.splitlines()] == ids.tolist() and "kept" in said.err


def test_class_floors_use_the_labels_of_the_table(table, capsys):
    floors = ["--policy", "class_floor", "--keep", "50", "--floor", ".9"]
    assert main(["select", "scores.parquet", "--score", "aum", *floors, "--out", "a.npy"]) == 0
    kept = selection.with_class_floor(-table.mean_rank("aum"), LABELS, 50, 0.9)
    np.testing.assert_array_equal(np.load("a.npy"), kept)
    assert set(kept) != set(selection.top(-table.mean_rank("aum"), 50))
    # Of a run without the score too, by id; a file of labels goes before them.
    ids = table.ids[::-1]
    other = ScoreTable.of_run("ensemble", {"mine": RNG.random(N)}, ids=ids).merge(table)
    other.save("other.parquet")
    select = ["select", "other.parquet", "--score", "mine", "--direction", "hard", *floors]
    assert main([*select, "--out", "b.npy"]) == 0
    hard = other.having("mine").mean_rank("mine")
    np.testing.assert_array_equal(np.load("b.npy"), selection.with_class_floor(hard, LABELS, 50, 0.9))
    np.save("one.npy", np.zeros(N, int))
    assert main([*select, "--labels", "one.npy", "--out", "c.npy"]) == 0
    np.testing.assert_array_equal(np.load("c.npy"), selection.top(hard, 50))
    # None, or not of all.
    ScoreTable.of_run("r", {"aum": RNG.random(3)}).save("none.parquet")
    said = refused(["select", "none.parquet", "--score", "aum", *floors], capsys)
    assert "none.parquet holds none of 3 of 3 examples, 0 among them; give --labels" in said
    part = ScoreTable.of_run("r", {"aum": RNG.random(3), "label": np.array([1, -1, 0])}, ids=["a", "b", "c"])
    part.save("part.parquet")
    assert "1 of 3 examples, 'b' among" in refused(
        ["select", "part.parquet", "--score", "aum", *floors], capsys
    )


def test_runs_dialects_and_means_can_be_chosen(table, capsys):
    base = ["select", "scores.parquet", "--keep", "20"]
    assert main([*base, "--score", "el2n", "--runs", "seed[01]", "--reduce", "value", "--out", "a.npy"]) == 0
    two = table.select(["seed0", "seed1"]).mean("el2n")
    np.testing.assert_array_equal(np.load("a.npy"), selection.top(two, 20))
    assert main([*base, "--score", "forgetting", "--dialect", "data-diet", "--out", "b.npy"]) == 0
    np.testing.assert_array_equal(
        np.load("b.npy"), selection.top(table.mean_rank("forgetting", "data-diet"), 20)
    )
    assert "--force" in refused([*base, "--score", "el2n", "--out", "a.npy"], capsys)


def test_errors_of_select_say_what_to_do(table, runs, capsys):
    base = ["select", "scores.parquet", "--score", "aum"]
    files = sorted(p.name for p in runs.iterdir())
    assert "needs --keep" in refused(base, capsys)
    assert "did you mean 'coverage'" in refused([*base, "--policy", "coverge", "--keep", "3"], capsys)
    assert "means nothing to --policy top" in refused([*base, "--keep", "3", "--strata", "4"], capsys)
    assert "a count up to 200" in refused([*base, "--keep", "300"], capsys)
    assert "give a share" in refused([*base, "--keep", "many"], capsys)
    assert "nothing would be kept" in refused([*base, "--keep", "0"], capsys)
    assert "score 'aun'" in refused(["select", "scores.parquet", "--score", "aun", "--keep", "3"], capsys)
    assert "no run" in refused([*base, "--keep", "3", "--runs", "x*"], capsys)
    assert "ids are written to" in refused([*base, "--keep", "3", "--out", "x.csv"], capsys)
    assert "no such file" in refused(["select", "none.parquet", "--score", "aum", "--keep", "3"], capsys)
    assert sorted(p.name for p in runs.iterdir()) == files


def test_examples_without_a_score_are_an_error_until_they_are_dropped(runs, capsys):
    scores = np.where(np.arange(9) < 2, np.nan, np.arange(9.0))
    ScoreTable.of_run("r", {"mine": scores}).save("t.parquet")
    base = ["select", "t.parquet", "--score", "mine", "--keep", "3"]
    assert "--direction" in refused(base, capsys)
    base += ["--direction", "easy"]
    assert "2 of 9 examples have no mine" in refused(base, capsys)
    assert main([*base, "--drop_unscored"]) == 0
    assert capsys.readouterr().out.split() == ["2", "3", "4"]


def test_examples_that_a_run_lacks_have_no_score_there(runs, capsys):
    """As if their scores were NaN: they were dropped in silence."""
    whole = ScoreTable.of_run("a", {"el2n": np.arange(10.0)})
    whole.merge(ScoreTable.of_run("b", {"el2n": np.arange(4.0)})).save("t.parquet")
    base = ["select", "t.parquet", "--score", "el2n", "--keep", "0.5"]
    assert "6 of 10 examples have no el2n in some run, 4 among them" in refused(base, capsys)
    assert main([*base, "--drop_unscored"]) == 0
    said = capsys.readouterr()
    assert said.out.split() == ["2", "3"] and "2 of 4 examples (50.0%)" in said.err
    assert "6 without a score left out" in said.err
    assert main(["score", "t.parquet", "--out", "again.parquet"]) == 0
    told = capsys.readouterr().out
    assert "up to 6 examples that some run has no value of" in told and "2 runs, 10 examples" in told
    assert main([*base, "--runs", "a"]) == 0 and len(capsys.readouterr().out.split()) == 5


def test_the_direction_is_that_of_the_dialect(runs, capsys):
    ScoreTable.of_run("a", {"probability_margin": np.array([-0.9, -0.1, 0.3, 0.95])}).save("t.parquet")
    base = ["select", "t.parquet", "--score", "probability_margin", "--keep", "1"]
    for dialect in ([], ["--dialect", "data-diet"], ["--dialect", "cleanlab"]):
        assert main([*base, *dialect]) == 0
        assert capsys.readouterr().out.split() == ["0"], dialect


def test_a_score_that_is_neither_hard_nor_easy_needs_a_direction(runs, capsys):
    ScoreTable.of_run("a", {"variability": np.arange(4.0)}).save("t.parquet")
    base = ["select", "t.parquet", "--score", "variability", "--keep", "1"]
    assert "a high variability is neither hard nor easy: give --direction" in refused(base, capsys)
    for direction, kept in (("hard", "3"), ("easy", "0")):
        assert main([*base, "--direction", direction]) == 0
        assert capsys.readouterr().out.split() == [kept]


@pytest.mark.slow
def test_processes_may_merge_into_one_table_at_once(runs):
    """Each read the table, and the last to write it left out what the others had added."""
    for k in range(4):
        (runs / f"l{k}").mkdir()
        np.save(runs / f"l{k}" / f"run{k}.npy", RNG.standard_normal((50, 5)).astype(np.float32))
        np.save(runs / f"l{k}" / "labels.npy", np.zeros(50, int))
    code = "import sys; from dither.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "score", "--out", "race.parquet", "--merge"]
    children = [subprocess.Popen([*command, f"l{k}/run{k}.npy"]) for k in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert list(ScoreTable.load("race.parquet").runs) == [f"run{k}" for k in range(4)]
    assert not list(runs.glob(".*"))


def test_a_table_that_another_process_made_meanwhile_is_kept(runs, capsys, monkeypatch):
    """After the options were checked and before the table is written."""
    other = ScoreTable.of_run("other", {"el2n": DIFFICULTY})

    def slow(*arguments, **options):
        other.save("scores.parquet")
        return score_paths(*arguments, **options)

    monkeypatch.setattr("dither.cli.score.score_paths", slow)
    assert main(["score", "runs/seed0/4.npy", "--merge"]) == 0
    assert list(ScoreTable.load("scores.parquet").runs) == ["4", "other"]
    (runs / "scores.parquet").unlink()
    assert "scores.parquet exists" in refused(["score", "runs/seed0/4.npy"], capsys)
    assert ScoreTable.load("scores.parquet").fingerprint() == other.fingerprint()


def test_one_at_a_time(tmp_path):
    """Eight threads add one to a file sixty times each; a lock file that was left does not matter."""
    path = tmp_path / "n"
    path.write_text("0")
    (tmp_path / ".n.lock").touch()

    def add(_):
        for _ in range(60):
            with alone(path):
                found = int(path.read_text())
                time.sleep(0)
                path.write_text(str(found + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    assert path.read_text() == "480" and [p.name for p in tmp_path.iterdir()] == ["n"]
    with alone(path), pytest.raises(UserError, match="in use by another process"), alone(path, wait=False):
        pass
    with pytest.raises(UserError, match="cannot be written"), alone(tmp_path / "none" / "n"):
        pass


def test_runs_of_one_name_that_become_one_are_said_to(runs, capsys):
    for k in range(2):
        (runs / f"exp{k}").mkdir()
        np.save(runs / f"exp{k}" / "epoch-10.npy", RNG.standard_normal((5, 5)).astype(np.float32))
        np.save(runs / f"exp{k}" / "ids.npy", np.arange(5) + 5 * k)
    assert main(["score", "exp0", "exp1"]) == 0
    said = "run epoch-10: 5 examples of exp1 join the 5 that it had, as shards of one run"
    assert said in capsys.readouterr().out
    assert main(["score", "exp0", "--out", "b.parquet"]) == 0 and "shards" not in capsys.readouterr().out
    assert main(["score", "exp1", "--out", "b.parquet", "--merge"]) == 0
    assert said in capsys.readouterr().out
    assert main(["score", "exp1", "--out", "b.parquet", "--merge"]) == 0
    assert "shards" not in capsys.readouterr().out
