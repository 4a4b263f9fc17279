"""`dither compare CONFIG`: train the arms of one file, print the table, write the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from dither import report
from dither.cli.overrides import Overrides, given, split_method_options
from dither.cli.place import RUNS
from dither.cli.terminal import console, parse
from dither.report import results
from dither.train import compare


@dataclass(frozen=True)
class Arguments:
    """Train the arms of one TOML file from the same data and initial weights, and report them.

    Started again with the same file and options, it goes on where it stopped. A key given here by its dotted
    name (--train.steps 100) wins over the file, for every arm.
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """the TOML file: shared sections and an [[arm]] table for each arm"""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """the directory of the comparison; by default runs/ and the name of the file"""
    seeds: Annotated[tuple[int, ...] | None, tyro.conf.arg(metavar="INT ...")] = None
    """train every arm once for each seed; from two seeds on, differences get intervals"""
    keys: Annotated[Overrides, tyro.conf.arg(name="")] = field(default_factory=Overrides)  # type: ignore[valid-type]


def show(headings: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="left" if i in words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def main(arguments: Sequence[str]) -> int:
    """Run `dither compare`. Raises UserError for everything the user can cause."""
    rest, options = split_method_options(arguments)
    parsed = parse("compare", Arguments, rest)
    overrides = given(parsed.keys) | options
    if parsed.seeds is not None:
        overrides["seeds"] = list(parsed.seeds)
    out = Path(parsed.out) if parsed.out else RUNS / Path(parsed.config).stem
    compare(parsed.config, out, overrides)
    record, terminal = results.load(out), console()
    terminal.print("\nvalidation loss in nats per token, and the cost of training:")
    columns = [*results.losses(record), *results.SPEEDS]
    terminal.print(show(*results.table(record, columns), words=(0, 1)))
    if record["differences"]:
        terminal.print("\npaired differences of the loss:")
        terminal.print(show(*results.differences(record), words=(0, 1, 3)))
    if record["comparable"] is False:
        terminal.print("\nnot comparable with the published table: the corpus differs")
    terminal.print(f"corpus: {record['corpus']}")
    print(f"report: {report.write(out)}")
    return 0
