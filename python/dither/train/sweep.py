"""Train the runs of a sweep: one process a run, `workers` at a time, any number of sweeps on one folder.

    OUT/<key>/                 a run directory; the key is the hash of its configuration (dither.train.grid)
    OUT/.sweep/claims, logs    who works on what (dither.train.claims), and what each run printed

There is no plan on disk and no coordinator: whoever is given the file knows the runs, `summary.json` says
which are done, and claims divide the rest. A run that failed is not tried again by the sweeps that were
there; one that is started later tries it again, from its last checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dither.errors import UserError
from dither.train.claims import FAILED, FOLDER, RUNNING, Claims
from dither.train.grid import Entry
from dither.train.progress import Progress, make_progress
from dither.train.records import last_row
from dither.train.rundir import read_summary
from dither.train.sweep_worker import TAKEN
from dither.train.tokens import open_tokens
from dither.train.toml import dump_toml, to_dict

POLL = 0.2
DONE, STOPPED, WAITING = "done", "stopped", "waiting"


@dataclass(frozen=True)
class RunState:
    """`state`: done, running, failed, stopped (begun, and nobody works on it) or waiting; `step` of `steps`;
    `note`: who works on it, or why it failed. `loss`: the final validation loss in nats per token."""

    entry: Entry
    state: str
    step: int
    note: str = ""
    loss: float | None = None


def status(entries: Sequence[Entry], out: str | os.PathLike[str]) -> list[RunState]:
    """What is known of every run, from the files alone. Nothing is written."""
    folder = Path(out)
    claims = Claims(folder)
    return [_state(entry, folder, claims) for entry in entries]


def _state(entry: Entry, folder: Path, claims: Claims) -> RunState:
    run = folder / entry.key
    if (summary := read_summary(run)) is not None:
        return RunState(entry, DONE, summary["steps"], loss=summary["final"][0]["loss"])
    claim, row = claims.newest(entry.key), last_row(run)
    step = row["step"] if row else 0
    if claim is not None and claim.state == FAILED:
        return RunState(entry, FAILED, step, claim.error)
    if claim is not None and not claims.abandoned(entry.key, claim):
        return RunState(entry, RUNNING, step, f"process {claim.owner.pid} on {claim.owner.host}")
    return RunState(entry, STOPPED if row else WAITING, step)


def sweep(
    entries: Sequence[Entry],
    out: str | os.PathLike[str],
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[RunState]:
    """Bring all runs to their end and return their states (done or failed), in the order of `entries`.

    `workers`: processes at a time, by default one a core. Runs that other sweeps work on are waited for, and
    taken over where they die. Raises UserError where the data cannot be used or `out` cannot be written;
    what goes wrong in a run is its state."""
    folder, progress = Path(out), progress or make_progress()
    workers = _cores() if workers is None else workers
    if workers < 1:
        raise UserError(f"workers must be at least 1, not {workers}")
    if folder.is_file():
        raise UserError(f"{folder} is a file; name a directory for the runs")
    for data in dict.fromkeys(entry.config.data for entry in entries):
        open_tokens(data, progress.say)  # written to the cache once, and what is wrong is said at once
    (folder / FOLDER / "logs").mkdir(parents=True, exist_ok=True)
    return _Sweep(entries, folder, workers, progress).go()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


class _Sweep:
    def __init__(self, entries: Sequence[Entry], folder: Path, workers: int, progress: Progress) -> None:
        self.entries, self.folder, self.workers, self.progress = entries, folder, workers, progress
        self.claims = Claims(folder)
        self.ended: dict[str, RunState] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.resting: dict[str, float] = {}  # runs of other sweeps: when to look at them again
        states = [_state(entry, folder, self.claims) for entry in entries]
        # failures of before are tried again, those of other sweeps from now on are not
        self.old_failures = {
            s.entry.key: claim.generation
            for s in states
            if s.state == FAILED and (claim := self.claims.newest(s.entry.key))
        }
        self.begun = time.monotonic()
        self.before = sum(map(_cost_done, states))

    def go(self) -> list[RunState]:
        try:
            while len(self.ended) < len(self.entries):
                self._collect()
                self._start()
                if len(self.ended) < len(self.entries):
                    time.sleep(POLL)
        finally:  # interrupted: the runs go on from their checkpoints another time
            for process in self.processes.values():
                process.kill()
                process.wait()
        return [self.ended[entry.key] for entry in self.entries]

    def _collect(self) -> None:
        for key, process in list(self.processes.items()):
            if (code := process.poll()) is None:
                continue
            assert process.stdin is not None
            process.stdin.close()
            del self.processes[key]
            if code == TAKEN:
                continue
            claim = self.claims.newest(key)
            if code != 0 and claim is not None and claim.state == RUNNING and claim.owner.pid == process.pid:
                self.claims.close(key, claim, FAILED, self._death(key, code))
            elif code != 0 and claim is None:  # it died before it could claim
                entry = next(entry for entry in self.entries if entry.key == key)
                self._end(RunState(entry, FAILED, 0, self._death(key, code)))
        now = time.monotonic()
        for entry in self.entries:
            if entry.key in self.ended or entry.key in self.processes:
                continue
            if now < self.resting.get(entry.key, 0.0):
                continue
            state = _state(entry, self.folder, self.claims)
            claim = self.claims.newest(entry.key)
            old = claim is not None and self.old_failures.get(entry.key) == claim.generation
            if state.state == DONE or (state.state == FAILED and not old):
                self._end(state)
            elif state.state == RUNNING:
                self.resting[entry.key] = now + 1.0

    def _start(self) -> None:
        now = time.monotonic()
        for entry in self.entries:
            if len(self.processes) >= self.workers:
                return
            known = entry.key in self.ended or entry.key in self.processes
            if known or now < self.resting.get(entry.key, 0.0):
                continue
            self.processes[entry.key] = self._spawn(entry)

    def _spawn(self, entry: Entry) -> subprocess.Popen[bytes]:
        threads = str(entry.config.train.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
        log = self.folder / FOLDER / "logs" / f"{entry.key}.log"
        # not `-m`: that puts the working directory, and any random.py in it, before the standard library
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; from dither.train import sweep_worker as w; w.run()"
        )
        command = [sys.executable, "-c", program, str(self.folder), entry.key]
        with log.open("ab") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, env=environment, bufsize=0
            )
        assert process.stdin is not None
        text = dump_toml(to_dict(entry.config)).encode()
        try:
            process.stdin.write(b"%d\n" % len(text) + text)
        except BrokenPipeError:
            pass  # it died at once; its exit code and log say why
        return process

    def _death(self, key: str, code: int) -> str:
        log = self.folder / FOLDER / "logs" / f"{key}.log"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        lines = log.read_text(errors="replace").strip().splitlines()
        return f"its process {how}; the last line of {log}: {lines[-1] if lines else 'none'}"

    def _end(self, state: RunState) -> None:
        self.ended[state.entry.key] = state
        result = f"validation {state.loss:.4f}" if state.loss is not None else f"{state.state}: {state.note}"
        self.progress.say(
            f"{len(self.ended)}/{len(self.entries)} {state.entry.key} ({state.entry.label}): {result}"
            f"{self._left()}"
        )

    def _left(self) -> str:
        """The time left, from the work done since the start by all sweeps on the folder."""
        states = [
            self.ended.get(entry.key) or _state(entry, self.folder, self.claims) for entry in self.entries
        ]
        left = sum(s.entry.cost for s in states if s.entry.key not in self.ended)
        left -= sum(_cost_done(s) for s in states if s.entry.key not in self.ended)
        made = sum(map(_cost_done, states)) - self.before
        if not left or made <= 0:
            return ""
        return f", about {duration((time.monotonic() - self.begun) * left / made)} left"


def _cost_done(state: RunState) -> float:
    return state.entry.cost * state.step / max(1, state.entry.config.train.steps)


def duration(seconds: float) -> str:
    """As "45 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def counts(states: Sequence[RunState]) -> dict[str, int]:
    """How many runs are in each state, those that occur."""
    found: dict[str, int] = {}
    for state in states:
        found[state.state] = found.get(state.state, 0) + 1
    return found
