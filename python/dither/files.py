"""Writing files so that a reader sees the old content or the new one, never a part: write aside, fsync,
rename."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dither.errors import UserError

_FULL = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "the disk quota is used up",
         errno.EFBIG: "the file exceeds the allowed size"}  # fmt: skip


@contextlib.contextmanager
def disk_errors(path: Path, out: str) -> Iterator[None]:
    """Turn a full disk into a UserError that names the file and ends with the way out.

    safetensors reports I/O errors as text, so its message is searched for the number."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if match := re.search(r"os error (\d+)", str(error)):
            number = int(match[1])
        if number not in _FULL:
            raise
        raise UserError(f"{path} could not be written: {_FULL[number]}. {out}") from error


def sync(path: Path) -> None:
    """fsync a file or a directory that was written by name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_place(path: Path) -> None:
    """Raise UserError where no file can be written, before the work that would fill it."""
    _make_aside(path).unlink()


def _make_aside(path: Path) -> Path:
    """An empty file beside `path`."""
    if path.exists() and not path.is_file():
        raise UserError(
            f"{path} is {'a folder' if path.is_dir() else 'no regular file'}: give the name of a file"
        )
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}-{threading.get_ident()}")
    try:
        aside.touch()
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return aside


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write to; on success it takes the place of `path`, on failure it is
    removed. Raises UserError where there is no file to be written."""
    aside = _make_aside(path)
    try:
        yield aside
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there. UserError where there can be none."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{path} is a file: give the name of a folder") from None
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise UserError(f"the folder {path} cannot be made: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """`value`, with None for NaN and infinity, for which JSON has no word; inside mappings and lists too."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Strict JSON: a NaN must have become null before (`finite`)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def locked(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file until it is closed, by this process or by its death; False where another has it.
    There are no locks on Windows: True."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def alone(path: Path, *, wait: bool = True) -> Iterator[None]:
    """One process or thread at a time is in the `with` block of a path. wait=False: UserError where another
    is.

    A lock file lies beside the path meanwhile; one that a killed process left holds nobody up.
    """
    lock = path.with_name(f".{path.name}.lock")
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        if not locked(handle, wait=wait):
            os.close(handle)
            raise UserError(f"{path} is in use by another process; wait for it or name another file")
        with contextlib.suppress(FileNotFoundError):
            if lock.stat().st_ino == os.fstat(handle).st_ino:
                break
        os.close(handle)  # whoever had it before has removed it
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):  # Windows keeps what is open
            lock.unlink(missing_ok=True)
        os.close(handle)
