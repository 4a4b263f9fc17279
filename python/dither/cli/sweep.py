"""`dither sweep CONFIG`: train every run of a grid or a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from dither.cli.compare import show
from dither.cli.overrides import Overrides, given, split_method_options
from dither.cli.place import RUNS
from dither.cli.terminal import Count, console, parse
from dither.train import load_grid, sweep
from dither.train.claims import FAILED
from dither.train.sweep import RunState, counts, status


@dataclass(frozen=True)
class Arguments:
    """Train every run of a TOML file with a [grid] of values or [[run]] tables: a process and a thread each.

    Finished runs are skipped and stopped ones go on, so the same command continues a sweep, on several
    machines with a common folder too. Exit code 1 where runs failed; the others are not stopped by them.
    A key given here by its dotted name (--train.steps 100) changes all runs.
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """the TOML file: shared sections, [grid] with "section.key" = [values], [[run]] tables"""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """the folder of the runs; by default runs/ and the name of the file"""
    workers: Count = None
    """processes at a time; by default one a core"""
    dry_run: bool = False
    """list the runs and train none"""
    status: bool = False
    """say how far the runs are and train none"""
    keys: Annotated[Overrides, tyro.conf.arg(name="")] = field(default_factory=Overrides)  # type: ignore[valid-type]


def table(states: Sequence[RunState]) -> list[list[str]]:
    return [
        [
            s.entry.key, s.state, f"{s.step}/{s.entry.config.train.steps}",
            f"{s.loss:.4f}" if s.loss is not None else "", s.entry.label,
        ]
        for s in states
    ]  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Run `dither sweep`. Raises UserError for everything the user can cause."""
    rest, options = split_method_options(arguments)
    parsed = parse("sweep", Arguments, rest)
    entries, copies = load_grid(parsed.config, given(parsed.keys) | options)
    out, terminal = Path(parsed.out) if parsed.out else RUNS / Path(parsed.config).stem, console()
    if copies:
        print(f"{copies} entries are copies of others and are trained once")
    if parsed.dry_run or parsed.status:
        states = status(entries, out)
    else:
        states = sweep(entries, out, parsed.workers)
    terminal.print(show(("run", "state", "step", "loss", "what"), table(states), words=(0, 1, 4)))
    for state in states:
        if state.note:
            print(f"{state.entry.key} {state.state}: {state.note}")
    print(", ".join(f"{n} {state}" for state, n in counts(states).items()) + f" in {out}")
    failed = any(state.state == FAILED for state in states)
    return 1 if failed and not parsed.dry_run else 0
