"""Which checkpoints of a run count: the last alone, those from a share of its tokens on, or all.

Checkpoints before the end were measured at a learning rate that was not yet decayed, and those of one run
are alike: a fit to several of them is a check of the one to the last, and resamples runs (`by=` their names).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.laws import table
from dither.laws.engine import Floats

POLICIES = {"the last alone": 1.0, "from half of a run on": 0.5, "all": 0.0}
"""What each is called: share of a run's tokens from which its checkpoints count."""


def since(data: Any, share: float, *, run: str = "run", tokens: str = "D") -> dict[str, list[Any]]:
    """The rows of a table from that share of their run's tokens on, as columns; 1: the last of each run.

    data: as `dither.laws.fit` takes it; run, tokens: its columns that name the run and count the tokens seen.
    UserError where a column is missing, or the share is not in 0 to 1.
    """
    frame = table.read(data) if isinstance(data, str) or hasattr(data, "suffix") else data
    names = table.columns(frame)
    if run not in names:
        raise UserError(f"the table has no column {run!r}{suggest(run, names)} that names the run of a row")
    if not 0 <= share <= 1:
        raise UserError(f"checkpoints count from a share of 0 to 1 of a run's tokens, not {share:g}")
    seen, label = table.column(frame, tokens), np.array([str(v) for v in frame[run]])
    _, group = np.unique(label, return_inverse=True)
    last = np.full(int(group.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(last, group, seen)
    kept = np.flatnonzero(seen >= share * last[group])
    return {name: [list(frame[name])[i] for i in kept] for name in names}


def curves(
    data: Mapping[str, list[Any]], *, run: str = "run", N: str = "N", tokens: str = "D", loss: str = "loss"
) -> dict[str, tuple[Floats, Floats]]:
    """Training curves of the runs that have two checkpoints or more, of which none is broken: what a run is
    called ("N 1e+08", the next of this size "N 1e+08 (2)") -> (FLOPs 6 N D, losses), by tokens.

    run, N, tokens, loss: columns of the table. Of one run alone there is no envelope: empty.
    """
    if run not in data:
        raise UserError(f"the table has no column {run!r}{suggest(run, data)} that names the run of a row")
    c = 6 * table.column(data, N) * table.column(data, tokens)
    y, size = table.column(data, loss), table.column(data, N)
    label = np.array([str(v) for v in data[run]])
    found: dict[str, tuple[Floats, Floats]] = {}
    for one in dict.fromkeys(label.tolist()):
        mine = np.flatnonzero(label == one)
        mine = mine[np.argsort(c[mine])]
        c_run, y_run = c[mine], y[mine]
        if len(mine) < 2 or not (np.isfinite(c_run) & np.isfinite(y_run) & (c_run > 0)).all():
            continue
        name = f"N {size[mine[0]]:.3g}"
        count = sum(other.split(" (")[0] == name for other in found) + 1
        found[name if count == 1 else f"{name} ({count})"] = c_run, y_run
    return found if len(found) > 1 else {}


def policies(data: Mapping[str, list[Any]], but: float, *, run: str, tokens: str) -> dict[str, dict]:
    """The tables of the other POLICIES, where they differ from that of the share `but` and from another."""
    sizes = {len(since(data, but, run=run, tokens=tokens)[run])}
    found = {}
    for name, share in POLICIES.items():
        one = since(data, share, run=run, tokens=tokens)
        if len(one[run]) not in sizes:
            sizes.add(len(one[run]))
            found[name] = one
    return found
