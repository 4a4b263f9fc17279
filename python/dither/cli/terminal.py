"""What every command shares: parsing its arguments and writing to the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, TypeVar

import tyro
from rich.console import Console

Arguments = TypeVar("Arguments")

# Options that may be left out: in --help they are called by what one gives.
Number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]
Count = Annotated[int | None, tyro.conf.arg(metavar="INT")]
Name = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
File = Annotated[str | None, tyro.conf.arg(metavar="FILE")]


def parse(command: str, kind: type[Arguments], arguments: Sequence[str]) -> Arguments:
    """Parse the arguments of `dither COMMAND` into the dataclass `kind`; wrong ones exit with code 2."""
    return tyro.cli(
        kind,
        prog=f"dither {command}",
        args=list(arguments),
        use_underscores=True,  # as the keys in TOML; hyphens are accepted too
        config=(tyro.conf.FlagCreatePairsOff,),
    )


class Terminal(Console):
    """A console that leaves a reader who stopped early (head, less) to `dither.cli.main`."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console() -> Console:
    """A console that prints whole lines into pipes and files instead of folding them at 80 columns."""
    return Terminal(highlight=False, width=None if sys.stdout.isatty() else 160)
