"""Runs on random subsets: what they write, that a kill loses nothing, and what is found in the end."""

import inspect
import signal
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from dither.cli.main import main
from dither.errors import UserError
from dither.scores import ScoreTable, SubsetRuns, auc, influence, memorization, subset, subset_runs
from dither.scores.ranks import spearman

N, TESTS = 120, 30
RNG = np.random.default_rng(5)
CENTRES = RNG.standard_normal((4, 6)) * 2
TRUE = RNG.integers(0, 4, N + TESTS)
X = CENTRES[TRUE] + RNG.standard_normal((N + TESTS, 6))
PLANTED = np.sort(RNG.choice(N, 12, replace=False))
Y = TRUE.copy()
Y[PLANTED] = (TRUE[PLANTED] + RNG.integers(1, 4, 12)) % 4


def nearest(kept, seed):
    """One nearest neighbour: it knows what it saw by heart."""
    distances = ((X[:, None] - X[kept]) ** 2).sum(axis=2)
    right = Y[kept][distances.argmin(axis=1)] == Y
    return right[:N], right[N:]


def quiet(train=nearest, **more):
    return subset_runs(train, more.pop("n", N), say=None, **{"runs": 8, **more})


def test_subsets_are_functions_of_their_seed():
    kept = subset(1000, 0.7, 3)
    assert len(kept) == 700 and (np.diff(kept) > 0).all() and 0 <= kept[0] and kept[-1] < 1000
    np.testing.assert_array_equal(kept, subset(1000, np.float64(0.7), 3))
    assert subset(10, 0.5, 0).tolist() == [1, 2, 5, 7, 9]  # golden: never to change
    # every example is in about 70 % of the subsets: 400 binomials, 6 sigma
    held = np.zeros(100)
    for seed in range(400):
        held[subset(100, 0.7, seed)] += 1
    assert (np.abs(held - 280) < 6 * np.sqrt(400 * 0.7 * 0.3)).all()
    n: Any
    fraction: Any
    seed: Any
    for n, fraction in ((10, 0.0), (10, 1.0), (10, 0.01), (10, 0.99), (10, np.nan), (1, 0.5), (10, "half")):
        with pytest.raises(UserError, match="leaves some in and some out"):
            subset(n, fraction, 0)
    for n in (0, -3, 2.5, True):
        with pytest.raises(UserError, match="positive number of examples"):
            subset(n, 0.5, 0)
    for seed in (-1, 1 << 63, 0.5, True):
        with pytest.raises(UserError, match="the seed of a subset"):
            subset(10, 0.5, seed)


def test_planted_label_errors_are_memorized(tmp_path):
    """12 of 120 labels are wrong. Of 40 runs an estimate has a standard error of at most .17."""
    found = quiet(folder=tmp_path / "runs", runs=40)
    values = found.memorization()
    assert (
        found.member.dtype == found.correct.dtype == bool and found.member.sum(axis=1).tolist() == [84] * 40
    )
    planted = np.isin(np.arange(N), PLANTED)
    assert np.median(values[planted]) > 0.9 and np.median(values[~planted]) < 0.2
    assert auc(values, planted) > 0.95
    np.testing.assert_array_equal(values, memorization(found.member, found.correct))
    np.testing.assert_array_equal(found.influence(), influence(found.member, found.tests))
    # the identity of 2008.03703: what is memorized on average is the gap of training and held-out accuracy
    inside = np.array([found.correct[found.member[:, i], i].mean() for i in range(N)])
    outside = np.array([found.correct[~found.member[:, i], i].mean() for i in range(N)])
    assert inside.min() == 1 and values.mean() == pytest.approx((inside - outside).mean(), abs=1e-12)
    # a test that hangs on one example has its class, and is near
    needed = found.influence().max(axis=0) > 0.5
    first = found.influence().argmax(axis=0)[needed]
    assert needed.sum() >= 2 and (Y[first] == Y[N:][needed]).all()
    agreement = found.agreement()
    assert agreement is not None and 0.5 < agreement < 1 and f"{agreement:.3f}" in str(found)
    halves = np.stack([memorization(found.member[k::2], found.correct[k::2]) for k in (0, 1)])
    assert agreement == pytest.approx(spearman(halves)[0, 1])
    table = found.table()
    assert table.scores == ("memorization",) and table.runs["subsets"].provenance["runs"] == 40


