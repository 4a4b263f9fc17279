"""Tables merge in any order to the same bits, and survive files, frames and crashes."""

import itertools
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dither.errors import UserError
from dither.scores import ScoreTable


def table(run: str, ids, seed: int, **more) -> ScoreTable:
    rng = np.random.default_rng(seed)
    n = len(ids)
    columns = {"el2n": rng.standard_normal(n), "visits": rng.integers(0, 9, n)}
    return ScoreTable.of_run(run, columns, ids=ids, provenance={"seed": seed}, **more)


def parts() -> list[ScoreTable]:
    """Three runs, the first in three shards."""
    shards = [table("a", ids, 7 + i) for i, ids in enumerate(([5, 1, 9], [2, 0], [7, 3, 4, 8, 6]))]
    return [*shards, table("b", list(range(9, -1, -1)), 1), table("c", list(range(10)), 2)]


def test_merging_does_not_depend_on_the_order():
    hashes, means = set(), set()
    for order in itertools.permutations(parts()):
        merged = order[0].merge(*order[1:])
        hashes.add(merged.fingerprint())
        means.add(merged.mean("el2n").tobytes())
        assert [r.provenance for r in merged.runs.values()][1:] == [{"seed": 1}, {"seed": 2}]
    assert len(hashes) == len(means) == 1


def test_merging_groups_as_it_likes_and_twice():
    p = parts()
    left = p[0].merge(p[1]).merge(p[2]).merge(p[3]).merge(p[4])
    right = p[0].merge(p[1].merge(p[2].merge(p[3].merge(p[4]))))
    assert left.fingerprint() == right.fingerprint() == left.merge(left).fingerprint()
    np.testing.assert_array_equal(left.ids, np.arange(10))


def test_shards_that_overlap_are_joined_where_they_agree():
    p = parts()
    whole = p[0].merge(p[1]).merge(p[2])
    for again in (p[0], p[2], p[1].merge(p[2]), whole):
        assert whole.merge(again).fingerprint() == again.merge(whole).fingerprint() == whole.fingerprint()
    run = whole.runs["a"]
    other = {c: np.where(np.arange(10) == 4, v + 1, v) for c, v in run.columns.items()}
    with pytest.raises(UserError, match="different values for 1 examples, 4 among them"):
        whole.merge(ScoreTable.of_run("a", other, ids=run.ids))


def test_where_a_run_of_shards_comes_from_does_not_depend_on_the_order():
    shards = [
        ScoreTable.of_run("a", {"loss": np.arange(2.0) + i}, ids=[2 * i, 2 * i + 1], provenance=about)
        for i, about in enumerate(({"p": 1}, {"p": 1}, {"p": 2}, {}))
    ]
    found = [order[0].merge(*order[1:]) for order in itertools.permutations(shards)]
    found += [found[0].merge(found[5]), shards[0].merge(shards[1].merge(shards[2]), shards[3])]
    for merged in found:
        assert merged.runs["a"].provenance == {"shards": [{"p": 1}, {"p": 2}]}
        assert merged.fingerprint() == found[0].fingerprint()
    assert shards[0].merge(shards[1]).runs["a"].provenance == {"p": 1}
    five = ScoreTable.of_run("a", {"loss": [1.0]}, ids=[9], provenance={"classes": 5, "rank": 0})
    four = ScoreTable.of_run("a", {"loss": [1.0]}, ids=[8], provenance={"classes": 4, "rank": 1})
    with pytest.raises(UserError, match="4 and 5 classes"):
        five.merge(four)


def test_ids_that_are_missing_or_do_not_fit_are_refused():
    for ids in (np.array([1, None], object), np.array(["a", np.nan], object)):
        with pytest.raises(UserError, match="ids have empty cells"):
            ScoreTable.of_run("r", {"loss": [1.0, 2.0]}, ids=ids)
    with pytest.raises(UserError, match="ids have empty cells"):
        ScoreTable.from_frame(pa.table({"id": pa.array([1, None]), "loss": [1.0, 2.0]}))
    with pytest.raises(UserError, match="beyond int64"):
        ScoreTable.of_run("r", {"loss": [1.0, 2.0]}, ids=np.array([1 << 63, 1], np.uint64))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), unique=True, min_size=2, max_size=20), st.integers(1, 19), st.randoms())
