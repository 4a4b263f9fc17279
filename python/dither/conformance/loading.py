"""Finding an adapter: a module of dither's own, a file, or anything importable."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from dither.conformance.adapters import ADAPTERS
from dither.errors import UserError, suggest


def load(name: str) -> ModuleType:
    """The adapter of that name: one of dither's own, a path to a .py file, or an importable module.

    Raises UserError where there is none, it cannot be imported, or it has neither `cast` nor `blocks`.
    """
    try:
        if name in ADAPTERS:
            module = importlib.import_module(f"dither.conformance.adapters.{name}")
        elif name.endswith(".py"):
            module = _from_file(Path(name))
        else:
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if missing.split(".")[0] == name.split(".")[0] and name not in ADAPTERS:
            known = ", ".join(ADAPTERS)
            raise UserError(
                f"no module {name!r}{suggest(name, ADAPTERS)}: give an importable module, a file ending in "
                f".py, or one of dither's adapters ({known})"
            ) from error
        raise UserError(f"the adapter {name!r} needs {missing}, which is not installed") from error
    except SystemExit:
        raise UserError(
            f"{name} ends the process where it is imported: put what it runs under if __name__ == '__main__'"
        ) from None
    if not any(callable(getattr(module, f, None)) for f in ("cast", "blocks")):
        raise UserError(
            f"{name} has neither cast(x, format) nor blocks(x, preset): docs/conformance.md shows an adapter"
        )
    return module


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise UserError(f"{path} cannot be imported: {error}") from error
    return module
