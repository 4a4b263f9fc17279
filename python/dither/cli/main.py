"""Dispatch `dither COMMAND ...` and turn what a user can cause into one clear message.

Exit codes: 0 done, 1 done and the answer is no (`conformance`: violations,
`sweep`: runs that failed), 2 the input cannot be used (or an
extra is missing), 130 interrupted. A command module is imported only when it is called, so that `dither
formats` starts without torch, and has one function `main(arguments) -> int`.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from dither.errors import MissingExtraError, UserError, require, suggest

# name: (what it does, what must be installed, the extra that brings it)
COMMANDS = {
    "train": ("train one model from a TOML configuration", "torch", "train"),
    "compare": ("train the arms of one TOML file from the same start, and report them", "torch", "train"),
    "sweep": ("train every run of a grid or list, on any number of cores and machines", "torch", "train"),
    "report": ("write the report of a run, a comparison or a table of scores", "numpy", "cli"),
    "quantize": ("write a checkpoint in a low-precision format, or turn it back", "numpy", "cli"),
    "inspect": ("what formats would do to a checkpoint, and the best mix under a budget", "numpy", "cli"),
    "score": (
        "score examples from logits or runs, with the reliability of every ranking",
        "pyarrow",
        "scores",
    ),
    "select": ("choose examples by a score and write their ids", "pyarrow", "scores"),
    "fit": ("fit a scaling law to runs or a table, with intervals and checks", "numpy", "cli"),
    "plan": ("what a law says to do with a budget of compute, memory or tokens", "numpy", "cli"),
    "study": ("run studies of papers small: claim against measurement", "matplotlib", "laws"),
    "formats": ("show number formats and presets; with a name, its values", "numpy", "cli"),
    "conformance": ("test someone's quantizer against the standards, or write the vectors", "numpy", "cli"),
}

# Files and folders the user named; any other OSError is a defect or names its own cause.
_FILE_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
_GO_ON = "give the same command to go on (dither train: with --resume and --out)"
_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file exceeds the allowed size",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (text, _, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: dither COMMAND ...",
            "",
            "What low precision does to a training run, and how to train so that it does little harm.",
            "",
            "commands:",
            *lines,
            "",
            "`dither COMMAND --help` lists the options of a command; `dither --version` prints the versions.",
        ]
    )


def versions() -> str:
    """The package's version and those of the libraries a result depends on, one line."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("dither", "numpy", "torch"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    found.append(f"python {sys.version.split()[0]}")
    return ", ".join(found)


def _fail(message: object) -> int:
    print(f"dither: {message}", file=sys.stderr)
    return 2


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command; errors pass through (`main` turns them into messages)."""
    require("tyro", "cli")
    require("rich", "cli")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(versions())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(
            f"unknown command {name!r}{suggest(name, COMMANDS)}; `dither --help` lists the commands"
        )
    _, module, extra = COMMANDS[name]
    require(module, extra)
    return importlib.import_module(f"dither.cli.{name}").main(rest)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `dither` command. Returns the exit code."""
    # OpenMP threads that wait by spinning take the cores from each other as soon as anything else runs on the
    # machine: a step of the quickstart then took 20 times as long. It is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except (UserError, MissingExtraError) as error:
        return _fail(error)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _FILE_ERRORS as error:
        return _fail(f"{error.strerror or error}: {error.filename}" if error.filename else error)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.ENAMETOOLONG):
            return _fail(f"{error.strerror}: {error.filename}; name another directory or file")
        if error.errno not in _DISK_ERRORS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{_DISK_ERRORS[error.errno]}{where}; free some space, then {_GO_ON}")
    except KeyboardInterrupt:
        print(f"dither: interrupted; what was saved is kept: {_GO_ON}", file=sys.stderr)
        return 130
