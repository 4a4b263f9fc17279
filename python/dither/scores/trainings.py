"""Trainings on chosen examples, each made once and kept in a file of lines."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.files import alone
from dither.scores.borrowed import Ints, is_torch, to_numpy

Train = Callable[[Ints, int], float]
PART = 1 << 28
"""Bytes of an array that are looked at."""


def code_of(train: Any) -> str:
    """A hash of what a function does, as far as its code shows: byte code, constants and defaults, and the
    numbers, texts, arrays (numpy, dense torch) and functions that it encloses or its module names. What is
    in a list, a dict or an object, and what it reads elsewhere, is not seen; of an array beyond 256 MiB so
    many rows are, spread evenly."""
    return hashlib.sha256(_told(train, {}, set()).encode()).hexdigest()[:16]


def _told(x: Any, names: Mapping[str, Any], seen: set[int]) -> str:
    """names: globals of the function that is looked at. seen: functions that were told."""
    if _is_plain(x):
        return repr(x)
    if _is_array(x):
        return _of_array(x)
    if isinstance(x, tuple):
        return f"({', '.join(_told(i, names, seen) for i in x)})"
    if isinstance(x, frozenset):
        return f"{{{', '.join(sorted(_told(i, names, seen) for i in x))}}}"
    if isinstance(x, types.CodeType):
        used = tuple(names[n] for n in x.co_names if n in names and _is_part(names[n], names.get("__name__")))
        return f"code {x.co_code.hex()} {x.co_names} {_told((x.co_consts, used), names, seen)}"
    if isinstance(x, types.FunctionType):
        if id(x) in seen:
            return "again"
        seen.add(id(x))
        enclosed = tuple(_content(cell) for cell in x.__closure__ or ())
        keywords = tuple(sorted((x.__kwdefaults__ or {}).items()))
        return "function " + _told((x.__code__, x.__defaults__, keywords, enclosed), x.__globals__, seen)
    if isinstance(x, functools.partial):
        return "partial " + _told((x.func, x.args, tuple(sorted(x.keywords.items()))), names, seen)
    if isinstance(x, types.MethodType):
        return f"method {_told(x.__func__, names, seen)} {type(x.__self__).__qualname__}"
    called = vars(type(x)).get("__call__")
    own = _told(called, names, seen) if isinstance(called, types.FunctionType) else ""
    return f"{type(x).__qualname__} {own}"


def _is_plain(x: Any) -> bool:
    return x is None or isinstance(x, (bool, int, float, complex, str, bytes))


def _is_array(x: Any) -> bool:
    return is_torch(x) or isinstance(x, np.ndarray)


def _of_array(x: Any) -> str:
    told = f"array {tuple(x.shape)} {x.dtype}"
    try:
        if x.ndim and x.nbytes > PART:
            x = x[np.linspace(0, len(x) - 1, max(1, PART * len(x) // x.nbytes)).astype(np.int64)]
        values = np.asarray(to_numpy(x) if is_torch(x) else x)  # without a mask
    except (TypeError, RuntimeError):
        return told  # tensors that are sparse, quantized or nowhere
    # The bytes of objects are addresses.
    return told if values.dtype.hasobject else f"{told} {hashlib.sha256(values.tobytes()).hexdigest()}"


def _is_part(x: Any, module: Any) -> bool:
    """Whether what a function names is part of what it does: a value, an array, or a function of its own
    module."""
    return _is_plain(x) or _is_array(x) or (isinstance(x, types.FunctionType) and x.__module__ == module)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not assigned yet


@contextlib.contextmanager
def trainings(train: Train, record: str | Path | None, tag: str | None) -> Iterator[Trainings]:
    """Trainings, kept in a file where `record` names one. UserError where that cannot be, or another process
    writes it."""
    path = None if record is None else Path(record)
    if path is None:
        yield Trainings(train, None, tag)
        return
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"record={path} is a file in a folder that exists")
    with alone(path, wait=False):
        yield Trainings(train, path, tag)


class Trainings:
    """Trains once for equal examples and seeds, and remembers it in a file, where trainings of other code
    stand beside them."""

    def __init__(self, train: Train, path: Path | None, tag: str | None) -> None:
        self.train, self.path = train, path
        self.known: dict[tuple[str, int], float] = {}
        if path is None:
            return
        self.tag = code_of(train) if tag is None else tag
        if path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a line that was cut off by a kill is trained again
            for line in whole.splitlines():
                row = json.loads(line)
                if row["train"] == self.tag:
                    self.known[row["examples"], row["seed"]] = float(row["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no record of trainings ({error}); name another") from None
        if whole != text:
            with path.open("r+", encoding="utf-8") as file:
                file.truncate(len(whole.encode()))

    def result(self, positions: Ints, seed: int) -> float:
        key = hashlib.sha256(positions.tobytes()).hexdigest()[:32], int(seed)
        if key not in self.known:
            found = self.train(positions, int(seed))
            try:
                value = float(found)
            except (TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value):
                raise UserError(
                    f"training on {len(positions):,} examples with seed {seed} gave {found!r}, no finite "
                    "number"
                )
            self.known[key] = value
            if self.path is not None:
                row = {"train": self.tag, "examples": key[0], "kept": len(positions), "seed": key[1]}
                row["result"] = value
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
        return self.known[key]
