"""The report of a comparison: the table, the pictures, and everything needed to judge and repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dither.report import gallery, html, results
from dither.report.load import Run, is_run, load_run
from dither.report.results import Record
from dither.report.run import MEANINGS, facts
from dither.train.config import resolve
from dither.train.plan import load_plan
from dither.train.rundir import CONFIG
from dither.train.toml import to_dict

PLAN = "plan.json"
SPEED = (
    "Time per token and memory are those of emulation on this machine: the arithmetic runs in fp32 on "
    "quantized operands. They say what an experiment costs here, not what hardware with these formats needs."
)
ONE_SEED = "One seed gives no interval: these differences may be noise. --seeds 0 1 2 repeats every arm."
MORE_MEANINGS = {
    "tokens per second": "the rate that one training step in ten exceeds: what the machine does undisturbed",
    "slow-down": "that rate of the plain fp32 arm, divided by the arm's",
    "peak MiB": "peak resident memory of the process while the arm trained",
    "PTQ of an arm": "that arm's own weights, cast after training; nothing is trained again",
    "QAT": "training with the cast in the forward pass and straight-through gradients",
    "RAT": "QAT with randomized instead of nearest rounding",
    "LOTION": "training with half the curvature-weighted variance of randomized rounding added to the loss",
    "difference": "loss of the first arm minus that of the second, mean over seeds",
}


def runs(directory: Path, comparison: Record) -> dict[str, list[Run]]:
    """The runs of every arm that was trained, one for each seed."""
    found: dict[str, list[Run]] = {}
    for record in comparison["arms"]:
        if record["same_as"] is None:
            plain, seeded = directory / record["name"], directory / f"seed-{record['seed']}" / record["name"]
            found.setdefault(record["name"], []).append(load_run(plain if is_run(plain) else seeded))
    return found


def overrides(directory: Path) -> list[str]:
    """The command-line options that turn config.toml into the plan that was run."""
    recorded = json.loads((directory / PLAN).read_text(encoding="utf-8"))
    plan = load_plan(directory / CONFIG)
    found: dict[str, Any] = {}
    for arm, other in zip(plan.arms, recorded["arms"], strict=True):
        before = to_dict(resolve(arm.config, recorded["threads"]))
        found |= {key: value for key, value in _leaves(other["config"]) if _leaf(before, key) != value}
    options = [f"--{key} {_words(value)}" for key, value in found.items()]
    if list(plan.seeds) != recorded["seeds"]:
        options.append(f"--seeds {_words(recorded['seeds'])}")
    return options


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _leaf(tree: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part, {})
    return tree


def _words(value: Any) -> str:
    return " ".join(shlex.quote(str(item)) for item in (value if isinstance(value, list) else [value]))


def settings(directory: Path) -> tuple[list[str], list[list[str]]]:
    """What differs between the arms: one row a key, one column an arm."""
    arms = json.loads((directory / PLAN).read_text(encoding="utf-8"))["arms"]
    trees = [dict(_leaves(arm["config"])) for arm in arms]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    varied = [key for key in keys if len({json.dumps(tree.get(key)) for tree in trees}) > 1]
    rows = [[key, *(_setting(tree.get(key)) for tree in trees)] for key in varied]
    return ["key", *(arm["name"] for arm in arms)], rows


def _setting(value: Any) -> str:
    return "-" if value in (None, "") else _words(value)


def warnings(comparison: Record, trained: Mapping[str, list[Run]]) -> Iterator[str]:
    if comparison["comparable"] is False:
        yield (
            "Not comparable with the published table: the corpus differs from the one it was made on "
            f"(this one: {comparison['corpus'][:16]}). The arms of this page are comparable with each other."
        )
    for name, records in results.arms(comparison).items():
        for record in records:
            if record["status"] != "done":
                yield f"{name} (seed {record['seed']}) {record['status']}: it has no figures."
    for name, group in trained.items():
        if "extension" in (group[0].info["method"] or ""):
            yield f"{name}: {group[0].info['method']}."


def page(directory: Path) -> str:
    """The page of a finished comparison; writes its pictures beside it."""
    comparison = results.load(directory)
    trained = runs(directory, comparison)
    arms = results.arms(comparison)
    seeds = len(comparison["initial_states"])
    lead = (
        f"{len(arms)} arms, {seeds} {'seed' if seeds == 1 else 'seeds'}; {comparison['steps']:,} steps = "
        f"{comparison['tokens']:,} training tokens each, {comparison['params']:,} parameters; all arms of a "
        "seed saw the same data in the same order and began from the same weights"
    )
    headings, rows = settings(directory)
    alike = not any(row[0] in ("train.steps", "train.batch") for row in rows)
    if not alike:
        lead = (
            f"{len(arms)} arms, {seeds} {'seed' if seeds == 1 else 'seeds'}; {comparison['params']:,} "
            "parameters; all arms of a seed began from the same weights"
        )
    parts = [html.heading(directory.name, 1), html.paragraph(lead, "lead")]
    parts += [html.warning(text) for text in warnings(comparison, trained)]
    parts += [
        html.heading("Validation loss"),
        html.paragraph(
            f"Nats per token, lower is better{' (mean ± standard deviation)' if seeds > 1 else ''}."
        ),
        html.table(*results.table(comparison, results.losses(comparison)), (0, 1)),
    ]
    bits = results.losses(comparison, "bits_per_byte")
    if any(bits[0].read(record) is not None for record in comparison["arms"]):
        parts.append(
            html.details("the same in bits per byte", html.table(*results.table(comparison, bits), (0, 1)))
        )
    parts += [
        html.heading("Cost of training"),
        html.table(*results.table(comparison, results.SPEEDS), (0, 1)),
        html.paragraph(SPEED),
    ]
    if comparison["differences"]:
        parts += [html.heading("Paired differences"), html.table(*results.differences(comparison), (0, 1, 3))]
        if seeds == 1:
            parts.append(html.paragraph(ONE_SEED))
    parts += [html.heading("Pictures"), *gallery.pictures(directory, comparison, trained)]
    first = next(iter(trained.values()))[0]
    command = " \\\n    ".join(
        ["dither compare " + shlex.quote(str(directory / CONFIG)), *overrides(directory)]
    )
    every = tuple(range(len(headings)))
    parts += [
        html.heading("What differs between the arms"),
        html.table(headings, rows, every) if rows else html.paragraph("Nothing."),
        html.paragraph("Every other key is shared; each arm was trained for the same number of tokens.")
        if alike
        else html.warning("The arms differ in steps or batch: they were not trained alike on the same data."),
        html.heading("How to reproduce it"),
        html.code(f"{command} \\\n    --out NEW_DIRECTORY"),
        html.heading("What it stood on"),
        html.table(("fact", "value"), facts(first.info), (0, 1)),
        html.details("configuration", html.code((directory / CONFIG).read_text(encoding="utf-8"))),
        html.heading("What the words mean"),
        html.terms((MEANINGS | MORE_MEANINGS).items()),
    ]
    return html.page(f"dither: {directory.name}", parts)
