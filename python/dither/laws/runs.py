"""Tables from run directories: what `dither train` and `dither sweep` wrote, a row a finished run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dither.errors import UserError

VIEWS = ("full", "recipe", "cast")


def read_runs(
    paths: Iterable[str | Path], *, view: str = "full", cast: str | None = None
) -> tuple[dict[str, list[Any]], list[str]]:
    """A table of runs, and what was left out, in words.

    Columns: run, N (parameters), D (training tokens seen), U (training tokens of the corpus: fewer than D
    where they repeat), C (6 N D), loss (nats/token, validation, at the end), bits_per_byte, corpus (its
    hash), seed. `view`: how the end was evaluated: "full" precision, the run's own "recipe", or a "cast"
    (then `cast` is its quantizer where there are several). `paths`: run directories, or folders of them.

    Raises UserError where a path is no directory, or no finished run is among them.
    """
    if view not in VIEWS:
        raise UserError(f"view must be one of {', '.join(VIEWS)}, not {view!r}")
    rows: list[dict[str, Any]] = []
    left: list[str] = []
    for path in _directories(paths):
        row = _row(path, view, cast)
        (left if isinstance(row, str) else rows).append(row)  # type: ignore[arg-type]
    if not rows:
        raise UserError("no finished run among these; " + "; ".join(left[:5]))
    return {name: [row[name] for row in rows] for name in rows[0]}, left


def is_run(path: str | Path) -> bool:
    return (Path(path) / "run.json").is_file()


def _directories(paths: Iterable[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path} is no directory of a run")
        found += [path] if is_run(path) else sorted(p.parent for p in path.glob("**/run.json"))
    if not found:
        raise UserError("no run directory (one with run.json) among these paths")
    return list(dict.fromkeys(found))


def _row(path: Path, view: str, cast: str | None) -> dict[str, Any] | str:
    """The run's row, or why it has none."""
    if not (path / "summary.json").is_file():
        return f"{path}: not finished"
    try:
        info = json.loads((path / "run.json").read_bytes())
        summary = json.loads((path / "summary.json").read_bytes())
        config = tomllib.loads((path / "config.toml").read_text())
        ends = [row for row in summary["final"] if row["view"] == view]
        if cast is not None:
            ends = [row for row in ends if row.get("cast") == cast]
        if not ends:
            return f"{path}: its end was not evaluated as {cast or view}"
        if len({(row.get("cast"), row.get("rounding")) for row in ends}) > 1:
            return f"{path}: several casts were evaluated; name one (cast=)"
        end = ends[0]
        n, d = float(info["params"]), float(end["tokens"])
        return {
            "run": str(path),
            "N": n,
            "D": d,
            "U": min(float(info["train_tokens"]), d),
            "C": 6 * n * d,
            "loss": end["loss"],
            "bits_per_byte": end.get("bits_per_byte"),
            "corpus": info["corpus"],
            "seed": config["train"].get("seed"),
        }
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"{path}: its records cannot be read ({type(error).__name__}: {error})"
