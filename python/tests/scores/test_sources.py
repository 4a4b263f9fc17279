"""Files and folders of logits become the tables that the functions give; errors name the file."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dither.errors import UserError
from dither.scores import ScoreTable, Tracker, logit_scores, overview, score_paths, sequence_scores
from dither.scores.sources import labels_of

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 4, 60)


def logits(seed: int, sharp: float = 1.0) -> np.ndarray:
    z = np.random.default_rng(seed).standard_normal((60, 4)).astype(np.float32)
    z[np.arange(60), LABELS] += sharp
    return z


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    return tmp_path


def test_every_kind_of_file_gives_the_scores_of_its_logits(folder):
    z, ids = logits(0), np.array([f"x{i:02d}" for i in range(60)])[::-1]
    np.save(folder / "a.npy", z)
    np.savez(folder / "b.npz", logits=z, labels=LABELS)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), 4)
    pq.write_table(pa.table({"logits": rows, "label": LABELS}), folder / "c.parquet")
    pq.write_table(
        pa.table({"logits": rows.cast(pa.list_(pa.float32())), "label": LABELS}), folder / "d.parquet"
    )
    table = score_paths([folder])
    assert list(table.runs) == ["a", "b", "c", "d"]
    for name, expected in logit_scores(z, LABELS).items():
        for row in table.values(name):
            np.testing.assert_array_equal(row, expected)
    pq.write_table(pa.table({"logits": rows, "label": LABELS, "id": ids}), folder / "c.parquet")
    named = score_paths([folder / "c.parquet"], ["el2n"])
    np.testing.assert_array_equal(named.ids, ids[::-1])
    np.testing.assert_array_equal(named.values("el2n")[0], logit_scores(z, LABELS)["el2n"][::-1])


def test_a_folder_in_a_folder_is_a_run_of_visits_in_the_order_of_numbers(folder):
    tracker = Tracker(60)
    (folder / "seed0").mkdir()
    for step, epoch in enumerate((1, 2, 10)):  # as text, 10 comes before 2
        np.save(folder / "seed0" / f"epoch-{epoch}.npy", logits(epoch, epoch))
        tracker.update(np.arange(60), logits(epoch, epoch), LABELS, step=step)
    table = score_paths([folder])
    assert list(table.runs) == ["seed0"] and table.runs["seed0"].provenance["visits"][-1] == "epoch-10.npy"
    assert table.fingerprint() == tracker.table("seed0").fingerprint()
    assert score_paths([folder / "seed0"], visits=True).fingerprint() == table.fingerprint()
    assert list(score_paths([folder / "seed0"]).runs) == ["epoch-1", "epoch-10", "epoch-2"]


def test_tables_among_the_files_are_merged(folder):
    np.save(folder / "a.npy", logits(0))
    earlier = score_paths([folder / "a.npy"])
    (folder / "tables").mkdir()
    earlier.append(folder / "tables")
    np.save(folder / "b.npy", logits(1))
    assert list(score_paths([folder / "tables", folder / "b.npy"]).runs) == ["a", "b"]
    assert earlier.fingerprint() == score_paths([folder / "tables"]).fingerprint()


def test_sequences_and_logits_without_labels(tmp_path):
    z, y = RNG.standard_normal((5, 7, 11)).astype(np.float32), RNG.integers(0, 11, (5, 7))
    y[2, 4:] = -100
    np.savez(tmp_path / "lm.npz", logits=z, labels=y)
    table = score_paths([tmp_path / "lm.npz"])
    for name, expected in sequence_scores(z, y).items():
        np.testing.assert_array_equal(table.values(name)[0], expected)
    np.save(tmp_path / "free.npy", logits(0))
    assert set(score_paths([tmp_path / "free.npy"]).scores) == {"max_confidence", "entropy", "top_margin"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: np.save(f / "x.npy", np.array(["a"])), "real numbers"),
        (lambda f: np.save(f / "x.npy", np.zeros(5, np.float32)), "not of the shape"),
        (lambda f: np.save(f / "x.npy", np.zeros((0, 4), np.float32)), "x.npy holds no examples"),
        (lambda f: np.save(f / "x.npy", np.full((60, 4), np.nan, np.float32)), "x.npy.*row 0"),
        (lambda f: np.save(f / "x.npy", np.zeros((60, 2), np.float32)), "outside the 2 classes"),
        (lambda f: np.save(f / "x.npy", np.zeros((7, 4), np.float32)), "x.npy.*60 elements where 7"),
        (lambda f: (f / "x.npy").write_bytes(b"\x93NUMPY\x01\x00broken"), "x.npy cannot be read"),
        (lambda f: (f / "x.npz").write_bytes(b"no zip"), "x.npz cannot be read"),
        (lambda f: (f / "x.parquet").write_bytes(b"PAR1"), "x.parquet cannot be read"),
        (lambda f: np.savez(f / "x.npz", labels=LABELS), "no logits"),
        (lambda f: None, "holds no logits"),
        (lambda f: pq.write_table(pa.table({"logits": [[1.0, 2.0], [1.0]]}), f / "x.parquet"), "different"),
    ],
)
def test_what_cannot_be_scored_is_named(folder, make, said):
    make(folder)
    with pytest.raises(UserError, match=said):
        score_paths([folder])


def test_visits_that_do_not_fit_together_are_refused(folder):
    np.save(folder / "1.npy", logits(0))
    np.save(folder / "2.npy", np.zeros((60, 5), np.float32))
    with pytest.raises(UserError, match=r"2.npy.*5 classes"):
        score_paths([folder], visits=True)
    np.savez(folder / "2.npz", logits=logits(1)[:30], labels=LABELS[:30])
    (folder / "2.npy").unlink()
    with pytest.raises(UserError, match=r"2.npz.*30 rows where .*1.npy has 60"):
        score_paths([folder], visits=True)
    with pytest.raises(UserError, match="aum is no score of one visit"):
        score_paths([folder / "1.npy"], ["aum"])


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("kind", ["bare", "npy", "npz", "labels", "ids in npz"])
def test_nothing_is_unpickled(folder, kind):
    sprung, trap = folder / "sprung", np.array([Trap(str(folder / "sprung"))], dtype=object)
    file, z = folder / ("a.npz" if "npz" in kind else "a.npy"), logits(0)
    np.save(folder / "a.npy", z)
    if kind == "bare":
        file.write_bytes(pickle.dumps(trap))
    elif kind == "npy":
        np.save(file, trap, allow_pickle=True)
    elif kind == "labels":
        (folder / "labels.npy").write_bytes(pickle.dumps(trap))
    else:
        columns = {"logits": trap} if kind == "npz" else {"logits": z, "ids": trap}
        np.savez(file, allow_pickle=True, **columns)
    with pytest.raises(UserError, match=r"no file of numbers|cannot be read"):
        score_paths([file])
    assert not sprung.exists()


def test_the_overview_says_what_is_known_and_what_is_not(folder):
    for seed in range(4):
        np.save(folder / f"s{seed}.npy", logits(seed, 2.0))
    rows = {row.score: row for row in overview(score_paths([folder], ["el2n", "confidence"]))}
    measured = rows["el2n"].reliability
    assert rows["confidence"].direction == "easy" and measured is not None
    assert measured.half_runs == 2 and abs(measured.r1) < 0.2  # noise alone: sd of r1 is .06
    unseen = np.where(np.arange(60) < 3, np.nan, 1.0 + np.arange(60))
    runs = [ScoreTable.of_run(r, {"mine": unseen, "flat": np.ones(60)}) for r in "ab"]
    mine, flat = overview(runs[0].merge(runs[1]))
    assert (mine.left_out, mine.examples, mine.direction, mine.low) == (3, 57, "?", 4.0)
    assert mine.reliability is not None and mine.reliability.r1 == pytest.approx(1)
    assert flat.reliability is None and "same" in flat.why
    assert overview(runs[0])[0].why == "one run"


def test_labels_are_found_by_id(tmp_path):
    np.save(tmp_path / "y.npy", np.array([5, 6, 7, 8]))
    np.testing.assert_array_equal(labels_of(tmp_path / "y.npy", np.array([3, 1])), [8, 6])
    with pytest.raises(UserError, match="none for the id 4"):
        labels_of(tmp_path / "y.npy", np.array([0, 4]))
    pq.write_table(pa.table({"id": ["b", "a"], "label": [1, 2]}), tmp_path / "y.parquet")
    np.testing.assert_array_equal(labels_of(tmp_path / "y.parquet", np.array(["a", "b"])), [2, 1])
    with pytest.raises(UserError, match="no label of 1 examples, 'c'"):
        labels_of(tmp_path / "y.parquet", np.array(["a", "c"]))
    with pytest.raises(UserError, match=r"strings need a \.parquet"):
        labels_of(tmp_path / "y.npy", np.array(["a"]))
