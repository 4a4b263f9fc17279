"""Which studies there are: every file of `dither.studies.papers`."""

from __future__ import annotations

import importlib
import pkgutil

from dither.errors import UserError, require, suggest
from dither.studies import papers
from dither.studies.study import Study

require("matplotlib", "plot")  # studies draw, and this is what `import dither.studies` meets first


def names() -> tuple[str, ...]:
    """The names of all studies, sorted. Nothing is imported."""
    return tuple(sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(papers.__path__)))


def get(name: str) -> Study:
    """The study of that name.

    Raises UserError where there is none, MissingExtraError where it trains models and torch is missing.
    """
    if name not in names():
        raise UserError(
            f"there is no study {name!r}{suggest(name, names())}; `dither study --list` names them all"
        )
    try:
        study = importlib.import_module(f"dither.studies.papers.{name.replace('-', '_')}").STUDY
    except ImportError as error:  # a study of published tables needs no torch, one that trains does
        if error.name == "torch":
            require("torch", "train")  # says what to install
        raise
    assert study.name == name, f"{study.name} stands in the file of {name}"
    return study
