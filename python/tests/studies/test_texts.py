"""Text corpora of studies: made packages in a folder, and the installed ones where they are."""

import json
import struct
import zlib

import pytest

from dither.errors import UserError
from dither.studies import data, texts
from dither.train import load_grid
from dither.train.config import STDLIB


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A WordNet of three entries and a Bible of two books, in their own formats."""
    wordnet, sword = tmp_path / "wordnet", tmp_path / "sword"
    wordnet.mkdir()
    sword.mkdir()
    entry = '00001740 03 n 02 living_thing 0 being 1 001 @ 00001930 n 0000 | a thing that lives; "it is"  \n'
    (wordnet / "data.noun").write_text("  1 The licence.\n" + entry + entry)
    (wordnet / "data.verb").write_text("00001740 29 v 01 breathe 0 000 | draw air  \n")
    for part in ("adj", "adv"):
        (wordnet / f"data.{part}").write_text("")
    book = (
        '<div type="book"/> <title>A Book</title> <chapter n="1" osisID="A.1" sID="A.1"/><w lemma="x">In</w> '
        '<w lemma="y">the</w> beginning<note n="a">or, start</note>. <chapter eID="A.1" n="1"/>'
        '<chapter n="2" osisID="A.2" sID="A.2"/><title>Two</title>It\n was &amp; '
        'so.<chapter eID="A.2" n="2"/>'
    )
    blocks, index = b"", b""
    for text in ("", book, book.replace("beginning", "end")):
        block = zlib.compress(text.encode())
        index += struct.pack("<III", len(blocks), len(block) if text else 0, len(text))
        blocks += block
    for part in ("ot", "nt"):
        (sword / f"{part}.bzs").write_bytes(index)
        (sword / f"{part}.bzz").write_bytes(blocks)
    monkeypatch.setattr(data, "WORDNET", wordnet)
    monkeypatch.setattr(texts, "SWORD", sword)
    return tmp_path


def test_glosses_and_chapters_become_plain_documents_without_repeats(packages):
    assert texts.reference() == ['living thing, being: a thing that lives; "it is"\nbreathe: draw air\n']
    assert texts.prose() == ["In the beginning.\n", "Two It was & so.\n", "In the end.\n"]


def test_a_corpus_is_written_once_as_documents(packages):
    path = texts.source("prose", packages / "out")
    lines = [json.loads(line)["text"] for line in open(path, encoding="utf-8")]
    assert lines == texts.prose()
    texts.SWORD.joinpath("ot.bzz").unlink()
    assert texts.source("prose", packages / "out") == path
    assert texts.source("code", packages / "out") == STDLIB


def test_missing_packages_and_unknown_corpora_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "SWORD", tmp_path)
    monkeypatch.setattr(data, "WORDNET", tmp_path)
    with pytest.raises(UserError, match="sword-text-web"):
        texts.source("prose", tmp_path)
    with pytest.raises(UserError, match="wordnet-base"):
        texts.source("reference", tmp_path)
    with pytest.raises(UserError, match="code, reference, prose"):
        texts.source("poems", tmp_path)


def test_the_installed_texts_hold_megabytes_of_plain_text():
    if not (texts.SWORD / "ot.bzz").is_file() or not (data.WORDNET / "data.noun").is_file():
        pytest.skip("Debian's sword-text-web and wordnet-base are not both installed")
    chapters, entries = texts.prose(), texts.reference()
    assert len(chapters) > 1000 and sum(map(len, chapters)) > 4e6 and len(entries) > 2000
    assert not any(mark in text for text in chapters for mark in ("<", "lemma", "&amp;"))


def test_runs_of_a_study_are_those_of_a_sweep_and_are_kept(tmp_path):
    from dither.studies.sweeps import trained
    from dither.train.sweep import status

    text = tmp_path / "text.jsonl"
    text.write_text(
        "".join(json.dumps({"text": f"line {i} of a small text\n" * 20}) + "\n" for i in range(40))
    )
    shared = {
        "model": {"layers": 1, "width": 16, "heads": 1, "context": 32},
        "data": {"sources": [str(text)]}, "train": {"steps": 2, "batch": 2, "warmup": 1},
        "eval": {"tokens": 256, "casts": ["int4_g32"], "draws": 0},
    }  # fmt: skip
    runs = [{"train.seed": 1}, {"train.seed": 0, "method.name": "qat", "method.quantizer": "int4_g32"}]
    said: list[str] = []
    rows = trained(tmp_path / "study", "small", shared, runs, said.append)
    assert [row["seed"] for row in rows] == [1, 0] and rows[0]["D"] == 2 * 2 * 32
    assert sum(text.startswith("small") for text in said) == 2
    entries, _ = load_grid(tmp_path / "study" / "small.toml")
    assert [state.state for state in status(entries, tmp_path / "study" / "runs")] == ["done", "done"]
    said.clear()
    casts = trained(tmp_path / "study", "small", shared, runs, said.append, view="cast")
    assert not said and casts[0]["loss"] != rows[0]["loss"]
    with pytest.raises(UserError, match="1 of the runs are the same"):
        trained(tmp_path / "study", "small", shared, [runs[0], runs[0]])
