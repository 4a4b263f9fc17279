"""`dither report DIR|TABLE`: write the report of a run, a comparison, or a table of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dither import report
from dither.cli.law_tables import pairs
from dither.cli.terminal import File, Name, parse
from dither.errors import UserError, require


@dataclass(frozen=True)
class Arguments:
    """Write report.html and its pictures into the directory of a run or a comparison.

    For a table of scores one page is written beside it, with its reliability and the easiest, hardest and
    most unstable examples. Example: dither report scores.parquet --images x.npy --labels y.npy
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR|TABLE")]
    """what `dither train` or `dither compare` wrote to, or a .parquet table of `dither score`"""
    out: Annotated[str | None, tyro.conf.arg(metavar="FILE.html")] = None
    """of a table: the page (default: the name of the table)"""
    score: Name = None
    """the score that examples are shown by (default: the one that runs agree on most)"""
    images: File = None
    """.npy of images, row i for the id i"""
    texts: File = None
    """.txt (a line an id), .jsonl or .parquet (id, text), or the directory of the language model's run"""
    labels: File = None
    """.npy by id, or .parquet (id, label)"""
    names: tuple[str, ...] = ()
    """what the labels 0, 1, ... are called"""
    planted: File = None
    """1 where the label is wrong on purpose, as --labels: draws the noise curve"""
    groups: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=GLOB")] = ()
    """two groups of runs, as mlp=mlp-* cnn=cnn-*: draws the Manhattan plot of their differences"""


def main(arguments: Sequence[str]) -> int:
    """Run `dither report`. Raises UserError for what holds no run, comparison or table."""
    a = parse("report", Arguments, arguments)
    path = Path(a.directory)
    if path.suffix == ".parquet":
        print(f"report: {of_table(path, a)}")
        return 0
    of_tables = ("out", "score", "images", "texts", "labels", "names", "planted", "groups")
    if given := [name for name in of_tables if getattr(a, name)]:
        raise UserError(f"--{given[0]} belongs to the report of a table (.parquet), which {path} is not")
    require("torch", "train")
    print(f"report: {report.write(path)}")
    return 0


def of_table(path: Path, a: Arguments) -> Path:
    require("matplotlib", "plot")
    from dither.report import scores
    from dither.scores import ScoreTable

    out = path.with_suffix(".html") if a.out is None else Path(a.out)
    if out.suffix != ".html" or not out.parent.is_dir():
        raise UserError(f"--out {out}: a .html file in a folder that exists")
    about = scores.Material(a.images, a.texts, a.labels, a.planted, a.names, pairs(a.groups, "--groups"))
    return scores.write(ScoreTable.load(path), out, score=a.score, about=about)
