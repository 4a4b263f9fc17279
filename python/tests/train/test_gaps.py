"""Inputs that once did nothing, or nothing for ever, are refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_helpers import Silent

from dither.errors import UserError
from dither.train import corpus, load, train
from dither.train.config import DataConfig
from dither.train.tokens import open_tokens


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"batch": 10**13}}, r"would hold 320,000,000,000,000 tokens"),
        ({"data": {"vocab": 300}}, r"has its own vocabulary"),
        ({"data": {"end_of_document": "</s>"}}, r"ends documents with its id 256"),
    ],
)
def test_keys_that_cannot_be_meant(tiny, sections, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tiny(**sections))


@pytest.mark.parametrize("change", ["another text", "one more document", "one document less"])
def test_a_source_that_changes_between_the_two_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.txt").write_text(f"document {i}")
    survey = corpus.survey

    def survey_then_change(documents, seen):
        found = survey(documents, seen)
        if change == "one document less":
            (folder / "5.txt").unlink()
        else:
            (folder / ("5.txt" if change == "another text" else "6.txt")).write_text("the rest of it")
        return found

    monkeypatch.setattr(corpus, "survey", survey_then_change)
    with pytest.raises(UserError, match="changed while it was read"):
        open_tokens(DataConfig(sources=(str(folder),), validation=0.3))
    monkeypatch.setattr(corpus, "survey", survey)
    assert len(open_tokens(DataConfig(sources=(str(folder),), validation=0.3)).train)


def test_resume_in_a_directory_that_is_not_there(tiny, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run to resume"):
        train(tiny(), tmp_path / "new", resume=True, progress=Silent())
    assert not (tmp_path / "new").exists()
