"""`dither select TABLE`: the ids of the examples to keep."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dither.cli.terminal import Count, File, Name, Number, parse
from dither.errors import UserError, require, suggest
from dither.files import replacing
from dither.scores import ScoreTable
from dither.scores.overview import direction
from dither.scores.selection import POLICIES
from dither.scores.sources import labels_of
from dither.scores.table import mean_of_ranks

SUFFIXES = (".txt", ".npy", ".parquet")


@dataclass(frozen=True)
class Arguments:
    """Choose examples from a table of scores and write their ids.

    Scores of all runs are reduced to one, hard examples high (easy scores are turned round), then a policy
    keeps some: top (the hardest), bottom (the easiest), band, window, class_floor, softmax, linear, coverage,
    budget, repetition, random. Compare with random before you believe in any.
    Example: dither select scores.parquet --score aum --policy coverage --keep 0.3 --out kept.txt
    """

    table: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """what `dither score` or a tracker wrote: a .parquet file or a folder of them"""
    score: str
    """the score to choose by"""
    policy: str = "top"
    """the way to choose"""
    keep: Annotated[str | None, tyro.conf.arg(metavar="SHARE|COUNT")] = None
    """a share (0.3) or a count (2000)"""
    out: File = None
    """.txt (an id a line), .npy or .parquet (ids and the reduced score); default: standard output"""
    force: bool = False
    """replace the file where it exists"""
    runs: Annotated[str | None, tyro.conf.arg(metavar="GLOB")] = None
    """only the runs whose name matches"""
    reduce: str = "rank"
    """rank (mean of ranks within runs) or value (mean of values, which a run's scale can dominate)"""
    direction: Annotated[str | None, tyro.conf.arg(metavar="hard|easy")] = None
    """what a high value means, hard or easy: for scores that dither does not know, or that are neither"""
    dialect: Name = None
    """how the score is read, such as data-diet for forgetting"""
    drop_unscored: bool = False
    """leave out examples without a value; otherwise they are an error"""
    labels: File = None
    """class_floor: .npy by id, or .parquet with id and label; default: those the table holds"""
    low: Number = None
    """band: from this quantile, 0 the easiest"""
    high: Number = None
    """band: to this quantile"""
    drop_hardest: Number = None
    """window, coverage: share of the hardest that is cut off"""
    floor: Number = None
    """class_floor: share of its own that each class keeps at least"""
    temperature: Number = None
    """softmax"""
    eps: Number = None
    """linear: weight of the easiest"""
    strata: Count = None
    """coverage"""
    seed: Count = None
    """softmax, linear, coverage, random"""
    examples_per_parameter: Number = None
    """budget: how plentiful the kept data are"""
    threshold: Number = None
    """budget: from here on the hardest are kept, below it the easiest"""
    seen: Count = None
    """repetition: examples that training will see"""
    utilities: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="FLOAT ...")] = None
    """repetition: exponents b < 0 of the strata, easiest first"""
    half_life: Number = None
    """repetition: epochs after which a stratum is worth half"""
    scale: Number = None
    """repetition: unit of the examples seen"""


def main(arguments: Sequence[str]) -> int:
    """Run `dither select`. Raises UserError for everything the user can cause."""
    a = parse("select", Arguments, arguments)
    options = check(a)
    out = None if a.out is None else checked_out(Path(a.out), a.force)
    whole = ScoreTable.load(a.table)
    table = whole.having(a.score)
    if a.runs is not None:
        table = table.select(lambda name: fnmatch(name, a.runs or ""))
        if not table.runs:
            raise UserError(f"--runs {a.runs}: no run of {a.table} has such a name")
    ids, hard = hardness(table, a)
    unscored = len(table.ids_of_any) - len(ids)
    policy = POLICIES[a.policy]
    if "labels" in inspect.signature(policy).parameters:
        options["labels"] = labels_of(a.labels, ids) if a.labels is not None else own_labels(whole, ids, a)
    chosen = policy(len(ids) if a.policy == "random" else hard, **options)
    if not len(chosen):
        raise UserError(f"nothing would be kept of {len(ids):,} examples; ask for more")
    write(out, ids[chosen], a.score, hard[chosen])
    told = f"kept {len(chosen):,} of {len(ids):,} examples ({len(chosen) / len(ids):.1%}) by {a.policy}"
    told += f", {unscored:,} without a score left out" if unscored else ""
    kind = "" if a.policy == "random" else f" of {a.score}, {a.reduce} mean of {len(table.runs)} runs"
    print(told + kind + (f": {out}" if out else ""), file=sys.stderr)
    return 0


