"""Who works on a run of a sweep: claims that processes on one or several machines take, each at most once.

    FOLDER/.sweep/claims/<key>.<generation>    {"host", "boot", "pid", "born", "state", "error"}

A claim is taken by creating the next generation's file with O_EXCL, which is atomic on local disks and NFS
alike, and complete at once: it is written aside and hard-linked into place. Nothing is deleted or renamed, so
of two that find the same claim dead only one gets the next generation, and the slow one can not remove the
claim of the quick one.

On the same machine, not restarted since, and in the same container, a claim is dead when its process is.
Otherwise only the signs of life are seen: the owner touches the file every BEAT seconds, and a claim whose
time has not changed for SILENCE seconds, as watched by this process's own clock, is dead. (Locks of the
system would say it at once, but file systems that machines share do not all carry them.)
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from dither.files import sync, write_json

FOLDER = ".sweep"
BEAT, SILENCE = 10.0, 120.0
RUNNING, FAILED, RELEASED = "running", "failed", "released"


@dataclass(frozen=True)
class Owner:
    """A process: `born` distinguishes it from a later one with its number, `boot` says which machine's which
    start and which container counts the numbers. Both are empty where the system does not tell."""

    host: str
    boot: str
    pid: int
    born: str

    @staticmethod
    def of(pid: int) -> Owner:
        return Owner(socket.gethostname(), _boot(), pid, _born(pid))

    def dead(self) -> bool | None:
        """Whether the process has ended; None where this machine cannot say."""
        if (self.host, self.boot) != (socket.gethostname(), _boot()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it lives, and belongs to somebody else
        return self.born != _born(self.pid)


@dataclass(frozen=True)
class Claim:
    generation: int
    owner: Owner
    state: str = RUNNING
    error: str = ""


class Claims:
    """The claims of the runs of one sweep folder, as this process sees them."""

    def __init__(self, folder: Path, silence: float = SILENCE, clock: Callable[[], float] = time.monotonic):
        self.path = folder / FOLDER / "claims"
        self._silence, self._clock = silence, clock
        self._seen: dict[Path, tuple[int, float]] = {}  # claim: its time, and when that was first seen

    def newest(self, key: str) -> Claim | None:
        numbers = [int(p.suffix[1:]) for p in self.path.glob(f"{key}.*") if p.suffix[1:].isdecimal()]
        if not numbers:
            return None
        content = json.loads(self._file(key, max(numbers)).read_text())
        state, error = content.pop("state"), content.pop("error")
        return Claim(max(numbers), Owner(**content), state, error)

    def abandoned(self, key: str, claim: Claim) -> bool:
        """Whether nobody works on it: its owner gave it back, failed or is dead."""
        if claim.state != RUNNING:
            return True
        dead = claim.owner.dead()
        if dead is not None:
            return dead
        path = self._file(key, claim.generation)
        beat, now = path.stat().st_mtime_ns, self._clock()
        seen, since = self._seen.get(path, (None, now))
        if seen != beat:
            since = now
        self._seen[path] = (beat, since)
        return now - since > self._silence

    def take(self, key: str) -> Claim | None:
        """Claim a run for this process; None where somebody works on it or was quicker."""
        last = self.newest(key)
        if last is not None and not self.abandoned(key, last):
            return None
        claim = Claim(last.generation + 1 if last else 1, Owner.of(os.getpid()))
        self.path.mkdir(parents=True, exist_ok=True)
        file = self._file(key, claim.generation)
        aside = self.path / f".{key}.{socket.gethostname()}.{os.getpid()}"
        aside.write_text(json.dumps(_content(claim)))
        try:
            sync(aside)
            os.link(aside, file)  # fails where it exists, and the file is never seen half written
        except FileExistsError:
            return None
        finally:
            aside.unlink()
        return claim

    def beat(self, key: str, claim: Claim) -> None:
        """A sign of life."""
        os.utime(self._file(key, claim.generation))

    def close(self, key: str, claim: Claim, state: str, error: str = "") -> None:
        """The owner, or who started it and saw it end, says how it ended."""
        write_json(
            self._file(key, claim.generation),
            _content(Claim(claim.generation, claim.owner, state, error)),
        )

    def _file(self, key: str, generation: int) -> Path:
        return self.path / f"{key}.{generation}"


def beating(claims: Claims, key: str, claim: Claim) -> threading.Event:
    """Touch the claim from a thread until the event that is returned is set or the process ends."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT):
            try:
                claims.beat(key, claim)
            except OSError:
                pass  # a shared disk that is away for a while; the next sign may arrive

    threading.Thread(target=beat, daemon=True).start()
    return stop


def _content(claim: Claim) -> dict[str, object]:
    return {**asdict(claim.owner), "state": claim.state, "error": claim.error}


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Start of the process in ticks since boot (proc(5), field 22; the name before may hold spaces)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]  # a zombie has ended, whoever has not asked for it yet
