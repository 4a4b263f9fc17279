"""The report of a comparison: the table, the pictures, and everything needed to judge and repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dither.report import curves, html, results
from dither.report.load import Run, is_run, load_run
from dither.report.results import Record
from dither.report.run import MEANINGS, facts, write_picture
from dither.train.config import resolve, to_dict
from dither.train.plan import load_plan
from dither.train.rundir import CONFIG

PLAN = "plan.json"
NATS = "validation loss, nats per token"
SPEED = (
    "Time per token and memory are those of emulation on this machine: the arithmetic runs in fp32 on "
    "quantized operands. They say what an experiment costs here, not what hardware with these formats needs."
)
MORE_MEANINGS = {
    "slow-down": "median time per token of a training step, divided by that of the plain fp32 arm",
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


def _mean_curve(name: str, series: list[tuple[np.ndarray, np.ndarray]]) -> curves.Curve:
    """The mean over seeds, as far as all of them go."""
    length = min(len(steps) for steps, _ in series)
    return curves.Curve(
        name, series[0][0][:length], np.mean([values[:length] for _, values in series], axis=0)
    )


def pictures(directory: Path, comparison: Record, trained: Mapping[str, list[Run]]) -> Iterator[str]:
    """Draw and save every picture; fragments of the page."""
    columns = results.losses(comparison)
    seeds = max(len(records) for records in results.arms(comparison).values())
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    final = {
        name: {column.heading.replace("\n", " "): column.value(records) for column in columns}
        for name, records in results.arms(comparison).items()
    }
    drawn = curves.final_losses(final, f"Final validation loss{over}", NATS)
    yield write_picture(
        directory, "final_loss.png", drawn, "Final validation loss of every arm, by way of evaluation"
    )
    intervals = [(d, d["interval"]) for d in comparison["differences"] if d["interval"]["low"] is not None]
    if intervals:
        bars = [
            (f"{d['first']} - {d['second']}, {_view(d)}", i["mean"], i["low"], i["high"])
            for d, i in intervals
        ]
        drawn = curves.intervals(bars, "Paired differences", "difference of validation loss, nats per token")
        yield write_picture(
            directory, "differences.png", drawn, "Paired differences with their 95% intervals"
        )
    lines = [_mean_curve(name, [run.train_loss() for run in group]) for name, group in trained.items()]
    average = curves.span(max(len(line.steps) for line in lines))
    drawn = curves.loss_over_steps(lines, f"Training loss{over}", "nats per token", smoothing=average)
    yield write_picture(
        directory, "train_loss.png", drawn, f"Training loss, moving average over {average} steps"
    )
    measured = {name: [run.validation_loss() for run in group] for name, group in trained.items()}
    ways = dict.fromkeys(
        way for group in measured.values() for way in group[0] if not way.endswith("randomized")
    )
    for way in ways:
        lines = [
            _mean_curve(name, [seed[way] for seed in group])
            for name, group in measured.items()
            if all(way in seed and len(seed[way][0]) > 1 for seed in group)
        ]
        if lines:
            drawn = curves.loss_over_steps(lines, f"Validation loss, {way}{over}", "nats per token")
            name = f"validation_{way.replace(' ', '_').replace(':', '_').replace(',', '_')}.png"
            yield write_picture(directory, name, drawn, f"Validation loss during training: {way}")
    speed = next(column for column in results.speeds() if column.unit == "x")
    ratios = {name: speed.value(group) for name, group in results.arms(comparison).items() if name in trained}
    plain = next((name for name, ratio in ratios.items() if ratio == 1), None)
    if plain is not None:
        ratios = {name: ratio for name, ratio in ratios.items() if np.isfinite(ratio)}
        drawn = curves.slowdown(ratios, "Cost of emulation", plain)
        yield write_picture(directory, "slow_down.png", drawn, f"Time per token relative to {plain}")


def _view(difference: Record) -> str:
    return "full precision" if difference["view"] == "full" else f"{difference['cast']} {difference['view']}"


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
    parts = [html.heading(directory.name, 1), html.paragraph(lead, "lead")]
    parts += [html.warning(text) for text in warnings(comparison, trained)]
    parts += [
        html.heading("Results"),
        html.paragraph("Validation loss in nats per token (lower is better) and the cost of training."),
        html.table(*results.table(comparison, results.losses(comparison) + results.speeds()), (0, 1)),
        html.paragraph(SPEED),
    ]
    bits = results.losses(comparison, "bits_per_byte")
    if any(bits[0].read(record) is not None for record in comparison["arms"]):
        parts.append(
            html.details("the same in bits per byte", html.table(*results.table(comparison, bits), (0, 1)))
        )
    if comparison["differences"]:
        parts += [html.heading("Paired differences"), html.table(*results.differences(comparison), (0, 1, 3))]
        if seeds == 1:
            parts.append(
                html.paragraph(
                    "One seed gives no interval: these differences may be noise. --seeds 0 1 2 repeats every arm."
                )
            )
    parts += [html.heading("Pictures"), *pictures(directory, comparison, trained)]
    headings, rows = settings(directory)
    first = next(iter(trained.values()))[0]
    command = " \\\n    ".join(
        ["dither compare " + shlex.quote(str(directory / CONFIG)), *overrides(directory)]
    )
    every = tuple(range(len(headings)))
    parts += [
        html.heading("What differs between the arms"),
        html.table(headings, rows, every) if rows else html.paragraph("Nothing."),
        html.paragraph("Every other key is shared; each arm was trained for the same number of tokens.")
        if not any(row[0] in ("train.steps", "train.batch") for row in rows)
        else html.warning("The arms were not trained for the same number of tokens."),
        html.heading("How to reproduce it"),
        html.code(f"{command} \\\n    --out NEW_DIRECTORY"),
        html.heading("What it stood on"),
        html.table(("fact", "value"), facts(first.info), (0, 1)),
        html.details("configuration", html.code((directory / CONFIG).read_text(encoding="utf-8"))),
        html.heading("What the words mean"),
        html.terms((MEANINGS | MORE_MEANINGS).items()),
    ]
    return html.page(f"dither: {directory.name}", parts)