def test_shares_in_place_of_booleans_and_names_in_place_of_positions(tmp_path):
    shares = RNG.random((8, 20)).astype(np.float32)
    names = [f"text-{i:02d}" for i in range(20)][::-1]
    found = quiet(lambda kept, seed: shares[seed], n=20, folder=tmp_path, ids=names, fraction=0.5)
    member = np.zeros((8, 20), bool)
    for seed in range(8):
        member[seed, subset(20, 0.5, seed)] = True
    assert found.ids.tolist() == names[::-1] and found.tests is None
    np.testing.assert_array_equal(found.member, member[:, ::-1])
    expected = [
        shares[member[:, i], i].astype(float).mean() - shares[~member[:, i], i].astype(float).mean()
        if 0 < member[:, i].sum() < 8 else np.nan
        for i in range(20)
    ]  # fmt: skip
    np.testing.assert_allclose(found.memorization(), expected[::-1], atol=1e-12)
    np.testing.assert_allclose(np.diag(found.influence()), expected[::-1], atol=1e-12)
    again = quiet(None, n=20, folder=tmp_path, ids=names, fraction=0.5)  # nothing is left to train
    np.testing.assert_array_equal(again.correct, found.correct)
    with pytest.raises(UserError, match="other examples"):
        quiet(None, n=20, folder=tmp_path, fraction=0.5)


@pytest.mark.parametrize("shares", [False, True])
def test_shares_that_are_whole_are_booleans(shares):
    member, right = RNG.random((33, 15)) < 0.7, RNG.random((33, 15)) < 0.5
    member[:, 3], member[:, 4] = True, False
    given = right.astype(np.float16) if shares else right
    for dialect in (None, "feldman"):
        np.testing.assert_allclose(
            memorization(member, given, dialect), memorization(member, right, dialect), atol=1e-15
        )
        np.testing.assert_allclose(
            influence(member, given[:, :7], dialect), influence(member, right[:, :7], dialect), atol=1e-15
        )
    for bad in (np.nan, -0.1, 1.5):
        with pytest.raises(UserError, match="shares from 0 to 1"):
            memorization(member, np.where(right, bad, 0.5))


def test_a_run_that_fails_leaves_those_before_it(tmp_path):
    calls = []

    def fails_at_3(kept, seed):
        calls.append(seed)
        if seed == 3:
            raise RuntimeError("out of memory")
        return nearest(kept, seed)

    with pytest.raises(RuntimeError):
        quiet(fails_at_3, folder=tmp_path)
    (tmp_path / "subset-00003").mkdir()  # as a kill between two files leaves it
    assert SubsetRuns.load(tmp_path).left_out == (str(tmp_path / "subset-00003"),)
    lines = []
    resumed = subset_runs(nearest, N, folder=tmp_path, runs=8, say=lines.append)
    assert calls == [0, 1, 2, 3] and len(lines) == 5
    assert (
        lines[0].startswith("4/8 subset-00003: right on 100.0% of its 84 examples and ")
        and "min left" in lines[0]
    )
    whole = quiet(folder=tmp_path / "whole")
    np.testing.assert_array_equal(resumed.correct, whole.correct)
    np.testing.assert_array_equal(resumed.influence(), whole.influence())
    # processes share a folder by seeds, in any order
    for seeds in ([7, 5], [0, 1, 2], [6, 3, 4]):
        quiet(folder=tmp_path / "shared", runs=seeds)
    shared = SubsetRuns.load([*sorted((tmp_path / "shared").iterdir())][::-1])
    np.testing.assert_array_equal(shared.memorization(), whole.memorization())


def drawn(kept, seed):
    """No model, but results of its form; of numpy alone, so that a process begins soon."""
    time.sleep(0.01)
    noise = np.random.default_rng(seed)
    return np.isin(np.arange(60), kept) | (noise.random(60) < 0.5), noise.random(7) < 0.5


PROGRAM = f"""
import sys, time
import numpy as np
from dither.scores import subset_runs
{inspect.getsource(drawn)}
subset_runs(drawn, 60, folder=sys.argv[1], runs=40)
"""


