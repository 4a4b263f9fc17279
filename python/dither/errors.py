"""The errors a user can cause, and how they read.

The command line prints the message of these errors without a traceback and exits with code 2; every other
error is a defect and keeps its traceback. A message says what is wrong, where, and what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class UserError(ValueError):
    """The input (a name, a file, a configuration, a folder) cannot be used; the message says what to do."""


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message holds the install line."""


def suggest(name: object, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the nearest of `known`, or "" when nothing is near."""
    small = {k.lower(): k for k in known}
    near = difflib.get_close_matches(str(name).lower(), list(small), n=1, cutoff=0.6)
    return f" (did you mean {small[near[0]]!r}?)" if near else ""


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`; where it is missing, raise MissingExtraError with the install line."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{module} is not installed; install it with:  pip install 'dither[{extra}]'", name=error.name
        ) from error
