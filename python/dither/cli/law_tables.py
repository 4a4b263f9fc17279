"""Tables for the commands on laws: rows of files or of runs, their columns and groups; NAME=VALUE options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from dither import laws
from dither.errors import UserError, suggest
from dither.laws import runs, table

Pairs = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=VALUE")]


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE, also several joined by commas."""
    found = {}
    for text in ",".join(given).split(","):
        name, equals, value = text.partition("=")
        if text and not (name and equals and value):
            raise UserError(f"{option} {text!r}: give NAME=VALUE")
        if text:
            found[name.strip()] = value.strip()
    return found


def numbers(given: Sequence[str], option: str) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in pairs(given, option).items()}
    except ValueError as error:
        raise UserError(f"{option}: {error}") from None


def evaluation(a: Any) -> dict[str, Any]:
    """The options of a command that choose the evaluation of a run, as `read_runs` takes them."""
    return {name: getattr(a, name) for name in ("view", "cast", "rounding")}


def load(
    data: Sequence[str], only: Sequence[str], every: bool = False, **of_runs: Any
) -> tuple[dict[str, list[Any]], list[str]]:
    """The table's rows that --only chooses, and what a user must know of them: runs that were left out,
    others that are unlike. every: of runs, rows of the evaluations on the way too; of_runs: `evaluation`."""
    if not data:
        raise UserError("name a table (.csv, .jsonl, .parquet) or run directories")
    if not any(Path(path).is_dir() for path in data):
        if len(data) > 1:
            raise UserError(
                f"one table at a time, not {len(data)}; several arguments must be run directories"
            )
        if of_runs.get("view", "full") != "full" or of_runs.get("cast"):
            raise UserError("--view and --cast choose among a run's evaluations; of a table name --loss")
        return kept(table.read(data[0]), only), []
    frame, left = runs.read_runs(data, every=every, **of_runs)
    frame = kept(frame, only)
    return frame, [*(f"left out: {reason}" for reason in left), *runs.unlike(frame)]


def kept(frame: dict[str, list[Any]], only: Sequence[str]) -> dict[str, list[Any]]:
    """--only: the rows whose cells are those."""
    for name, value in pairs(only, "--only").items():
        if name not in frame:
            raise UserError(
                f"--only {name}={value}: no column {name!r}{suggest(name, frame)}; there are "
                f"{', '.join(frame)}"
            )
        at = [i for i, cell in enumerate(frame[name]) if str(cell) == value]
        if not at:
            values = ", ".join(dict.fromkeys(map(str, frame[name][:1000])))
            raise UserError(f"--only {name}={value}: no row has it; {name} is {values}")
        frame = {key: [cells[i] for i in at] for key, cells in frame.items()}
    return frame


def mapping(law: laws.Law, given: Sequence[str]) -> dict[str, Any]:
    """--column: the law's variable -> the table's column."""
    found = pairs(given, "--column")
    for name in found:
        if name not in law.variables:
            raise UserError(f"--column {name}=...: {law.name} has the variables {', '.join(law.variables)}")
    return found


def levels(frame: Mapping[str, list[Any]], text: str) -> tuple[Any, ...]:
    """--by: labels of the groups that are resampled, and of those inside them; or "scale", "row"."""
    found: list[Any] = []
    if text.count("/") > 1:
        raise UserError(f"--by {text}: two levels at most, as scale/row")
    for name in text.split("/"):
        if name in frame:
            found.append([str(value) for value in frame[name]])
        elif name in ("scale", "row"):
            found.append(name)
        else:
            raise UserError(
                f"--by {text}: the table has no column {name!r}; it has {', '.join(frame)}; scale and "
                "row are always there"
            )
    return tuple(found)


def other_sizes(frame: Mapping[str, list[Any]], given: Sequence[str]) -> dict[str, Any]:
    """--other_N: name -> sizes; of runs also those without embedding and head."""
    found = {name: table.column(frame, column) for name, column in pairs(given, "--other_N").items()}
    if "N_body" in frame and None not in frame["N_body"]:
        found.setdefault("body", table.column(frame, "N_body"))
    return found
