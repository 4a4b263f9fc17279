"""One run of a sweep in a process of its own: what dither.train.sweep starts.

The configuration (TOML) comes on standard input, after its length; the input then stays open for as long as
the sweep lives. Where it ends the sweep was killed, and this process ends too: a sweep that is started again
finds no run of the old one still going. Exit codes: 0 done, 1 failed (the claim says why), 75 somebody else
works on it (EX_TEMPFAIL of sysexits.h).
"""

from __future__ import annotations

import os
import sys
import threading
import tomllib
from pathlib import Path

from dither.errors import MissingExtraError, UserError
from dither.train.claims import FAILED, RELEASED, Claims, beating
from dither.train.config import from_dict
from dither.train.loop import train
from dither.train.progress import PlainProgress
from dither.train.rundir import read_summary

TAKEN = 75


def die_with(stream: int) -> None:
    """End this process when `stream` does."""

    def watch() -> None:
        while os.read(stream, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: Path, key: str) -> int:
    length = int(sys.stdin.buffer.raw.readline())  # type: ignore[attr-defined]  # unbuffered: no more than that
    text = b""
    while len(text) < length:
        text += os.read(0, length - len(text))
    die_with(0)
    claims = Claims(folder)
    claim = claims.take(key)
    if claim is None:
        return TAKEN
    stop = beating(claims, key, claim)
    run = folder / key
    try:
        if read_summary(run) is None:  # else somebody finished it since the sweep looked
            config = from_dict(tomllib.loads(text.decode()), f"run {key}")
            train(config, run, resume=run.exists(), progress=PlainProgress())
    except (UserError, MissingExtraError, OSError) as error:
        claims.close(key, claim, FAILED, str(error))
        print(error, file=sys.stderr)
        return 1
    finally:
        stop.set()
    claims.close(key, claim, RELEASED)
    return 0


def run() -> None:
    """The program: its arguments are the folder and the key."""
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
