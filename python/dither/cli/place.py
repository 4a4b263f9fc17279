"""Where a run goes when the user does not say."""

from __future__ import annotations

from pathlib import Path

from dither.errors import UserError

RUNS = Path("runs")


def choose(config: str | None, out: str | None, resume: bool) -> Path:
    """The directory of a run: `out` where given, else runs/NAME of the configuration.

    A new run gets the first free of NAME, NAME-2, NAME-3, ...; with `resume` it is the last one that exists.
    Raises UserError when there is none to resume.
    """
    if out is not None:
        return Path(out)
    assert config is not None
    name = Path(config).stem
    taken, number = None, 1
    while _holds_something(place := RUNS / (name if number == 1 else f"{name}-{number}")):
        taken, number = place, number + 1
    if not resume:
        return place
    if taken is None:
        raise UserError(f"nothing to resume: there is no {place}; name the directory with --out DIR")
    return taken


def _holds_something(place: Path) -> bool:
    """A run that failed before it began leaves its lock file alone."""
    from dither.train.rundir import LOCK  # here: commands that only take RUNS start without torch

    return place.is_file() or (place.is_dir() and any(path.name != LOCK for path in place.iterdir()))
