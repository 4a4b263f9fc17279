"""The page of a comparison says what comparison.json holds, and how to repeat it."""

import html
import json
import re
import shlex
from pathlib import Path
from statistics import mean, stdev

import pytest
import tyro

from dither import report
from dither.cli.overrides import Overrides, given
from dither.errors import UserError
from dither.report import results
from dither.report.comparison import overrides, settings
from dither.train.config import resolve
from dither.train.plan import load_plan
from dither.train.toml import to_dict


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    part = page[page.index(f">{heading}</h2>") :]
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    return [
        [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in body.split("<tr>")[1:]
    ]


def test_every_arm_has_its_mean_and_deviation_over_the_seeds(compared: Path):
    table = {row[0]: row for row in rows((compared / "report.html").read_text(), "Validation loss")}
    record = results.load(compared)
    for name, records in results.arms(record).items():
        losses = [r["nearest"]["int4_g32"]["loss"] for r in records]
        assert len(losses) == 2
        assert f"{mean(losses):.4f} ± {stdev(losses):.4f}" in table[name]
    assert table["ptq"][1] == "PTQ of fp32" and table["lotion"][1] == "LOTION"


def test_differences_are_those_of_the_record(compared: Path):
    table = rows((compared / "report.html").read_text(), "Paired differences")
    found = results.load(compared)["differences"]
    assert len(table) == len(found) == 3
    for row, difference in zip(table, found, strict=True):
        assert row[2] == f"{difference['interval']['mean']:+.4f}"
        assert row[4] == "2"


def test_another_corpus_than_the_reference_is_a_warning(compared: Path):
    assert "Not comparable with the published table" in (compared / "report.html").read_text()


def test_the_corpus_hash_and_the_versions_are_on_the_page(compared: Path):
    facts = dict(rows((compared / "report.html").read_text(), "What it stood on"))
    assert facts["corpus (SHA-256)"] == results.load(compared)["corpus"]
    assert "torch" in facts["versions"]


def test_the_printed_command_repeats_the_plan(compared: Path):
    """Parsed as the command line parses it, the options turn config.toml into plan.json."""
    words = shlex.split(" ".join(overrides(compared)))
    seeds = words.index("--seeds")
    assert words[seeds + 1 :] == ["3", "4"]
    options = given(tyro.cli(Overrides, args=words[:seeds], use_underscores=True))
    recorded = json.loads((compared / "plan.json").read_text())
    plan = load_plan(compared / "config.toml", {**options, "seeds": [3, 4]})
    arms = [to_dict(resolve(arm.config, recorded["threads"])) for arm in plan.arms]
    assert json.loads(json.dumps(arms)) == [arm["config"] for arm in recorded["arms"]]


def test_what_differs_between_the_arms_is_listed_and_nothing_else(compared: Path):
    headings, found = settings(compared)
    assert headings == ["key", "fp32", "mxfp4", "ptq", "lotion"]
    assert {row[0] for row in found} == {"recipe.name", "method.name", "method.quantizer"}


def test_every_picture_on_the_page_lies_beside_it_too(compared: Path):
    pictures = {path.name for path in compared.glob("*.png")}
    expected = {"final_loss.png", "differences.png", "train_loss.png", "train_gap.png", "slow_down.png"}
    assert expected | {"validation_full_precision.png", "validation_int4_g32_nearest.png"} <= pictures
    assert (compared / "report.html").read_text().count("<img ") == len(pictures)


def test_the_page_is_the_same_when_it_is_written_again(compared: Path):
    before = (compared / "report.html").read_bytes()
    assert report.write(compared).read_bytes() == before


def test_arms_with_other_batches_are_not_said_to_have_seen_the_same(copy: Path):
    assert "saw the same data in the same order" in report.write(copy).read_text()
    plan = json.loads((copy / "plan.json").read_text())
    plan["arms"][1]["config"]["train"]["batch"] *= 2
    (copy / "plan.json").write_text(json.dumps(plan))
    page = report.write(copy).read_text()
    assert "saw the same data" not in page and "The arms differ in steps or batch" in page


def test_an_arm_that_diverged_says_so(copy: Path):
    record = json.loads((copy / "comparison.json").read_text())
    for arm in record["arms"]:
        if arm["name"] == "lotion":
            arm.update(
                status="diverged at step 3",
                full=None,
                nearest={},
                randomized={},
                tokens_per_s=None,
                slow_down=None,
            )
    record["differences"] = []
    (copy / "comparison.json").write_text(json.dumps(record))
    page = report.write(copy).read_text()
    assert "lotion (seed 3) diverged at step 3" in page
    assert ["lotion", "diverged at step 3"] == rows(page, "Validation loss")[3][:2]


def test_a_comparison_that_is_not_finished_says_how_to_go_on(copy: Path):
    (copy / "comparison.json").unlink()
    with pytest.raises(UserError, match="goes on where it stopped"):
        report.write(copy)


def test_markdown_has_the_same_cells(compared: Path):
    record = results.load(compared)
    headings, cells = results.table(record, results.losses(record))
    lines = results.markdown(headings, cells).splitlines()
    assert lines[0].startswith("| arm | what | full precision |")
    assert lines[1].startswith("| --- | --- | ---: |")
    assert [line.strip("| ").split(" | ") for line in lines[2:]] == cells
