"""A working directory with text and two configurations that train in about a second."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test: corpus/, run.toml, arms.toml, and a token cache of its own."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i in range(12):
        text = "".join(f"line {n} of file {i}: {n * i % 7} apples\n" for n in range(60))
        (corpus / f"{i}.txt").write_text(text)
    for name in ("run.toml", "arms.toml"):
        shutil.copy(Path(__file__).parent / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DITHER_CACHE", str(tmp_path / "cache"))
    return tmp_path
