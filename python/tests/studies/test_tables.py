"""How a study finds published tables, and what it says where they are not."""

import math
import os

import pytest

from dither.errors import UserError
from dither.studies import tables

NAME = "set/runs.csv"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(tables.VARIABLE, str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / NAME).write_text("name,N,loss\na,10,3.5\nb,20,\na,1e3,2\n")
    return tmp_path


def test_rows_are_chosen_by_text_and_read_as_numbers(folder):
    assert tables.missing(NAME) == ""
    frame = tables.read(NAME)
    assert tables.numbers(tables.where(frame, name="a"), "N").tolist() == [10, 1000]
    assert math.isnan(tables.numbers(frame, "loss")[1])
    assert tables.where(frame, name="a", N="1e3")["loss"].tolist() == ["2"]
    assert len(tables.where(frame, name="c")["N"]) == 0
    assert tables.rows(frame, frame["N"] != "20")["name"].tolist() == ["a", "a"]
    with pytest.raises(UserError, match="'loss'"):
        tables.numbers(frame, "los")
    with pytest.raises(UserError, match="not a column of numbers"):
        tables.numbers(frame, "name")


def test_what_is_missing_is_said_with_what_to_set(folder, monkeypatch):
    assert "has no set/other.csv" in tables.missing(NAME, "set/other.csv")
    with pytest.raises(UserError, match=r"set/other\.csv"):
        tables.read("set/other.csv")
    for value in ("", None):
        monkeypatch.setenv(tables.VARIABLE, value) if value is not None else monkeypatch.delenv(
            tables.VARIABLE
        )
        assert "set DITHER_LAW_TABLES to a folder that holds set/runs.csv" in tables.missing(NAME)
        with pytest.raises(UserError, match="DITHER_LAW_TABLES"):
            tables.digest(NAME)
    monkeypatch.setenv(tables.VARIABLE, str(folder / "nowhere"))
    assert "nowhere has no set/runs.csv" in tables.missing(NAME)


def test_the_digest_changes_with_the_table(folder):
    before = tables.digest(NAME)
    (folder / NAME).write_text("name,N,loss\na,10,3.6\n")
    assert tables.digest(NAME) != before


def test_a_table_that_changed_is_read_anew_and_columns_cannot_be_written_to(folder):
    assert tables.read(NAME)["N"].tolist() == ["10", "20", "1e3"]
    os.utime(folder / NAME, ns=(1, 1))
    (folder / NAME).write_text("name,N,loss\na,11,3.6\n")
    frame = tables.read(NAME)
    assert frame["N"].tolist() == ["11"]
    with pytest.raises(ValueError, match="read-only"):
        frame["N"][0] = "12"
