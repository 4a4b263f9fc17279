"""What `dither quantize` and `dither inspect` say while they work: a bar on a terminal, plain lines
elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from dither.checkpoints.summary import Observer, Row


class PlainBar(Observer):
    """A line every `seconds` seconds, on standard error, so that the table alone goes into a pipe."""

    def __init__(self, verb: str, seconds: float = 5.0) -> None:
        self.verb, self.seconds = verb, seconds

    def start(self, tensors: int, nbytes: int) -> None:
        self.tensors, self.left, self.done = tensors, nbytes, 0
        self.begun = self.last = time.monotonic()

    def tensor(self, row: Row) -> None:
        self.done += 1
        self.left -= row.before
        now = time.monotonic()
        if now - self.last >= self.seconds:
            self.last = now
            self._say(f"{self.done}/{self.tensors} tensors, {self.left / 1e6:,.0f} MB left")

    def finish(self) -> None:
        self._say(f"{self.done}/{self.tensors} tensors in {time.monotonic() - self.begun:.1f} s")

    def _say(self, text: str) -> None:
        print(f"{self.verb}: {text}", file=sys.stderr, flush=True)


class LiveBar(Observer):
    """A bar over the bytes of the source, with the tensor at hand and the time left."""

    def __init__(self, verb: str) -> None:
        self.bar = Progress(
            TextColumn(verb), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[name]}", markup=False), console=Console(stderr=True), transient=True,
        )  # fmt: skip

    def start(self, tensors: int, nbytes: int) -> None:
        self.task = self.bar.add_task("", total=nbytes, name="")
        self.bar.start()

    def tensor(self, row: Row) -> None:
        self.bar.update(self.task, advance=row.before, name=row.name)

    def finish(self) -> None:
        self.bar.stop()


def make_bar(verb: str) -> Observer:
    return LiveBar(verb) if sys.stderr.isatty() else PlainBar(verb)
