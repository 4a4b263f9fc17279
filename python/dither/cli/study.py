"""`dither study NAME...`: run studies of papers small, and print claim against measurement."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from dither import studies
from dither.cli.formats import plain_table
from dither.cli.place import RUNS
from dither.cli.terminal import console, parse
from dither.errors import MissingExtraError, UserError
from dither.report.study import measured


@dataclass(frozen=True)
class Arguments:
    """Run studies: claims of papers and our own questions, on small models and real data.

    Each writes study.json, study.md, study.html and pictures into DIR/NAME (DIR/NAME-quick). Given again, it
    goes on from its finished parts. A verdict, whatever it is, exits with 0.
    Example: dither study difficulty --quick
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ()
    """which studies"""
    all: bool = False
    """every study"""
    list: bool = False
    """name the studies and end"""
    quick: bool = False
    """the small version, a minute or less each"""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")] = str(RUNS / "studies")
    """the directory of the studies"""


def title(name: str) -> str:
    """What a study is about, or what must be installed to know."""
    try:
        return studies.get(name).title
    except MissingExtraError as error:
        return f"({error})"


def main(arguments: Sequence[str]) -> int:
    """Run `dither study`. Raises UserError for names that are no studies, or none."""
    a = parse("study", Arguments, arguments)
    if a.list:
        for name in studies.names():
            print(f"{name:<22} {title(name)}")
        return 0
    if bool(a.names) == a.all:
        raise UserError("name studies or give --all; `dither study --list` names them")
    chosen = studies.names() if a.all else tuple(dict.fromkeys(a.names))
    for name in chosen:
        studies.get(name)  # a wrong name is an error before an hour of another study
    for name in chosen:
        found = studies.run(
            name, a.out, quick=a.quick, say=lambda text, name=name: print(f"{name}: {text}", file=sys.stderr)
        )
        show(found)
        print(f"wrote {a.out}/{name}{'-quick' if a.quick else ''}/study.html\n")
    return 0


def show(record: dict) -> None:
    """The claims with what was measured, and the verdicts."""
    print(f"{record['title']}\ndata: {record['data']}; {record['seeds']} seeds")
    table = plain_table("claim", "expected", "measured, 95 %", "verdict", left=("claim", "verdict"))
    for claim in record["claims"]:
        table.add_row(claim["claim"], claim["expected"], measured(claim["measured"]), claim["verdict"])
    console().print(table)
    for claim in record["claims"]:
        if claim["verdict"] in ("underpowered", "not testable here"):
            print(f"{claim['claim']}: {claim['why']}")