def test_any_cut_into_shards_is_the_whole(ids, cut, random):
    whole = table("r", ids, 3)
    order = list(range(len(ids)))
    random.shuffle(order)
    run = whole.runs["r"]
    lookup = {int(i): k for k, i in enumerate(run.ids)}

    def shard(members):
        rows = [lookup[ids[m]] for m in members]
        columns = {c: v[rows] for c, v in run.columns.items()}
        return ScoreTable.of_run("r", columns, ids=run.ids[rows], provenance={"seed": 3})

    cut %= len(ids)
    pieces = [shard(order[:cut]), shard(order[cut:])] if cut else [shard(order)]
    assert pieces[-1].merge(*pieces[:-1]).fingerprint() == whole.fingerprint()


def test_conflicts_are_refused():
    a = table("a", [0, 1, 2], 1)
    with pytest.raises(UserError, match="different values for 2 examples"):
        a.merge(table("a", [2, 1, 5], 2))
    with pytest.raises(UserError, match="different data"):
        table("a", [0], 1, data="x").merge(table("b", [0], 1, data="y"))
    with pytest.raises(UserError, match="integers as ids"):
        a.merge(table("b", ["x", "y"], 1))
    with pytest.raises(UserError, match="different columns"):
        a.merge(ScoreTable.of_run("a", {"loss": [1.0]}, ids=[9]))
    with pytest.raises(UserError, match="occurs twice"):
        table("a", [3, 3], 1)
    with pytest.raises(UserError, match="one length"):
        ScoreTable.of_run("a", {"x": [1.0], "y": [1.0, 2.0]})
    with pytest.raises(UserError, match="did you mean 'el2n'"):
        a.values("el2m")


def test_runs_over_different_examples_meet_in_the_common_ones():
    merged = table("a", [0, 1, 2, 3], 1).merge(table("b", [2, 3, 4], 2))
    np.testing.assert_array_equal(merged.ids, [2, 3])
    assert merged.values("el2n").shape == (2, 2)
    np.testing.assert_array_equal(merged.values("el2n")[0], merged.runs["a"].columns["el2n"][2:])


@pytest.mark.parametrize("ids", [None, [10, 3, 7], ["c", "a", "b"]])
def test_files_give_the_same_table(tmp_path, ids):
    one = ScoreTable.of_run("r", {"el2n": [0.1, np.nan, np.inf], "visits": [3, 0, 2]}, ids=ids, data="digits")
    two = one.merge(ScoreTable.of_run("s", {"loss": [1.0, 2.0, 3.0]}, ids=ids))
    for t in (one, two):
        back = ScoreTable.load(t.save(tmp_path / "t.parquet"))
        assert back.fingerprint() == t.fingerprint() and back.data == "digits"
        assert {n: dict(r.provenance) for n, r in back.runs.items()} == {
            n: dict(r.provenance) for n, r in t.runs.items()
        }
    assert not list(tmp_path.glob("*.tmp*"))


def test_frames(tmp_path):
    pandas = pytest.importorskip("pandas")
    t = parts()[3].merge(parts()[4])
    frame = t.to_pandas()
    polars = pytest.importorskip("polars")
    assert isinstance(t.to_polars(), polars.DataFrame) and t.to_polars().shape == (20, 4)
    assert ScoreTable.from_frame(t.to_polars()).fingerprint() == t.fingerprint()
    named = ScoreTable.from_frame(polars.DataFrame({"id": ["b", "a"], "loss": [1.0, 2.0]}))
    assert named.ids.tolist() == ["a", "b"] and named.values("loss").tolist() == [[2.0, 1.0]]
    assert list(frame.columns) == ["run", "id", "el2n", "visits"] and len(frame) == 20
    assert ScoreTable.from_frame(frame).fingerprint() == t.fingerprint()
    assert ScoreTable.from_frame(t.to_arrow()).fingerprint() == t.fingerprint()
    plain = ScoreTable.from_frame(pandas.DataFrame({"id": [4, 2], "loss": [1.0, 2.0]}))
    np.testing.assert_array_equal(plain.values("loss"), [[2.0, 1.0]])
    indexed = ScoreTable.from_frame(frame.set_index(["run", "id"]))
    lazy, batch = t.to_polars().lazy(), t.to_arrow().combine_chunks().to_batches()[0]
    for other in (indexed, ScoreTable.from_frame(lazy), ScoreTable.from_frame(batch)):
        assert other.fingerprint() == t.fingerprint()
    # pandas makes integers fp64 where another run has none
    mixed = t.merge(ScoreTable.of_run("d", {"loss": [1.0], "label": [7]}, ids=[2]))
    for other in (mixed.to_pandas(), mixed.to_polars(), mixed.to_arrow()):
        assert ScoreTable.from_frame(other).fingerprint() == mixed.fingerprint()
    with pytest.raises(UserError, match="'text' holds numbers, not object; leave it out"):
        ScoreTable.from_frame(pandas.DataFrame({"id": [1], "loss": [1.0], "text": ["a"]}))
    with pytest.raises(UserError, match="column 'id'"):
        ScoreTable.from_frame({"loss": [1.0]})


