"""`dither score PATH...`: scores of examples from logits or runs, as a table, with their reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dither.cli.formats import plain_table
from dither.cli.terminal import File, console, parse
from dither.errors import UserError, require
from dither.files import alone, check_place, replacing
from dither.scores import ScoreTable, SubsetRuns, overview
from dither.scores.sources import read_column, score_paths

CONFIG = "config.toml"
"""What makes a folder the directory of a run."""

ACROSS_RUNS = "memorization"
"""The score that no run has by itself."""


@dataclass(frozen=True)
class Arguments:
    """Score examples, write a ScoreTable, and say how far each ranking can be trusted.

    PATH: the directory of a run, a .npy, .npz or .parquet file of logits, a folder of them, or a table. A
    file is a run; a folder inside a folder is one run whose files are visits, in the order of their names,
    which gives scores of training dynamics. Labels and ids lie in the file or beside it (labels.npy,
    ids.npy). Memorization is a score of all runs together, each on a random subset of the data
    (dither.scores.subset_runs, or train.subset).
    Examples: dither score logits/ --out scores.parquet; dither score epochs/ --visits --scores aum forgetting
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """runs, files and folders, any number"""
    scores: tuple[str, ...] = ()
    """names of dither.scores.SCORES (default: loss, confidence, entropy, margin, el2n)"""
    labels: File = None
    """labels of all runs: .npy, or .parquet with a column label"""
    ids: File = None
    """ids of the examples: .npy, or .parquet with a column id (default 0, 1, 2, ...)"""
    tokens: Annotated[int, tyro.conf.arg(metavar="INT")] = 0
    """of a run: score this many training tokens with the trained weights (default: what the run tracked)"""
    influence: Annotated[str | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """of runs on subsets, beside their memorization: the influence of every example on every test example"""
    visits: bool = False
    """the files of a named folder are visits of one run, not runs"""
    out: Annotated[str, tyro.conf.arg(metavar="FILE.parquet")] = "scores.parquet"
    """the table to write"""
    merge: bool = False
    """add the runs to the table where it exists"""
    force: bool = False
    """replace the table where it exists"""
    target: float = 0.95
    """the consistency that `needed` is for"""


def main(arguments: Sequence[str]) -> int:
    """Run `dither score`. Raises UserError for everything the user can cause."""
    a = parse("score", Arguments, arguments)
    out = Path(a.out)
    check_out(out, a)
    table = subsets_table(a) if ACROSS_RUNS in a.scores or a.influence else paths_table(a)
    with alone(out):  # another process may have written it meanwhile
        check_free(out, a)
        if a.merge and out.exists():
            table = joined(ScoreTable.load(out), table, ", ".join(a.paths))
        print_overview(table, a.target)
        table.save(out)
    print(f"wrote {out}: {len(table.runs)} runs, {len(table.ids_of_any):,} examples")
    return 0


def subsets_table(a: Arguments) -> ScoreTable:
    """Memorization, of all runs together; and the file of influence."""
    if others := [name for name in a.scores if name != ACROSS_RUNS]:
        raise UserError(
            f"{ACROSS_RUNS} is one score of all runs and {others[0]} one of each: ask for it alone; --merge "
            "adds it to a table"
        )
    runs = SubsetRuns.load(a.paths)
    print(runs)
    for path in runs.left_out:
        print(f"left out, for it is not finished: {path}")
    if a.influence:
        values = runs.influence(dtype=np.float32)
        test_ids = runs.ids if runs.test_ids is None else runs.test_ids
        with replacing(Path(a.influence)) as aside, aside.open("wb") as file:
            np.savez(file, influence=values, ids=runs.ids, test_ids=test_ids)
        print(f"wrote {a.influence}: influence of {values.shape[0]:,} examples on {values.shape[1]:,}")
    return runs.table()


def paths_table(a: Arguments) -> ScoreTable:
    """Runs, files and folders merged."""
    labels = None if a.labels is None else read_column(a.labels, "label")
    ids = None if a.ids is None else read_column(a.ids, "id")
    runs = [path for path in a.paths if (Path(path) / CONFIG).is_file()]
    files = [path for path in a.paths if path not in runs]
    if not a.paths:
        raise UserError("name at least one run, file or folder of logits")
    table = score_runs(runs, a)
    for path in files:
        one = score_paths([path], a.scores or None, visits=a.visits, labels=labels, ids=ids)
        table = joined(table, one, path)
    return table


def joined(table: ScoreTable, one: ScoreTable, source: str) -> ScoreTable:
    """The merged table. Says where a run gets more examples: files of one name may be shards of a run, or two
    runs in folders of their own."""
    merged = table.merge(one)
    for name, run in table.runs.items():
        if more := len(merged.runs[name].ids) - len(run.ids):
            print(
                f"run {name}: {more:,} examples of {source} join the {len(run.ids):,} that it had, as shards "
                "of one run; files of different runs have different names"
            )
    return merged


def score_runs(runs: Sequence[str], a: Arguments) -> ScoreTable:
    """Windows of the training data of language models, one run a directory."""
    table = ScoreTable({})
    if runs:
        require("torch", "train")
        from dither.train.scoring import score_run

        for path in runs:
            table = table.merge(score_run(path, a.scores, a.tokens))
    return table


def check_out(out: Path, a: Arguments) -> None:
    """Refuse, before anything is computed, what could not be written at the end."""
    if out.suffix != ".parquet":
        raise UserError(f"--out {out}: a table of scores is a .parquet file")
    if not 0 < a.target < 1:
        raise UserError(f"--target {a.target} is a consistency between 0 and 1")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    if a.merge and a.force:
        raise UserError("--merge keeps the table that exists, --force replaces it; give one of them")
    check_free(out, a)
    if a.influence is not None:
        influence = Path(a.influence)
        if influence.suffix != ".npz":
            raise UserError(f"--influence {influence}: influence is written as an .npz file")
        if influence.exists() and not a.force:
            raise UserError(f"{influence} exists; --force replaces it, or name another --influence")
        check_place(influence)


def check_free(out: Path, a: Arguments) -> None:
    """UserError for a table that exists and may be neither added to nor replaced."""
    if out.exists() and not (a.merge or a.force):
        raise UserError(
            f"{out} exists; --merge adds the runs to it, --force replaces it, or name another --out"
        )


def print_overview(table: ScoreTable, target: float) -> None:
    """One line a score; what the columns mean stands below."""
    rows = overview(table, target)
    shown = plain_table(
        "score", "high is", "runs", "examples", "least", "median", "greatest", "r1", "half", "needed", "SNR",
        left=("score", "high is"),
    )  # fmt: skip
    for row in rows:
        r = row.reliability
        measured: tuple[Any, ...] = ("-",) * 4
        if r is not None:
            runs = str(r.needed) if r.needed > 0 else "never"
            measured = f"{r.r1:.3f}", f"{r.half:.3f}", runs, f"{r.snr:.1f}"
        values = (f"{v:.4g}" for v in (row.low, row.median, row.high))
        shown.add_row(row.score, row.direction, str(row.runs), f"{row.examples:,}", *values, *measured)
    console().print(shown)
    halves = next((row.reliability.half_runs for row in rows if row.reliability), None)
    if halves is not None:
        print(
            f"r1: rank correlation of two runs; half: of the mean ranks of {halves} against {halves} runs; "
            f"needed: runs for {target:g}; SNR: variance between examples over that within"
        )
    for why in dict.fromkeys(row.why for row in rows if row.why):
        names = ", ".join(row.score for row in rows if row.why == why)
        print(f"no reliability ({why}): {names}" + ("; two runs tell more" if why == "one run" else ""))
    lost = {row.left_out for row in rows} - {0}
    if lost:
        print(f"left out above: up to {max(lost):,} examples that some run has no value of (never visited?)")
    ties = [row.score for row in rows if row.reliability and row.reliability.tied > 0.5]
    if ties:
        print(f"many ties, which the number of runs makes too little of: {', '.join(ties)}")
