"""Documents: every kind of file, what is refused, and that the hash sees content and nothing else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from dither.errors import UserError
from dither.train import corpus
from dither.train.config import DataConfig


def texts(*sources: Path | str, **settings) -> list[str | None]:
    data = DataConfig(**settings)
    return [document.text for document in corpus.read(tuple(map(str, sources)), data)]


def test_every_kind_of_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwith a mark \xc3\xa9")
    (tmp_path / "b.py").write_bytes("# coding: latin-1\nx = 'é'".encode("latin-1"))
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n\n{"text": ""}\n{"text": "two", "more": 1}\n')
    with gzip.open(tmp_path / "d.txt.gz", "wt") as file:
        file.write("packed")
    table = pyarrow.table({"body": ["row", None, "other"], "n": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    assert texts(tmp_path / "a.txt") == ["with a mark é"]
    assert texts(tmp_path / "b.py") == ["# coding: latin-1\nx = 'é'"]
    assert texts(tmp_path / "c.jsonl") == ["one", "two"]
    assert texts(tmp_path / "d.txt.gz") == ["packed"]
    assert texts(tmp_path / "e.parquet", text_key="body") == ["row", "other"]


def test_a_folder_gives_its_text_files_in_order_and_globs_choose(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.py", "sub/c.rs", "picture.png", ".hidden.txt", "empty.py"):
        (tmp_path / name).write_text("" if name == "empty.py" else name)
    assert texts(tmp_path) == ["a.py", "b.txt", "sub/c.rs"]
    assert texts(tmp_path, include=("*.png",)) == ["picture.png"]
    assert texts(tmp_path, exclude=("sub/*", "a.*")) == ["b.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty; remove it"),
        ("binary.txt", b"abc\0def", r"looks binary \(a zero byte at offset 3\)"),
        ("latin.txt", b"caf\xe9 au lait", r"byte 0xe9 at offset 3.*iconv"),
        ("latin.py", b"x = '\xe9'\n", "byte 0xe9"),
        ("a.jsonl", b'{"text": "x"}\nnot json\n', "line 2 is no JSON object"),
        (
            "b.jsonl",
            b'{"body": "x"}\n',
            r"line 1 has no key 'text'; set data.text_key \(the line has 'body'\)",
        ),
        ("c.jsonl", b'{"text": 3}\n', "is no string but int"),
        (
            "half.jsonl",
            b'{"text": "a\\ud800"}\n',
            r"line 1: 'text' is not Unicode text \(surrogates.* character 1",
        ),
        ("upper.JSONL", b"not json", "line 1 is no JSON object"),
        ("codec.py", b"# coding: rot13\nabc\n", "declares 'rot13', which is no text encoding"),
        ("d.txt.gz", b"not gzip at all", "damaged or no gzip"),
        ("e.txt.gz", gzip.compress(b"x" * 1000)[:20], "damaged or no gzip"),
        ("f.parquet", b"PAR1 no table", "no readable Parquet"),
        ("g.npy", b"\x93NUMPY broken", "no readable .npy"),
        ("h.bin", b"abc", "not a whole number of uint16"),
    ],
)
def test_an_unusable_file_is_named_with_the_way_out(tmp_path: Path, name, content, message) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        texts(path)
    assert name in str(caught.value)


def test_a_parquet_file_with_damaged_pages_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"{i} " * 400 for i in range(50)]}), path)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.parquet is damaged .*write it again"):
        texts(path)


def test_missing_files_columns_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.txt: no such file"):
        texts(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match=r"no text file in this folder"):
        texts(tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column 'text'.*'body'"):
        texts(tmp_path / "a.parquet")


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_token_files_are_divided_at_the_end_mark(tmp_path: Path, dtype: str) -> None:
    ids = np.array([1, 2, 9, 3, 9, 9, 4], dtype=dtype)
    np.save(tmp_path / "a.npy", ids)
    ids.tofile(tmp_path / "b.bin")
    data = DataConfig(token_dtype=dtype)
    for name in ("a.npy", "b.bin"):
        documents = list(corpus.read((str(tmp_path / name),), data, end_of_document=9))
        assert [d.tokens.tolist() for d in documents if d.tokens is not None] == [[1, 2], [3], [4]]


def test_the_hash_sees_content_but_neither_names_nor_places_nor_copies(tmp_path: Path) -> None:
    for folder, names in (("one", ("a.txt", "b.txt", "c.txt")), ("two", ("z.txt", "y.txt", "x.txt"))):
        (tmp_path / folder).mkdir()
        for name, text in zip(names, ("first", "second", "first"), strict=True):
            (tmp_path / folder / name).write_text(text)

    def survey(folder: str) -> corpus.Survey:
        return corpus.survey(corpus.read((str(tmp_path / folder),), DataConfig()), set())

    one, two = survey("one"), survey("two")
    assert one.hash == two.hash and (one.documents, one.duplicates) == (2, 1)
    (tmp_path / "two" / "y.txt").write_text("second!")
    assert survey("two").hash != one.hash


def test_the_standard_library_comes_without_tests_and_grouped_by_package() -> None:
    documents = list(corpus.read(("stdlib",), DataConfig()))
    groups = {document.group for document in documents}
    names = [Path(document.name).parts for document in documents]
    assert {"json", "asyncio", "argparse"} <= groups
    assert not groups & {"test", "encodings", "site-packages"}
    assert not any(
        {"test", "tests", "encodings", "site-packages", "__pycache__"} & set(parts) for parts in names
    )
    assert sum(group == "json" for group in (d.group for d in documents)) > 3
    assert json.__name__ in groups
