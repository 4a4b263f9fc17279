"""Tables from run directories: what `dither train` and `dither sweep` wrote, a row a finished run."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dither.errors import UserError

VIEWS = ("full", "recipe", "cast")
ROUNDINGS = ("nearest_even", "stochastic")


def read_runs(
    paths: Iterable[str | Path],
    *,
    view: str = "full",
    cast: str | None = None,
    rounding: str = "nearest_even",
    every: bool = False,
) -> tuple[dict[str, list[Any]], list[str]]:
    """A table of runs, and what was left out, in words.

    Columns: run, N (parameters), N_body (those without embedding and head; None where the run does not say
    them), D (training tokens seen), U (training tokens of the corpus: fewer than D where they repeat), C (6 N
    D), loss (nats/token, validation, at the end), bits_per_byte, corpus (the first letters of its hash),
    recipe, method, seed. `view`: how the end was evaluated: "full" precision, the run's own "recipe", or a
    "cast" (then `cast` is its quantizer where there are several, and `rounding` how the weights were rounded:
    "nearest_even", or "stochastic", the mean of several draws). `paths`: run directories, or folders of
    them. every: a row for every evaluation on the way too, in the order of their tokens (see
    `dither.laws.checkpoints`).

    Raises UserError where a path is no directory, or no finished run is among them.
    """
    if view not in VIEWS:
        raise UserError(f"view must be one of {', '.join(VIEWS)}, not {view!r}")
    if cast is not None and view != "cast":
        raise UserError(f"a cast ({cast}) belongs to the view 'cast', not to {view!r}")
    if rounding not in ROUNDINGS:
        raise UserError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}")
    rows: list[dict[str, Any]] = []
    left: list[str] = []
    for path in _directories(paths):
        found = _rows(path, view, cast, rounding, every)
        if isinstance(found, str):
            left.append(found)
        else:
            rows += found
    if not rows:
        raise UserError("no finished run among these; " + "; ".join(left[:5]))
    return {name: [row[name] for row in rows] for name in rows[0]}, left


def unlike(frame: Mapping[str, list[Any]]) -> list[str]:
    """In what the runs of a table of `read_runs` differ so that no one law holds for all, in words."""
    said = []
    for name, noun in (("corpus", "corpora"), ("recipe", "recipes"), ("method", "methods")):
        count = Counter(frame.get(name, ()))
        if len(count) > 1:
            listed = ", ".join(f"{value} ({runs})" for value, runs in count.most_common())
            said.append(
                f"these are runs of {len(count)} {noun}: {listed}; one law holds for one of them: choose it "
                f"(--only {name}=...)"
            )
    return said


def check_same_text(one: Mapping[str, list[Any]], other: Mapping[str, list[Any]]) -> None:
    """UserError where two tables of `read_runs` are of different corpora: their losses do not compare."""
    both = [set(frame.get("corpus", ())) for frame in (one, other)]
    if all(both) and both[0] != both[1]:
        said = " and ".join(", ".join(sorted(map(str, corpora))) for corpora in both)
        raise UserError(
            f"the runs are of different corpora, {said}: their losses do not compare; choose those of one "
            "(--only corpus=..., --cheap_only)"
        )


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


def _rows(path: Path, view: str, cast: str | None, rounding: str, every: bool) -> list[dict[str, Any]] | str:
    """The run's rows, or why it has none."""
    if not (path / "summary.json").is_file():
        return f"{path}: not finished"
    try:
        info = json.loads((path / "run.json").read_bytes())
        summary = json.loads((path / "summary.json").read_bytes())
        config = tomllib.loads((path / "config.toml").read_text())
        ends = [row for row in summary["final"] if row["view"] == view]
        if cast is not None:
            ends = [row for row in ends if row.get("cast") == cast]
        if view == "cast":
            ends = [row for row in ends if row.get("rounding", rounding) == rounding]
        if not ends:
            return f"{path}: its end was not evaluated as {cast or view}" + f", {rounding}" * (view == "cast")
        if len(casts := {row.get("cast") for row in ends}) > 1:
            return f"{path}: several casts were evaluated ({', '.join(sorted(casts))}); name one (cast=)"
        if ends[0]["loss"] is None:
            return f"{path}: it diverged, its final loss is no number"
        shared = {
            "run": str(path),
            "N": float(info["params"]),
            "N_body": _body(info, config.get("model", {})),
            "corpus": info["corpus"][:12],
            "recipe": config.get("recipe", {}).get("name"),
            "method": config.get("method", {}).get("name"),
            "seed": config["train"].get("seed"),
        }
        found = [*(_before(path, ends[0]) if every else []), ends[0]]
        return [shared | _end(row, shared["N"], float(info["train_tokens"])) for row in found]
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"{path}: its records cannot be read ({type(error).__name__}: {error})"


def _end(row: Mapping[str, Any], n: float, unique: float) -> dict[str, Any]:
    d = float(row["tokens"])
    return {
        "D": d,
        "U": min(unique, d),
        "C": 6 * n * d,
        "loss": row["loss"],
        "bits_per_byte": row.get("bits_per_byte"),
    }


def _before(path: Path, end: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The evaluations of a run before its end, of the end's kind, by tokens."""
    records = path / "metrics.jsonl"
    if not records.is_file():
        return []
    same = {key: end.get(key) for key in ("view", "cast", "rounding")}
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    found = [row for row in rows if row["kind"] == "eval" and {key: row.get(key) for key in same} == same]
    before = {row["tokens"]: row for row in found if 0 < row["tokens"] < end["tokens"] and row.get("loss")}
    return [before[tokens] for tokens in sorted(before)]


def _body(info: Mapping[str, Any], model: Mapping[str, Any]) -> float | None:
    """Parameters without the embedding and the head, of the built-in model."""
    if "vocab" not in info or "width" not in model:
        return None
    matrices = 1 if model.get("tied", True) else 2
    return float(info["params"] - matrices * info["vocab"] * model["width"])
