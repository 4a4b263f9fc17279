"""The pictures of a comparison, each saved as PNG and handed out as a fragment of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from dither.report import curves, results
from dither.report.load import Run
from dither.report.results import Record
from dither.report.run import write_picture

Series = tuple[np.ndarray, np.ndarray]


def pictures(directory: Path, comparison: Record, trained: Mapping[str, list[Run]]) -> Iterator[str]:
    """Final losses, paired differences, curves of training and validation, cost.

    `trained` holds the runs of every arm that was trained, one a seed.
    """
    seeds = len(comparison["initial_states"])
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    yield _final(directory, comparison, over)
    yield from _differences(directory, comparison)
    yield from _training(directory, trained, over)
    yield from _validation(directory, trained, over)
    yield from _cost(directory, comparison, trained)


def _final(directory: Path, comparison: Record, over: str) -> str:
    columns = results.losses(comparison)
    losses = {
        name: {column.heading.replace("\n", " "): column.value(records) for column in columns}
        for name, records in results.arms(comparison).items()
    }
    drawn = curves.final_losses(losses, f"Final validation loss{over}", "nats per token")
    return write_picture(directory, "final_loss.png", drawn, "Final loss of every arm, by way of evaluation")


def _differences(directory: Path, comparison: Record) -> Iterator[str]:
    bars = []
    for item in comparison["differences"]:
        found = item["interval"]
        if found["low"] is not None:
            name = f"{item['first']} - {item['second']}, {results.view(item)}"
            bars.append((name, found["mean"], found["low"], found["high"]))
            confidence = found["confidence"]
    if bars:
        drawn = curves.intervals(bars, "Paired differences", "difference of validation loss, nats per token")
        caption = f"Paired differences with their {confidence:.0%} intervals; negative favours the first arm"
        yield write_picture(directory, "differences.png", drawn, caption)


def _mean(name: str, look: int, series: list[Series]) -> curves.Curve:
    """The mean over seeds, as far as all of them go."""
    length = min(len(steps) for steps, _ in series)
    values = np.mean([values[:length] for _, values in series], axis=0)
    return curves.Curve(name, series[0][0][:length], values, look)


def _training(directory: Path, trained: Mapping[str, list[Run]], over: str) -> Iterator[str]:
    """The training loss, and its distance from the first arm's: the arms saw the same batches, whose noise
    drops out of it."""
    lines = [
        _mean(name, look, [run.train_loss() for run in group])
        for look, (name, group) in enumerate(trained.items())
    ]
    span = curves.span(max(len(line.steps) for line in lines))
    average = f", mean over {span} neighbouring steps" if span > 1 else ""
    drawn = curves.loss_over_steps(lines, f"Training loss{over}", "nats per token", smoothing=span)
    yield write_picture(directory, "train_loss.png", drawn, f"Training loss of every arm{average}")
    if len(lines) > 1:
        first = lines[0]
        gaps = [
            replace(line, steps=line.steps[: len(first.steps)], values=_minus(line.values, first.values))
            for line in lines
        ]
        title = f"Training loss minus that of {first.name}{over}"
        drawn = curves.loss_over_steps(gaps, title, "difference, nats per token", smoothing=span)
        yield write_picture(directory, "train_gap.png", drawn, f"{title}, on the same batches{average}")


def _minus(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The difference as far as both go."""
    length = min(len(a), len(b))
    return a[:length] - b[:length]


def _validation(directory: Path, trained: Mapping[str, list[Run]], over: str) -> Iterator[str]:
    """One picture for each way of evaluation but the randomized casts, where it was measured on the way."""
    measured = {name: [run.validation_loss() for run in group] for name, group in trained.items()}
    ways = dict.fromkeys(way for group in measured.values() for seed in group for way in seed)
    for way in ways:
        lines = [
            _mean(name, look, [seed[way] for seed in group])
            for look, (name, group) in enumerate(measured.items())
            if all(way in seed and len(seed[way][0]) > 1 for seed in group)
        ]
        if lines and not way.endswith("randomized"):
            drawn = curves.loss_over_steps(lines, f"Validation loss, {way}{over}", "nats per token")
            file = "".join(c if c.isalnum() else "_" for c in f"validation {way}") + ".png"
            yield write_picture(directory, file, drawn, f"Validation loss during training: {way}")


def _cost(directory: Path, comparison: Record, trained: Mapping[str, list[Run]]) -> Iterator[str]:
    ratios = {
        name: results.SLOW_DOWN.value(records)
        for name, records in results.arms(comparison).items()
        if name in trained
    }
    plain = next((name for name, ratio in ratios.items() if ratio == 1), None)
    if plain is not None:
        ratios = {name: ratio for name, ratio in ratios.items() if np.isfinite(ratio)}
        drawn = curves.slowdown(ratios, "Cost of emulation", plain)
        yield write_picture(directory, "slow_down.png", drawn, f"Time per token relative to {plain}")
