"""Write a checkpoint piece by piece so that it can be killed at any moment and go on, and so that a
half-written one is never taken for a whole one.

Everything is written into OUT.part. A journal in it has one line for every tensor whose bytes have reached
the disk; the line follows the bytes (fdatasync, then the line, then fsync). When all are there, OUT.part (for
a single file: the file in it) takes the name OUT in one rename. A second start with the same source and the
same settings finds the journal and does what is left; with others it is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dither.checkpoints.layouts.base import Part, PlannedFile
from dither.checkpoints.summary import Observer, Row
from dither.errors import UserError
from dither.files import disk_errors, locked, sync, write_json

JOURNAL, LOCK, SUMMARY = "journal.jsonl", ".lock", "dither.json"
SYNC_BYTES = 1 << 24
"""Written bytes after which the journal is brought up to date: what a kill can cost."""

Convert = Callable[[str, Part], tuple[Iterable[Iterable[Any]], Row]]
"""From a source tensor's name and where it goes: its parts, each as pieces of bytes, and the row to note."""


class Job:
    """`with Job(...) as job`: `job.rows` holds what is done; `run` the rest, then `finish`.

    `folder` says whether `out` becomes a folder or a file. Raises UserError where `out` exists and `force` is
    not set, where it is not this package's to replace, where another process writes it, and where the disk is
    full.
    """

    def __init__(
        self, out: Path, folder: bool, plan: Sequence[PlannedFile], settings: dict[str, Any], force: bool
    ) -> None:
        self.out, self.folder, self.plan, self.force = out, folder, plan, force
        self.work = out.with_name(out.name + ".part")
        self.settings = json.loads(json.dumps(settings))
        self.rows: dict[str, Any] = {}
        self._pending: list[str] = []
        self._unsynced = 0
        self._file: tuple[str, int] | None = None
        self._useless = False
        check_free(out, folder, force)

    def __enter__(self) -> Job:
        with self._disk():
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.work.mkdir(exist_ok=True)
            self._lock = os.open(self.work / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        if not locked(self._lock):
            os.close(self._lock)
            raise UserError(f"{self.work} is being written by another process; wait for it")
        try:
            with self._disk():
                self._load()
                self._check_space()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk is told by the write that met it
            self._close_file()
        if self._useless:
            shutil.rmtree(self.work, ignore_errors=True)
        os.close(self._lock)

    def _disk(self) -> contextlib.AbstractContextManager[None]:
        return disk_errors(self.out, "Free some space, then give the same command to go on.")

    def _load(self) -> None:
        """Take over what an earlier start did, or begin anew."""
        path = self.work / JOURNAL
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        lines = [line for line in lines if line.endswith(b"\n")]  # the last may be cut off
        begun = json.loads(lines[0]) if lines else None
        if begun is not None and begun != self.settings and not self.force:
            raise UserError(
                f"{self.work} holds a part of another job ({_difference(begun, self.settings)}); remove it, "
                "name another --out, or start anew with --force"
            )
        if begun is None or begun != self.settings or not self._files_are_there():
            self._begin()
            return
        for line in lines[1:]:
            row = json.loads(line)
            self.rows[row["name"]] = row
        self._truncate_journal(b"".join(lines))

    def _truncate_journal(self, whole: bytes) -> None:
        with open(self.work / JOURNAL, "r+b") as journal:
            journal.truncate(len(whole))

    def _files_are_there(self) -> bool:
        return all(
            (self.work / f.name).is_file() and (self.work / f.name).stat().st_size == f.size
            for f in self.plan
        )

    def _begin(self) -> None:
        for path in self.work.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for file in self.plan:
            with open(self.work / file.name, "wb") as handle:
                handle.write(file.head)
                handle.truncate(file.size)
                handle.flush()
                os.fsync(handle.fileno())
        with open(self.work / JOURNAL, "wb") as journal:
            journal.write(json.dumps(self.settings).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        sync(self.work)

    def _check_space(self) -> None:
        done = set(self.rows)
        left = sum(
            entry.nbytes for file in self.plan for name, part in file.parts.items() if name not in done
            for entry, _ in part
        )  # fmt: skip
        free = shutil.disk_usage(self.work).free
        if left > free:
            raise UserError(
                f"{self.out} needs {left:,} more bytes and the disk has {free:,} free; free some space, then "
                "give the same command to go on"
            )

    def run(self, rows: Mapping[str, Row], convert: Convert, observer: Observer) -> None:
        """Write every tensor that is not there yet, and note its row."""
        left = [(file, name) for file in self.plan for name in file.parts if name not in self.rows]
        observer.start(len(left), sum(rows[name].before for _, name in left))
        try:
            for file, name in left:
                try:
                    parts, row = convert(name, file.parts[name])
                except UserError:
                    self._useless = True  # the same command would fail again
                    raise
                self.write(file, name, parts, asdict(row))
                observer.tensor(row)
        finally:
            observer.finish()

    def write(
        self, file: PlannedFile, name: str, parts: Iterable[Iterable[Any]], row: dict[str, Any]
    ) -> None:
        """Write the parts of one source tensor, each as pieces of bytes in order, and note its row."""
        with self._disk():
            handle = self._open(file.name)
            for (entry, at), pieces in zip(file.parts[name], parts, strict=True):
                end = at + entry.nbytes
                for piece in pieces:
                    at += _pwrite(handle, piece, at)
                assert at == end, f"{entry.name}: {at} is not {end}"
                self._unsynced += entry.nbytes
            self._pending.append(json.dumps(row | {"name": name}))
            if self._unsynced >= SYNC_BYTES:
                self._sync()
        self.rows[name] = row | {"name": name}

    def _open(self, name: str) -> int:
        if self._file is None or self._file[0] != name:
            self._close_file()
            self._file = (name, os.open(self.work / name, os.O_WRONLY))
        return self._file[1]

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file[1])
        if self._pending:
            with open(self.work / JOURNAL, "ab") as journal:
                journal.write("".join(line + "\n" for line in self._pending).encode())
                journal.flush()
                os.fsync(journal.fileno())
        self._pending, self._unsynced = [], 0

    def _close_file(self) -> None:
        if self._file is None:
            return
        try:
            self._sync()
        finally:
            os.close(self._file[1])
            self._file = None

    def finish(self, documents: dict[Path, Any], copies: Iterable[tuple[Path, Path]]) -> None:
        """Add JSON documents and copies of other files (source, relative target), then give the whole its
        name."""
        with self._disk():
            self._close_file()
            for target, content in documents.items():
                write_json(self.work / target, content)
            for origin, target in copies:
                (self.work / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(origin, self.work / target)
                sync(self.work / target)
            if not self.folder:
                os.replace(self.work / self.plan[0].name, self.out)
                shutil.rmtree(self.work)
            else:
                (self.work / JOURNAL).unlink()
                (self.work / LOCK).unlink()
                self._replace_folder()
            sync(self.out.parent)

    def _replace_folder(self) -> None:
        if not self.out.exists():
            os.rename(self.work, self.out)
            return
        old = self.out.with_name(f"{self.out.name}.old-{os.getpid()}")
        os.rename(self.out, old)
        os.rename(self.work, self.out)
        shutil.rmtree(old)


def check_free(out: Path, folder: bool, force: bool) -> None:
    """Raise UserError where `out` cannot become the output."""
    if not out.exists():
        if out.is_symlink():
            raise UserError(f"{out} is a link that leads nowhere; remove it or name another --out")
        return
    if out.is_dir() != folder:
        what = "a folder" if out.is_dir() else "a file"
        raise UserError(
            f"{out} is {what}, the output is {'a folder' if folder else 'a file'}; name another --out"
        )
    if not force:
        raise UserError(f"{out} exists; name another --out, or replace it with --force")
    if folder and any(out.iterdir()) and not (out / SUMMARY).is_file():
        raise UserError(
            f"{out} was not written by dither (it has no {SUMMARY}); remove it or name another --out"
        )


def _pwrite(handle: int, piece: Any, at: int) -> int:
    if isinstance(piece, np.ndarray):
        piece = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
    view = memoryview(piece).cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(handle, view[done : done + (1 << 30)], at + done)
    return done


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first setting that differs."""
    for key in new:
        if old.get(key) != new[key]:
            if isinstance(new[key], str | None) and isinstance(old.get(key), str | None):
                return f"{key} was {old.get(key)} and is now {new[key]}"
            return f"another {key}"
    return "other settings"
