"""`dither compare` and `dither report`: real arms, the printed table, the page."""

import json
from pathlib import Path

from dither.cli.main import main


def test_a_comparison_prints_its_table_and_writes_its_report(folder, capsys):
    assert main(["compare", "arms.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "report: runs/arms/report.html"
    record = json.loads(Path("runs/arms/comparison.json").read_text())
    for arm in record["arms"]:
        row = next(
            line.split() for line in lines if line.split()[:1] == [arm["name"]] and len(line.split()) > 6
        )
        assert f"{arm['full']['loss']:.4f}" in row and f"{arm['nearest']['int4_g32']['loss']:.4f}" in row
    assert any(line.startswith("corpus: " + record["corpus"]) for line in lines)

    page = Path("runs/arms/report.html").read_bytes()
    Path("runs/arms/report.html").unlink()
    assert main(["report", "runs/arms"]) == 0
    assert Path("runs/arms/report.html").read_bytes() == page

    before = Path("runs/arms/comparison.json").read_text()
    assert main(["compare", "arms.toml"]) == 0, "started again, it finds itself finished"
    assert Path("runs/arms/comparison.json").read_text() == before

    assert main(["compare", "arms.toml", "--train.steps", "3"]) == 2, "another plan is refused"
    assert "another plan" in capsys.readouterr().err
    assert Path("runs/arms/comparison.json").read_text() == before


def test_seeds_give_intervals(folder, capsys):
    options = ["--seeds", "0", "1", "--train.steps", "2", "--out", "two"]
    assert main(["compare", "arms.toml", *options]) == 0
    text = capsys.readouterr().out
    assert " ± " in text and "(95%)" in text
    assert Path("two/differences.png").stat().st_size > 1000
