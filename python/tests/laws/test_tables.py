"""The same runs from every kind of table, by a mapping of columns, give the same fit."""

import csv
import json

import numpy as np
import pytest

from dither import laws
from dither.cli.main import main
from dither.errors import UserError
from dither.laws import table

NAMES = {"N": "params", "D": "tokens", "loss": "val"}
TRUTH = dict(A=450.0, B=2000.0, E=1.8, alpha=0.34, beta=0.36)


@pytest.fixture(scope="module")
def columns() -> dict[str, list]:
    """Whole tokens, an empty cell in a column that no law reads, and names that are not the law's."""
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(2e7, 5e9, 5), np.geomspace(5e8, 1e11, 5)))
    data = laws.get("chinchilla").simulate(TRUTH, N=n, D=np.round(d), noise=0.003, seed=1)
    note = ["a", None] + ["b"] * 23
    return {
        "note": note,
        "params": data["N"].tolist(),
        "tokens": [int(v) for v in data["D"]],
        "val": data["loss"].tolist(),
    }


@pytest.fixture(scope="module")
def expected(columns) -> dict[str, float]:
    return laws.fit("chinchilla", {key: columns[name] for key, name in NAMES.items()}).params


@pytest.mark.parametrize("kind", ["pandas", "pandas nullable", "polars", "arrow"])
def test_data_frames(kind, columns, expected):
    module = pytest.importorskip("pyarrow" if kind == "arrow" else kind.split()[0])
    frame = {
        "pandas": lambda: module.DataFrame(columns),
        "pandas nullable": lambda: module.DataFrame(columns).convert_dtypes(),
        "polars": lambda: module.DataFrame(columns),
        "arrow": lambda: module.table(columns),
    }[kind]()
    fit = laws.fit("chinchilla", frame, N="params", D="tokens", loss="val")
    assert fit.params == pytest.approx(expected, rel=1e-9)
    with pytest.raises(UserError, match="no column 'parms' \\(did you mean 'params'\\?\\)"):
        laws.fit("chinchilla", frame, N="parms", D="tokens", loss="val")
    with pytest.raises(UserError, match="'note' is not a column of numbers"):
        laws.fit("chinchilla", frame, N="note", D="tokens", loss="val")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_from_python_and_the_command_line(kind, columns, expected, tmp_path, capsys):
    path = tmp_path / f"runs.{kind}"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    for place in (path, str(path)):
        fit = laws.fit("chinchilla", place, N="params", D="tokens", loss="val")
        assert fit.params == pytest.approx(expected, rel=1e-9)
    card = tmp_path / "card.json"
    named = ["--column", "N=params", "--column", "D=tokens", "--loss", "val", "--bootstrap", "0"]
    assert main(["fit", "chinchilla", str(path), *named, "--out", str(card)]) == 0
    assert json.loads(card.read_text())["params"] == pytest.approx(expected, rel=1e-9)
    assert "over 25 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "N,D,loss\n1,2,3\n1,2,3,4\n", "a.csv, line 3: 4 cells, but the header has 3"),
        ("a.csv", "N,D,N,loss\n1,2,3,4\n", "the header names N more than once"),
        ("a.csv", "N;D;loss\n1;2;3\n", "separated by ';'; the columns of a .csv are separated by commas"),
        ("a.csv", "N\tD\tloss\n1\t2\t3\n", "separated by a tab"),
        ("a.csv", "N,D,loss\n", r"a header \(N, D, loss\) and no rows"),
        ("a.csv", "", "is empty"),
        ("a.jsonl", '{"N": 1}\n\n[1, 2]\n', "line 3: a row is an object"),
        ("a.jsonl", '{"N": 1}\nx\n', "line 2: Expecting value"),
        ("a.jsonl", "\n", "is empty"),
        ("a.parquet", "hi", "a.parquet: "),
        ("a.txt", "N", "a table is a .csv, .jsonl or .parquet file"),
    ],
)
def test_damaged_files_are_named(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        table.read(path)
    assert str(caught.value).startswith(str(path)) and f"{path}: {path}" not in str(caught.value)


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_marks_and_blanks_of_spreadsheets_are_no_part_of_names(mark, tmp_path):
    (tmp_path / "a.csv").write_text(mark + "N, D, loss\n1e8, 1e9, 3\n", encoding="utf-8")
    assert table.read(tmp_path / "a.csv") == {"N": ["1e8"], "D": ["1e9"], "loss": ["3"]}
    (tmp_path / "a.jsonl").write_text(mark + '{"N": 1}\n', encoding="utf-8")
    assert table.read(tmp_path / "a.jsonl") == {"N": [1]}


def test_rows_that_no_law_takes_are_named(columns):
    """Beyond 1e100 the products of a table overflow: a traceback of linear algebra, once."""
    for name, bad in (("params", 1e290), ("tokens", -1.0), ("val", 1e300), ("val", None), ("tokens", np.inf)):
        cells = list(columns[name])
        cells[3] = cells[7] = bad
        with pytest.raises(UserError, match=r"rows 4, 8"):
            laws.fit("chinchilla", {**columns, name: cells}, N="params", D="tokens", loss="val")
