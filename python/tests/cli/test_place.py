"""Where a run goes when the user does not say."""

from pathlib import Path

import pytest

from dither.cli.place import choose
from dither.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def take(place: str) -> None:
    Path(place).mkdir(parents=True)
    Path(place, "config.toml").touch()


def test_out_wins():
    assert choose("a/b.toml", "there", False) == Path("there")


def test_a_new_run_never_takes_a_directory_that_exists():
    assert choose("a/small.toml", None, False) == Path("runs/small")
    take("runs/small")
    assert choose("a/small.toml", None, False) == Path("runs/small-2")
    take("runs/small-2")
    assert choose("a/small.toml", None, False) == Path("runs/small-3")


def test_resume_takes_the_last_one():
    take("runs/small")
    take("runs/small-2")
    assert choose("a/small.toml", None, True) == Path("runs/small-2")


def test_nothing_to_resume_is_an_error():
    with pytest.raises(UserError, match="--out DIR"):
        choose("a/small.toml", None, True)


def test_a_directory_where_nothing_began_is_free():
    Path("runs/small").mkdir(parents=True)
    Path("runs/small/.lock").touch()
    assert choose("small.toml", None, False) == Path("runs/small")
