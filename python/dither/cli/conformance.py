"""`dither conformance MODULE`: hold someone's quantizer against the vectors, or write the vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape

from dither import conformance
from dither.cli.formats import plain_table
from dither.cli.terminal import console, parse
from dither.conformance.case import Verdict
from dither.conformance.findings import Report, summary
from dither.errors import UserError
from dither.files import check_place, replacing


@dataclass(frozen=True)
class Arguments:
    """Test a quantizer against the standards (exit code 1: it violates one), or write the test vectors."""

    module: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE")] = None
    """an importable module or a .py file with cast(x, format) or blocks(x, preset); or one of dither's own
    adapters: gfloat_casts, ml_dtypes_casts, torch_float8, torchao_mx"""
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """write the report to this file too"""
    write_vectors: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """write the vectors as JSON lines into this folder"""


def show(out: Console, report: Report) -> None:
    """The table of what was asked, then every difference with its clause and an example."""
    out.print(f"[bold]{escape(report.library)}[/bold], asked through {escape(report.adapter)}")
    table = plain_table(
        "what", "rounding", "compared", "equal", "choices", "violations", left=("what", "rounding")
    )
    for row in report.rows:
        counts = [sum(f.count for f in row.of(verdict)) for verdict in ("choice", "violation")]
        table.add_row(row.what, row.rounding, *(str(n) for n in (row.compared, row.equal, *counts)))
    out.print(table)
    titles: dict[Verdict, str] = {"violation": "Violations", "choice": "Documented choices"}
    for verdict, title in titles.items():
        found = summary(report, verdict)
        if found:
            out.print(f"\n[bold]{title}[/bold]")
        for (what, _), (roundings, f) in found.items():
            out.print(escape(f"{what}, {', '.join(roundings)}: {f.name} ({f.count} values)"))
            out.print(escape(f"    {f.clause}"))
            if f.example:
                out.print(escape(f"    {f.example}"))
    if report.not_offered:
        out.print(f"\nnot offered by the adapter: {', '.join(report.not_offered)}")
    out.print("\nno violations" if report.conforming else "\nthere are violations")


def main(arguments: Sequence[str]) -> int:
    """Run `dither conformance`. Raises UserError for a module that is no adapter."""
    given = parse("conformance", Arguments, arguments)
    if given.module is None and given.write_vectors is None:
        raise UserError("name a MODULE to test, or --write_vectors FOLDER (or both)")
    if given.json is not None:
        check_place(given.json)
    out = console()
    if given.write_vectors is not None:
        manifest = conformance.write_vectors(given.write_vectors)
        for name, info in manifest["files"].items():
            out.print(f"{given.write_vectors / name}: {info['lines']} lines, {info['bytes']} bytes")
    if given.module is None:
        return 0
    report = conformance.run(conformance.load(given.module))
    show(out, report)
    if given.json is not None:
        with replacing(given.json) as aside:
            aside.write_text(json.dumps(conformance.as_json(report), indent=1) + "\n")
    return 0 if report.conforming else 1
