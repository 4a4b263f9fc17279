"""`dither report DIR`: write the report of a run or a comparison again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from dither import report
from dither.cli.terminal import parse


@dataclass(frozen=True)
class Arguments:
    """Write report.html and its pictures into the directory of a run or a comparison."""

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """what `dither train` or `dither compare` wrote to"""


def main(arguments: Sequence[str]) -> int:
    """Run `dither report`. Raises UserError for a directory that holds neither a run nor a comparison."""
    print(f"report: {report.write(parse('report', Arguments, arguments).directory)}")
    return 0