@pytest.mark.parametrize("kind", ["to_pandas", "to_polars", "to_arrow"])
def test_a_score_that_is_nan_for_a_whole_run_goes_through_every_frame(kind, tmp_path):
    pytest.importorskip(kind.removeprefix("to_").replace("arrow", "pyarrow"))
    nan, a = np.full(2, np.nan), {"loss": [1.0, 2.0], "memorization": [0.5, 0.1]}
    ones = [ScoreTable.of_run("a", a), ScoreTable.of_run("b", {"loss": [3.0, 4.0], "memorization": nan})]
    other = ScoreTable.of_run("c", {"loss": [3.0, np.nan], "vog": nan})
    for table in (ones[1], ones[0].merge(ones[1]), ones[0].merge(ones[1], other)):
        again = ScoreTable.from_frame(getattr(table, kind)())
        assert again.fingerprint() == table.fingerprint() and again.scores == table.scores
        table.save(tmp_path / "t.parquet")
        assert ScoreTable.load(tmp_path / "t.parquet").fingerprint() == table.fingerprint()


def test_frames_of_pandas_that_were_changed_or_lost_their_attributes():
    pandas = pytest.importorskip("pandas")
    nan = np.full(2, np.nan)
    one = ScoreTable.of_run("a", {"loss": [1.0, 2.0], "memorization": [0.5, 0.1]})
    table = one.merge(ScoreTable.of_run("b", {"loss": [3.0, 4.0], "memorization": nan}))
    frame = table.to_pandas()
    for kept in (frame.copy(), frame[frame.run == "b"], frame.sort_values("loss", ascending=False)):
        assert "memorization" in ScoreTable.from_frame(kept).runs["b"].names
    dropped = ScoreTable.from_frame(frame.drop(columns="memorization"))
    assert dropped.scores == ("loss",)
    plain = pandas.DataFrame(frame.to_dict("list"))  # as from a CSV file: b's NaN is nothing
    assert ScoreTable.from_frame(plain).runs["b"].names == ("loss",)
    nowhere = pandas.DataFrame({"id": [1, 2], "loss": [1.0, 2.0], "vog": nan, "note": [None, None]})
    assert ScoreTable.from_frame(nowhere).scores == ("loss", "vog")


def test_folders_merge_and_the_same_table_twice_is_one_file(tmp_path):
    for p in [*parts(), parts()[0]]:
        p.append(tmp_path / "scores")
    assert len(list((tmp_path / "scores").iterdir())) == 5
    first, *rest = parts()
    assert ScoreTable.load(tmp_path / "scores").fingerprint() == first.merge(*rest).fingerprint()


def test_processes_may_append_at_once(tmp_path):
    """Four processes append the same sixteen tables each, and all meet at the same names."""
    code = (
        "import sys, numpy as np\nfrom dither.scores import ScoreTable\n"
        "for i in range(16):\n"
        "    columns = {'loss': np.array([i, i + 0.5])}\n"
        "    ScoreTable.of_run(f'run-{i % 4}', columns, ids=[2 * i, 2 * i + 1]).append(sys.argv[1])\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")]) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    loaded = ScoreTable.load(tmp_path / "s")
    assert (
        sorted(loaded.runs) == [f"run-{i}" for i in range(4)] and len(list((tmp_path / "s").iterdir())) == 16
    )
    for k, run in enumerate(loaded.runs.values()):
        parts = range(k, 16, 4)
        np.testing.assert_array_equal(run.ids, np.concatenate([[2 * i, 2 * i + 1] for i in parts]))
        np.testing.assert_array_equal(run.columns["loss"], np.concatenate([[i, i + 0.5] for i in parts]))


def test_threads_may_append_the_same_table_at_once(tmp_path):
    t = ScoreTable.of_run("r", {"loss": np.arange(100_000.0)})
    for k in range(3):  # all write before one has renamed its file
        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(t.append, [tmp_path / str(k)] * 4))) == 1
        assert len(list((tmp_path / str(k)).iterdir())) == 1
        assert ScoreTable.load(tmp_path / str(k)).fingerprint() == t.fingerprint()


