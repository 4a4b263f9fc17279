"""The page on a table of scores: the figures of the functions, pictures of the right examples, one file."""

import base64
import html
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dither.cli.main import main
from dither.errors import UserError
from dither.report import score_pictures, scores
from dither.report.examples import Images, read_texts
from dither.scores import ScoreTable, auc, reliability

N = 120
RNG = np.random.default_rng(0)
DIFFICULTY = RNG.random(N)
PLANTED = DIFFICULTY > 0.9


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight runs of two kinds; example 7 is hard for b, easy for a; files of material beside the table."""
    monkeypatch.chdir(tmp_path)
    table = ScoreTable({})
    for kind in "ab":
        for seed in range(4):
            rng = np.random.default_rng([ord(kind), seed])
            el2n = DIFFICULTY + 0.05 * rng.standard_normal(N)
            el2n[7] = {"a": -1.0, "b": 2.0}[kind]
            map_ = {"confidence_mean": 1 - np.clip(el2n, 0, 1), "variability": rng.random(N) / 2}
            table = table.merge(ScoreTable.of_run(f"{kind}-{seed}", {"el2n": el2n, **map_}))
    table.save("t.parquet")
    np.save("x.npy", RNG.integers(0, 256, (N, 6, 5), dtype=np.uint8))
    np.save("y.npy", np.arange(N) % 3)
    np.save("planted.npy", PLANTED)
    (tmp_path / "t.txt").write_text("".join(f"text <{i}>\n" for i in range(N)))
    return tmp_path


def page(*options: str, table: str = "t.parquet") -> str:
    assert main(["report", table, *options]) == 0
    return open(table.replace(".parquet", ".html"), encoding="utf-8").read()


def rows(text: str, heading: str) -> list[list[str]]:
    part = text[text.index(f">{heading}") :]
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    return [
        [html.unescape(c) for c in re.findall(r"<td[^>]*>(.*?)</td>", row, re.S)]
        for row in body.split("<tr>")[1:]
    ]


def test_the_page_holds_everything_and_links_to_nothing(folder):
    material = ("--images", "x.npy", "--labels", "y.npy", "--names", "bag", "shoe", "coat")
    text = page(*material, "--planted", "planted.npy", "--groups", "a=a-*", "b=b-*", "--score", "el2n")
    assert not re.search(r'(?:src|href)="(?!data:)', text) and "<script" not in text
    pictures = re.findall(r'alt="([^"]*)" src="data:image/png;base64,([^"]+)"', text)
    assert [alt.split(":")[0].split(" ")[0] for alt, _ in pictures] == [
        "Rank", "Easiest", "Hardest", "Most", "AUC", "Permutation", "Every",
    ]  # fmt: skip
    for _, data in pictures:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"))
        assert shown.shape[0] > 200 and shown.std() > 5  # something is drawn


def test_the_figures_are_those_of_the_functions(folder):
    table = ScoreTable.load("t.parquet")
    text = page("--planted", "planted.npy", "--groups", "a=a-*", "b=b-*", "--score", "el2n")
    measured = reliability(table.values("el2n"))
    row = next(r for r in rows(text, "Reliability") if r[0] == "el2n")
    assert row[5] == f"{measured.r1:.3f}" and row[6].startswith(f"{measured.half:.3f} (4 + 4)")
    found = {r[0]: r for r in rows(text, "Planted label errors")}
    assert set(found) == {"el2n", "confidence_mean"}  # variability has no direction
    assert found["el2n"][2] == f"{auc(table.mean_rank('el2n'), PLANTED):.3f}"
    harder = rows(text, "Harder for a or for b")
    order = [(float(p), -int(apart.replace(",", ""))) for _, _, apart, p in harder]
    assert order == sorted(order) and len({p for p, _ in order}) < len(order)  # ties of p by ranks
    told = {r[0]: r[1] for r in harder}
    assert told["7"] == "b" and rows(text, "Most unstable, by el2n")[0][0] == "7"
    assert rows(text, "Hardest, by el2n")[0][0] == str(np.argmax(table.mean_rank("el2n")))
    assert rows(text, "Easiest, by el2n")[0][0] == str(np.argmin(table.mean_rank("el2n")))


def test_an_easy_score_is_read_the_other_way_round(folder):
    table = ScoreTable.load("t.parquet")
    text = page("--score", "confidence_mean", "--texts", "t.txt")
    hardest = rows(text, "Hardest, by confidence_mean")[0]
    assert int(hardest[0]) == np.argmin(table.mean_rank("confidence_mean"))
    assert hardest[-1] == f"text <{hardest[0]}>"  # escaped in the file
    by_b = page("--score", "confidence_mean", "--groups", "a=a-*", "b=b-*")
    assert {r[0]: r[1] for r in rows(by_b, "Harder for a or for b")}["7"] == "b"


def test_what_ails_several_scores_is_said_once(folder):
    one = {"el2n": np.arange(9.0), "loss_mean": np.arange(9.0)}
    ScoreTable.of_run("r", one).save("one.parquet")
    assert page("--score", "el2n", table="one.parquet").count("<p>el2n, loss_mean: one run</p>") == 1
    tied = ScoreTable.of_run("r", {**one, "forgetting": np.arange(9) // 4})
    tied.merge(ScoreTable.of_run("s", {**one, "forgetting": np.arange(9) // 4})).save("two.parquet")
    assert "<p>forgetting: many ties" in page("--score", "el2n", table="two.parquet")


def test_texts_of_any_file_and_of_string_ids(folder):
    ids = [f"doc-{i}" for i in range(9)]
    with open("t.jsonl", "w") as file:
        file.writelines(json.dumps({"id": i, "text": f"about {i}"}) + "\n" for i in ids)
    pq.write_table(pa.table({"id": ids, "text": [f"about {i}" for i in ids]}), "texts.parquet")
    ScoreTable.of_run("r", {"loss": np.arange(9.0)}, ids=ids).save("s.parquet")
    for file in ("t.jsonl", "texts.parquet"):
        text = page("--texts", file, table="s.parquet")
        assert rows(text, "Hardest, by loss")[0] == ["doc-8", "8", "about doc-8"]
    assert "One run is not a ranking" in text and "Most unstable" not in text
    with pytest.raises(UserError, match="no text of 1 examples, 'x'"):
        read_texts("t.jsonl", ["x"])
    for line in ('{"text": "no id"}', '["a", "list"]'):
        with open("bare.jsonl", "w") as file:
            file.write('{"id": "x", "text": "y"}\n' + line)
        with pytest.raises(UserError, match=r"bare\.jsonl, row 1: each row is .*no ids"):
            read_texts("bare.jsonl", ["x"])


def test_images_of_every_layout():
    grey = RNG.random((4, 8, 8))
    np.testing.assert_allclose(Images(grey.reshape(4, 64)).of(2), Images(grey).of(2))
    np.testing.assert_allclose(Images(grey[:, None]).of(1), Images(grey[..., None]).of(1))
    colour = RNG.integers(0, 256, (4, 3, 8, 9), dtype=np.uint8)
    np.testing.assert_array_equal(Images(colour).of(3), np.moveaxis(colour[3], 0, 2) / 255)
    assert Images(np.full((1, 4), 7.0)).of(0).shape == (2, 2)
    for wrong in (np.zeros((2, 5)), np.zeros((2, 2, 4, 5)), np.zeros(3), np.full((1, 2, 2), np.nan)):
        with pytest.raises(UserError):
            Images(wrong)


def test_a_gallery_shows_the_pixels_it_is_given():
    drawn = score_pictures.gallery([np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])], ["a", "b"])
    first, second = (cell.get_images()[0].get_array() for cell in drawn.axes)
    np.testing.assert_array_equal(first, [[0, 1]])
    np.testing.assert_array_equal(second, [[1, 0]])
    assert [cell.get_title() for cell in drawn.axes] == ["a", "b"]


def test_the_least_p_is_that_of_the_test():
    assert scores._least_p(4, 4, 70) == 2 / 70 and scores._least_p(3, 4, 35) == 1 / 35
    assert scores._least_p(8, 8, 10_000) == 1 / 10_001


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--score", "el2m"), "score 'el2m'"),
        (("--images", "none.npy"), "none.npy"),
        (("--texts", "short.txt"), "no text of"),
        (("--groups", "a=a-*"), "two groups"),
        (("--groups", "a=a-*", "b=*"), "none in common"),
        (("--out", "x.pdf"), ".html"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_written(folder, capsys, options, said):
    (folder / "short.txt").write_text("one line\n")
    assert main(["report", "t.parquet", *options]) == 2
    assert said in capsys.readouterr().err
    assert not list(folder.glob("*.html")) and not list(folder.glob("*.tmp*"))


def test_options_of_tables_do_not_go_with_runs(folder, capsys):
    assert main(["report", ".", "--images", "x.npy"]) == 2
    assert "--images belongs to the report of a table" in capsys.readouterr().err
