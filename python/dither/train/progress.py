"""What a run says while it runs: a live line on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """The interface, and the silent version of it. A loop calls `start`, then `step` and `evaluated`, then
    `finish`."""

    def say(self, text: str) -> None:
        """One line of text."""

    def start(self, name: str, steps: int, done: int) -> None:
        """A run of `steps` steps begins, of which `done` were made before."""

    def step(self, row: Mapping[str, Any]) -> None:
        """A training row was recorded."""

    def evaluated(self, row: Mapping[str, Any]) -> None:
        """An evaluation row was recorded."""

    def finish(self) -> None:
        """The run ended, by itself or by an error."""


def describe_evaluation(row: Mapping[str, Any]) -> str:
    what = {"full": "full precision", "recipe": "own recipe"}.get(row["view"])
    if what is None:
        how = (
            "rounded to nearest" if row["rounding"] == "nearest_even" else f"randomized, {row['draws']} draws"
        )
        what = f"{row['cast']} {how}"
    bits = f", {row['bits_per_byte']:.4f} bits/byte" if row.get("bits_per_byte") is not None else ""
    return f"step {row['step']}: validation {row['loss']:.4f} nats/token{bits} ({what})"


class PlainProgress(Progress):
    """A line every `seconds` seconds, for logs and pipes."""

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self.name, self.steps, self.last = "", 0, 0.0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def start(self, name: str, steps: int, done: int) -> None:
        self.name, self.steps, self.last = name, steps, 0.0
        self.begun, self.done = time.monotonic(), done

    def step(self, row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self.last < self.seconds and row["step"] < self.steps:
            return
        self.last = now
        left = (self.steps - row["step"]) * (now - self.begun) / max(1, row["step"] - self.done)
        self.say(
            f"{self.name}: step {row['step']}/{self.steps} loss {row['loss']:.4f} lr {row['lr']:.2e} "
            f"{row['tokens_per_s']:,.0f} tokens/s, {left:.0f} s left"
        )

    def evaluated(self, row: Mapping[str, Any]) -> None:
        self.say(f"{self.name}: {describe_evaluation(row)}")


class LiveProgress(Progress):
    """A bar with loss, tokens per second and the time left (rich)."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)
        self.bar: Any = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def start(self, name: str, steps: int, done: int) -> None:
        from rich import progress

        self.name = name
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False), progress.BarColumn(),
            progress.MofNCompleteColumn(), progress.TextColumn("loss {task.fields[loss]:.4f}"),
            progress.TextColumn("{task.fields[rate]:,.0f} tokens/s"), progress.TimeRemainingColumn(),
            console=self.console, transient=True,
        )  # fmt: skip
        self.task = self.bar.add_task(name, total=steps, completed=done, loss=float("nan"), rate=0.0)
        self.bar.start()

    def step(self, row: Mapping[str, Any]) -> None:
        self.bar.update(self.task, completed=row["step"], loss=row["loss"], rate=row["tokens_per_s"])

    def evaluated(self, row: Mapping[str, Any]) -> None:
        self.say(f"{self.name}: {describe_evaluation(row)}")

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def make_progress() -> Progress:
    """Live where standard output is a terminal and rich is installed, plain lines otherwise."""
    if sys.stdout.isatty():
        try:
            return LiveProgress()
        except ModuleNotFoundError:
            pass
    return PlainProgress()