def test_killed_while_writing_leaves_whole_files(tmp_path):
    """A process that appends for ever is killed; what it leaves loads."""
    code = (
        "import sys, numpy as np\nfrom dither.scores import ScoreTable\n"
        "for i in range(10**6):\n"
        "    t = ScoreTable.of_run(f'r{i}', {'loss': np.arange(20000.) + i})\n"
        "    t.append(sys.argv[1]); print(i, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(3):
        assert child.stdout.readline()
    time.sleep(0.02)
    child.kill()
    child.wait()
    loaded = ScoreTable.load(tmp_path / "s")
    assert len(loaded.runs) >= 3
    for name, run in loaded.runs.items():
        np.testing.assert_array_equal(run.columns["loss"], np.arange(20000.0) + int(name[1:]))


def test_damaged_files_are_refused(tmp_path):
    path = table("a", [0, 1], 1).save(tmp_path / "t.parquet")
    data = path.read_bytes()
    for cut in (0, 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError):
            ScoreTable.load(path)
    with pytest.raises(UserError, match="no such file"):
        ScoreTable.load(tmp_path / "nothing.parquet")
    with pytest.raises(UserError, match=r"\.parquet"):
        table("a", [0], 1).save(tmp_path / "t.csv")
    about = {"version": 99, "runs": {}}
    arrow = pa.table({"id": [1]}).replace_schema_metadata({b"dither.scores": json.dumps(about).encode()})
    pq.write_table(arrow, path)
    with pytest.raises(UserError, match="later version"):
        ScoreTable.load(path)
    lying = {"version": 1, "runs": {"run": {"columns": ["loss"]}}}
    pq.write_table(arrow.replace_schema_metadata({b"dither.scores": json.dumps(lying).encode()}), path)
    with pytest.raises(UserError, match=r"t\.parquet: run 'run' lacks the columns loss"):
        ScoreTable.load(path)


def test_provenance_takes_numbers_of_numpy_and_refuses_what_no_file_holds():
    made = ScoreTable.of_run("a", {"x": [1.0]}, provenance={"lr": np.float32(0.5), "step": np.int64(3)})
    assert made.runs["a"].provenance == {"lr": 0.5, "step": 3}
    for wrong in (np.nan, np.float64("inf"), object(), {1, 2}):
        with pytest.raises(UserError, match="provenance= holds"):
            ScoreTable.of_run("a", {"x": [1.0]}, provenance={"lr": wrong})


def test_the_key_of_merged_shards_is_refused_elsewhere_and_kept_apart():
    for shards in (4, "x", [4], {"a": 1}):
        with pytest.raises(UserError, match=r"has 'shards': .* name yours otherwise"):
            ScoreTable.of_run("a", {"x": [1.0]}, provenance={"shards": shards})
    a, b = (ScoreTable.of_run("a", {"x": [1.0]}, ids=[i], provenance={"rank": i}) for i in (0, 1))
    whole = a.merge(b).with_scores("a", {"vog": [1.0, 2.0]}, provenance={"layer": 2})
    assert whole.runs["a"].provenance == {"shards": [{"rank": 0}, {"rank": 1}], "layer": 2}
    c = ScoreTable.of_run("a", {"x": [2.0], "vog": [3.0]}, ids=[7], provenance={"rank": 2})
    found = [m.runs["a"].provenance for m in (whole.merge(c), c.merge(whole), whole.merge(c).merge(whole))]
    told = {"shards": [{"layer": 2, "rank": 0}, {"layer": 2, "rank": 1}, {"rank": 2}]}
    assert found == [told] * 3


def test_numbers_that_no_tracker_made_are_values():
    """Whatever order shards come in, an integer of an example that both never visited is not thrown away."""

    def shard(place: int, depth, label=2) -> ScoreTable:
        visits = (np.arange(3) == place).astype(np.int64)
        columns = {
            "visits": visits, "sum_correct": visits, "el2n": np.where(visits, 0.5, np.nan), "depth": depth,
            "label": np.where(visits, label, -1),
        }  # fmt: skip
        return ScoreTable.of_run("r", {c: np.asarray(v) for c, v in columns.items()})

    a = shard(0, [1, 2, 3])
    for other in (shard(1, [1, 2, 5]), shard(1, [9, 2, 3])):
        for tables in ((a, other), (other, a)):
            with pytest.raises(UserError, match="different values for 1 examples"):
                tables[0].merge(tables[1])
    b = shard(1, [1, 2, 3])
    assert a.merge(b).fingerprint() == b.merge(a).fingerprint()
    assert a.merge(b).values("depth").tolist() == [[1, 2, 3]] and a.merge(b).labels().tolist() == [2, 2, -1]


def test_columns_added_to_an_arrow_table_are_read():
    t = parts()[3].merge(ScoreTable.of_run("c", {"loss": np.arange(10.0)}))
    arrow = t.to_arrow()
    mine = pa.array([float(i) if run == "c" else None for i, run in enumerate(arrow["run"].to_pylist())])
    again = ScoreTable.from_frame(arrow.append_column("mine", mine).append_column("none", pa.nulls(20)))
    assert again.runs["c"].names == ("loss", "mine") and again.runs["b"].names == t.runs["b"].names
    np.testing.assert_array_equal(again.having("mine").values("mine")[0], np.arange(10.0, 20))
    with pytest.raises(UserError, match="'note' holds numbers"):
        ScoreTable.from_frame(arrow.append_column("note", pa.array(["x"] * 20)))


def test_values_of_examples_that_some_run_lacks():
    t = table("a", [0, 2, 5], 1).merge(table("b", [2, 3], 2), ScoreTable.of_run("c", {"el2n": []}))
    assert repr(t).startswith("ScoreTable(3 runs, 4 examples (0 in every run), scores: el2n")
    assert t.ids.tolist() == [] and t.ids_of_any.tolist() == [0, 2, 3, 5]
    found = t.values("el2n", ids=t.ids_of_any)
    assert np.isnan(found).tolist() == [[0, 0, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1]]
    np.testing.assert_array_equal(found[0, [0, 1, 3]], t.runs["a"].columns["el2n"])
    assert ScoreTable({}).ids_of_any.tolist() == []
    words = table("a", ["x", "z"], 1).merge(table("b", ["y"], 2))
    assert np.isnan(words.values("el2n", ids=words.ids_of_any)).tolist() == [[0, 1, 0], [1, 0, 1]]


def test_nan_is_equal_to_itself_and_labels_may_be_unknown():
    some = ScoreTable.of_run("a", {"s": [np.nan, 1.0], "label": [3, 4]}, ids=[5, 7])
    assert some.merge(some).fingerprint() == some.fingerprint()
    with pytest.raises(UserError, match="different values"):
        some.merge(ScoreTable.of_run("a", {"s": [np.nan, np.nan], "label": [3, 4]}, ids=[5, 7]))
    assert some.labels([7, 6, 5, 9]).tolist() == [4, -1, 3, -1]


def test_one_name_is_one_name():
    t = parts()[3].merge(parts()[4])
    assert list(t.select("b").runs) == ["b"] and list(t.select(["b", "c"]).runs) == ["b", "c"]
    run = ScoreTable.of_run("a", {"sum_correct": [1, 2], "visits": [2, 2]}, scores="correctness")
    assert run.scores == ("correctness",)


def test_a_new_run_of_other_examples_needs_their_ids():
    t = ScoreTable.of_run("seed-0", {"el2n": [0.1, 0.2, 0.3]}, ids=[2, 0, 7])
    with pytest.raises(
        UserError, match="run 'ens' is new, and the table's examples are not 0 to 2: give ids="
    ):
        t.with_scores("ens", {"v": [1.0, 2.0, 3.0]})
    assert t.with_scores("ens", {"v": [1.0, 2.0, 3.0]}, ids=[2, 0, 7]).having("v").ids.tolist() == [0, 2, 7]
    plain = ScoreTable.of_run("seed-0", {"el2n": [0.1, 0.2, 0.3]})
    with pytest.raises(UserError, match="not 0 to 1"):
        plain.with_scores("ens", {"v": [1.0, 2.0]})
    assert plain.with_scores("ens", {"v": [1.0, 2.0, 3.0]}).scores_of_any == ("v", "el2n")
    assert ScoreTable({}).with_scores("ens", {"v": [1.0, 2.0]}).scores == ("v",)


def test_where_values_come_from_is_appended_too(tmp_path):
    for seed in (1, 2, 1):
        ScoreTable.of_run("a", {"x": [1.0, 2.0]}, provenance={"seed": seed}).append(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert ScoreTable.load(tmp_path).runs["a"].provenance == {"shards": [{"seed": 1}, {"seed": 2}]}


def test_integers_beyond_int64_are_refused():
    with pytest.raises(UserError, match="the column 'h' holds integers beyond int64"):
        ScoreTable.of_run("a", {"h": np.array([2**63 + 5], np.uint64)})
    assert ScoreTable.of_run("a", {"h": np.array([2**63 - 1], np.uint64)}).runs["a"].columns["h"][0] > 0


def test_zeros_of_both_signs_are_one_number():
    a, b = (ScoreTable.of_run("a", {"x": [zero, 1.0]}) for zero in (0.0, -0.0))
    assert a.merge(b).fingerprint() == b.merge(a).fingerprint() == a.fingerprint()
