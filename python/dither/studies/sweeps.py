"""Runs of a study: trained one after another in this process, on one thread, recorded as `dither sweep` does.

The sweep's file is written beside the runs, which are named as a sweep names them: `dither sweep FILE.toml
--out FOLDER/runs` goes on with them on more cores, `dither fit LAW FOLDER/runs` reads them. Finished runs are
kept, whatever else changes in the study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dither.errors import UserError
from dither.files import write_text
from dither.laws.runs import read_runs
from dither.train import Progress, load_grid, train
from dither.train.rundir import read_summary
from dither.train.tokens import open_tokens
from dither.train.toml import dump_toml

Row = dict[str, Any]


def trained(
    folder: Path,
    name: str,
    shared: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    say: Callable[[str], None] = lambda text: None,
    view: str = "full",
    cast: str | None = None,
) -> list[Row]:
    """Bring the runs to their end and return a row of `dither.laws.read_runs` for each, in their order.

    shared: sections of the sweep's file, `folder`/`name`.toml; runs: dotted keys -> values. view, cast: which
    evaluation the rows are of, as `read_runs` takes it. UserError where a run cannot be trained, or two are
    the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    write_text(path, dump_toml(shared) + "".join(f"\n[[run]]\n{dump_toml(run)}" for run in runs))
    entries, copies = load_grid(path)
    if copies:
        raise UserError(f"{path}: {copies} of the runs are the same as others")
    tokens = {}
    for number, entry in enumerate(entries, 1):
        run, data = folder / "runs" / entry.key, entry.config.data
        if read_summary(run) is None:
            tokens[data] = tokens.get(data) or open_tokens(data, say)  # read once for all runs
            summary = train(entry.config, run, run.exists(), progress=Progress(), tokens=tokens[data])
            end = summary["final"][0]
            say(f"{name} {number}/{len(entries)} ({entry.label}): {end['loss']:.4f} nats a token")
    table, _ = read_runs([folder / "runs" / entry.key for entry in entries], view=view, cast=cast)
    found = {
        Path(values[0]).name: dict(zip(table, values, strict=True))
        for values in zip(*table.values(), strict=True)
    }
    return [found[entry.key] for entry in entries]