def test_killed_and_called_again_it_ends_with_the_same(tmp_path):
    folder = tmp_path / "runs"
    kills = 0
    for after in (12, 40):
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, folder], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < deadline:
            if len(list(folder.glob("*/scores.parquet"))) >= after and after < 40:
                child.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        assert child.wait() in (0, -signal.SIGKILL)
    assert kills == 1
    found, whole = SubsetRuns.load(folder), quiet(drawn, n=60, folder=tmp_path / "whole", runs=40)
    np.testing.assert_array_equal(found.member, whole.member)
    np.testing.assert_array_equal(found.correct, whole.correct)
    np.testing.assert_array_equal(found.tests, whole.tests)
    assert not list(folder.glob("**/*.tmp-*/*"))


def test_what_train_gives_is_looked_at(tmp_path):
    for number, bad in enumerate(
        [
            np.ones(N - 1),
            np.ones((N, 2)),
            np.full(N, 2),
            np.full(N, np.nan),
            ["yes"] * N,
            0.5,
            None,
            np.full(N, -1),
        ]
    ):
        with pytest.raises(UserError, match=r"train\(\) with seed 0 gives"):
            quiet(lambda kept, seed, bad=bad: bad, folder=tmp_path / str(number))
        assert not list((tmp_path / str(number)).iterdir())
    right = np.ones(N, bool)
    with pytest.raises(UserError, match="of tests, gives one value an example"):
        quiet(lambda kept, seed: (right, 0.5), folder=tmp_path / "t")
    with pytest.raises(UserError, match="seed 1 gave no tests, and 5 before"):
        quiet(lambda kept, seed: (right, right[:5]) if seed == 0 else right, folder=tmp_path / "u")
    with pytest.raises(UserError, match="seed 2 gave 4 tests, and 5 before"):
        quiet(lambda kept, seed: (right, right[: 5 - (seed == 2)]), folder=tmp_path / "u", runs=[0, 2])


def test_names_of_tests_are_looked_at(tmp_path):
    names: Any = [f"t{i}" for i in range(TESTS)]
    bad: Any
    other: Any
    found: Any
    for bad, words in (
        (["a", "a"], "occurs twice"),
        ([None, "a"], "empty cells"),
        (3, "integers or strings"),
    ):
        with pytest.raises(UserError, match=words):
            quiet(None, folder=tmp_path / "a", test_ids=bad)  # before anything is trained
    with pytest.raises(UserError, match="gave 30 tests, and test_ids= names 29; the run is not kept"):
        quiet(folder=tmp_path / "a", test_ids=names[1:])
    right = np.ones(N, bool)
    with pytest.raises(UserError, match="gave no tests, and test_ids= names 30"):
        quiet(lambda kept, seed: right, folder=tmp_path / "a", test_ids=names)
    assert not list((tmp_path / "a").iterdir())
    found = quiet(folder=tmp_path / "a", runs=2, test_ids=names)
    assert found.test_ids is not None and found.test_ids.tolist() == sorted(names)
    quiet(lambda kept, seed: right, folder=tmp_path / "b", runs=2)
    with pytest.raises(UserError, match="a run without tests, and test_ids= names 30"):
        quiet(None, folder=tmp_path / "b", runs=3, test_ids=names)
    for other in (None, names[1:], range(TESTS), [*names[1:], "t0x"]):
        with pytest.raises(UserError, match="tests of other ids than test_ids="):
            quiet(None, folder=tmp_path / "a", runs=3, test_ids=other)
    assert len(quiet(folder=tmp_path / "a", runs=3, test_ids=names).names) == 3