def check(a: Arguments) -> dict[str, Any]:
    """The options of the policy. UserError for one it does not take, and for one it needs and has not."""
    if a.policy not in POLICIES:
        raise UserError(
            f"--policy {a.policy}: unknown{suggest(a.policy, POLICIES)}; there are {', '.join(POLICIES)}"
        )
    if a.reduce not in ("rank", "value"):
        raise UserError(f"--reduce is rank or value, not {a.reduce!r}")
    if a.direction not in (None, "hard", "easy"):
        raise UserError(f"--direction is hard or easy, not {a.direction!r}")
    names = {name for policy in POLICIES.values() for name in inspect.signature(policy).parameters}
    given = {n: getattr(a, n) for n in names - {"scores", "n"} if getattr(a, n) is not None}
    takes = inspect.signature(POLICIES[a.policy]).parameters
    for name in given:
        if name not in takes:
            raise UserError(f"--{name} means nothing to --policy {a.policy}")
    for name, parameter in takes.items():
        found = name in given or name in ("scores", "n", "labels")  # the table may hold labels
        if parameter.default is parameter.empty and not found:
            raise UserError(f"--policy {a.policy} needs --{name}")
    if "keep" in given:
        given["keep"] = amount(given["keep"])
    return given


def amount(text: str) -> float | int:
    """0.3 and 1.0 are shares, 2000 and 1 are counts."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UserError(f"--keep {text}: give a share (0.3) or a count (2000)")


def checked_out(out: Path, force: bool) -> Path:
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: ids are written to {', '.join(SUFFIXES)} files")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if out.exists() and not force:
        raise UserError(f"{out} exists; --force replaces it, or name another --out")
    return out


def hardness(table: ScoreTable, a: Arguments) -> tuple[np.ndarray, np.ndarray]:
    """Ids and one value each, hard examples high. An example that some run lacks has no score there."""
    means = a.direction or direction(a.score, a.dialect)
    if means == "?":
        raise UserError(f"is a high {a.score} hard or easy? give --direction hard or --direction easy")
    if means == "neither":
        raise UserError(
            f"a high {a.score} is neither hard nor easy: give --direction hard to take the highest for the "
            "hardest, or --direction easy for the easiest"
        )
    ids = table.ids_of_any
    values = table.values(a.score, a.dialect, ids=ids)
    lost = np.isnan(values).any(axis=0)
    if lost.any():
        if not a.drop_unscored:
            raise UserError(
                f"{int(lost.sum()):,} of {len(ids):,} examples have no {a.score} in some run, {ids[lost][0]} "
                f"among them; --drop_unscored leaves them out"
            )
        values, ids = values[:, ~lost], ids[~lost]
    if not len(ids):
        raise UserError(f"no example of {a.table} has a {a.score} in every run")
    reduced = mean_of_ranks(values) if a.reduce == "rank" else values.mean(axis=0)
    return ids, -reduced if means == "easy" else reduced


def own_labels(table: ScoreTable, ids: np.ndarray, a: Arguments) -> np.ndarray:
    """The labels that the table holds. UserError where it lacks one."""
    labels = table.labels(ids)
    if len(lost := ids[labels < 0]):
        raise UserError(
            f"--policy {a.policy} needs labels, and {a.table} holds none of {len(lost):,} of {len(ids):,} "
            f"examples, {lost.tolist()[0]!r} among them; give --labels FILE"
        )
    return labels


def write(out: Path | None, ids: np.ndarray, score: str, hard: np.ndarray) -> None:
    if out is None:
        print("\n".join(map(str, ids.tolist())))
        return
    with replacing(out) as aside:
        if out.suffix == ".txt":
            aside.write_text("".join(f"{i}\n" for i in ids.tolist()), encoding="utf-8")
        elif out.suffix == ".npy":
            with aside.open("wb") as file:
                np.save(file, ids, allow_pickle=False)
        else:
            pa = require("pyarrow", "scores")
            table = pa.table({"id": pa.array(ids), f"hardness_by_{score}": pa.array(hard)})
            require("pyarrow.parquet", "scores").write_table(table, aside)
