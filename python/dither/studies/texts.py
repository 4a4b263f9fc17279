"""Text corpora of studies: code, reference and prose, from what lies on the machine.

code       the running Python's standard library
reference  words and glosses of WordNet (Debian's wordnet-base)
prose      the World English Bible (Debian's sword-text-web, public domain)

Nothing is downloaded. `DITHER_WORDNET` and `DITHER_SWORD` name other folders.
"""

from __future__ import annotations

import html
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from dither.errors import UserError
from dither.files import write_text
from dither.studies import data
from dither.train.config import STDLIB

SWORD = Path(os.environ.get("DITHER_SWORD", "/usr/share/sword/modules/texts/ztext/engWEB2015eb"))
CORPORA = ("code", "reference", "prose")
GLOSSES = 50
"""Glosses in a document: neighbours in WordNet's files speak of related things, and a split must not part
them."""


def source(corpus: str, folder: Path) -> str:
    """What `data.sources` of a run takes: "stdlib", or a file of documents, written into `folder` once.

    UserError where the package of the corpus is not installed, and for a name that is none of CORPORA.
    """
    if corpus == "code":
        return STDLIB
    if corpus not in CORPORA:
        raise UserError(f"there is no corpus {corpus!r}; there are {', '.join(CORPORA)}")
    path = folder / f"{corpus}.jsonl"
    if not path.is_file():
        documents = reference() if corpus == "reference" else prose()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps({"text": text}) + "\n" for text in documents))
    return str(path.absolute())


def reference() -> list[str]:
    """Documents of GLOSSES lines `word, word: gloss`, in WordNet's order, without repeated glosses."""
    lines = list(dict.fromkeys(_entries()))
    return ["\n".join(lines[i : i + GLOSSES]) + "\n" for i in range(0, len(lines), GLOSSES)]


def _entries() -> Iterator[str]:
    for part in ("noun", "verb", "adj", "adv"):
        for line in data.wordnet(part):
            fields, gloss = line.split("|", 1)
            words = fields.split(" ")
            names = [words[4 + 2 * i].replace("_", " ") for i in range(int(words[3], 16))]
            yield f"{', '.join(names)}: {gloss.strip()}"


def prose() -> list[str]:
    """The chapters of the World English Bible as plain text, without headings' marks and footnotes."""
    if not (SWORD / "ot.bzz").is_file():
        raise UserError(
            f"there is no World English Bible in {SWORD}; install Debian's sword-text-web or set DITHER_SWORD"
        )
    chapters = []
    for part in ("ot", "nt"):
        for book in _books(part):
            text = re.sub(r"<note\b.*?</note>", "", book, flags=re.DOTALL)
            for chapter in re.split(r"<chapter\b[^>]*\bsID=[^>]*>", text)[1:]:
                plain = re.sub(r"<[^>]*>", " ", re.sub(r"</?(w|hi|q|transChange)\b[^>]*>", "", chapter))
                chapters.append(re.sub(r"\s+", " ", html.unescape(plain)).strip())
    return [chapter + "\n" for chapter in dict.fromkeys(chapters) if chapter]


def _books(part: str) -> Iterator[str]:
    """SWORD's zText: .bzs holds (offset, size, size of the text) of every zlib block of .bzz, a block a
    book."""
    index, blocks = (SWORD / f"{part}.bzs").read_bytes(), (SWORD / f"{part}.bzz").read_bytes()
    for offset, size, _ in struct.iter_unpack("<III", index):
        if size:
            yield zlib.decompress(blocks[offset : offset + size]).decode()