def test_influence_is_worked_out_in_pieces(tmp_path, monkeypatch):
    found: Any = quiet(folder=tmp_path / "a")
    whole, shares = found.influence(), replace(found, tests=found.tests * 0.5)
    of_shares = shares.influence("feldman")
    n = 2000
    large = replace(
        found, ids=np.arange(n), member=np.resize(found.member, (8, n)), tests=np.resize(found.tests, (8, n))
    )
    monkeypatch.setattr("dither.scores.subset_record.BLOCK", 100 * TESTS)
    np.testing.assert_array_equal(found.influence(), whole)
    np.testing.assert_allclose(shares.influence("feldman"), of_shares, atol=1e-15)
    np.testing.assert_array_equal(found.influence(dtype=np.float32), whole.astype(np.float32))
    tracemalloc.start()
    values = large.influence(dtype=np.float32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert values.nbytes == 4 * n * n and peak < 1.1 * values.nbytes  # in fp64 alone it is 2


def test_what_cannot_be_meant_is_refused(tmp_path):
    quiet(folder=tmp_path / "runs", runs=3)
    with pytest.raises(UserError, match="another subset or of other examples"):
        quiet(folder=tmp_path / "runs", fraction=0.5)
    with pytest.raises(UserError, match="another subset or of other examples"):
        quiet(folder=tmp_path / "runs", n=N - 1)
    for runs in (0, [], [1, 1]):
        with pytest.raises(UserError, match="runs="):
            quiet(folder=tmp_path / "a", runs=runs)
    for ids, words in (
        ([1], "120 integers or strings"),
        ([7] * N, "occurs twice"),
        ([None] * N, "empty cells"),
    ):
        with pytest.raises(UserError, match=words):
            quiet(None, folder=tmp_path / "a", ids=ids)  # before anything is trained
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is a file"):
        quiet(folder=file)
    with pytest.raises(UserError, match=r"cannot be made|is a file"):
        quiet(folder=file / "below")
    for path in (tmp_path / "nowhere", file, tmp_path):
        with pytest.raises(UserError, match=r"no folder of a finished run|holds .* runs"):
            SubsetRuns.load(path)
    with pytest.raises(UserError, match="at least one folder"):
        SubsetRuns.load([])
    one = tmp_path / "one"
    for name in "ab":
        columns = {"member": [1, 0, 1], "correct": [1, 1, 0]}
        (one / name).mkdir(parents=True)
        ScoreTable.of_run(name, columns).save(one / name / "scores.parquet")
    with pytest.raises(UserError, match="all 2 runs have the same subset"):
        SubsetRuns.load(one)
    for name, columns, words in (
        ("c", {"loss": [1.0]}, "no column 'member'"),
        ("c", {"member": [1, 0, 1], "correct": [0.5, np.nan, 1.0]}, "0, 1 or shares between"),
        ("c", {"member": [1, 0], "correct": [1, 1]}, "not of the same examples"),
        ("a", {"member": [0, 1, 1], "correct": [1, 1, 0]}, "another run of the name 'a'"),
    ):
        (one / "c").mkdir(exist_ok=True)
        ScoreTable.of_run(name, columns).save(one / "c" / "scores.parquet")
        with pytest.raises(UserError, match=words):
            SubsetRuns.load(one)


def test_the_command_line_makes_the_table_and_the_influence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = quiet(folder="runs", runs=12)
    Path("runs/subset-00099").mkdir()
    assert main(["score", "runs", "--scores", "memorization", "--influence", "infl.npz"]) == 0
    said = capsys.readouterr().out
    assert "12 runs on 70% of 120 examples" in said and "not finished: runs/subset-00099" in said
    assert "influence of 120 examples on 30" in said and "memorization" in said
    np.testing.assert_array_equal(
        ScoreTable.load("scores.parquet").values("memorization")[0], found.memorization()
    )
    with np.load("infl.npz") as archive:
        np.testing.assert_allclose(archive["influence"], found.influence(), atol=1e-7)
        assert archive["ids"].tolist() == list(range(N)) and archive["test_ids"].tolist() == list(
            range(TESTS)
        )
    paths = [str(p) for p in Path("runs").iterdir() if p.name != "subset-00099"]
    assert main(["score", *paths, "--scores", "memorization", "--out", "b.parquet"]) == 0
    assert ScoreTable.load("b.parquet").fingerprint() == ScoreTable.load("scores.parquet").fingerprint()
    assert main(["score", *paths, "--out", "each.parquet"]) == 0  # what each run is right on
    assert len(ScoreTable.load("each.parquet").runs) == 12
    assert (
        main(["select", "scores.parquet", "--score", "memorization", "--keep", "20", "--drop_unscored"]) == 0
    )
    capsys.readouterr()
    for arguments, words in (
        (["--scores", "memorization", "el2n", "--out", "c.parquet"], "ask for it alone"),
        (["--influence", "infl.npz", "--out", "c.parquet"], "--force replaces it"),
        (["--influence", "infl.npy", "--out", "c.parquet"], ".npz"),
        (["--influence", "no/such/infl.npz", "--out", "c.parquet"], "cannot be written"),
    ):
        assert main(["score", "runs", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not Path("c.parquet").exists()
