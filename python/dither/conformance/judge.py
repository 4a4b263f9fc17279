"""Ask an adapter every question it offers to answer, and sort what comes back.

An answer is equal, a documented choice (the standard leaves it open, or there is no standard), or a
violation. A block quantizer is first asked for ordinary blocks, which tell its scale rule; every other block
is then held against that rule: a rule other than `floor` is one choice and not a thousand differences.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dither.conformance import blockwise, casts, inputs
from dither.conformance.adapters import ADAPTERS
from dither.conformance.case import Case, Verdict, same_bits
from dither.errors import UserError, suggest
from dither.quantizer import Quantizer


@dataclass
class Finding:
    """One named difference within a row: how often, and the first example."""

    name: str
    verdict: Verdict
    clause: str
    count: int = 0
    example: str = ""


@dataclass
class Row:
    """Everything asked about one format or preset under one rounding."""

    what: str
    rounding: str
    compared: int = 0
    equal: int = 0
    findings: dict[str, Finding] = field(default_factory=dict)

    def note(self, name: str, verdict: Verdict, clause: str, count: int, example: str) -> None:
        found = self.findings.setdefault(name, Finding(name, verdict, clause, 0, example))
        found.count += count

    def of(self, verdict: Verdict) -> list[Finding]:
        return [f for f in self.findings.values() if f.verdict == verdict]


@dataclass
class Report:
    """What an adapter was asked and how it answered."""

    adapter: str
    library: str
    rows: list[Row]
    not_offered: list[str]

    @property
    def conforming(self) -> bool:
        """Whether there are no violations."""
        return not any(row.of("violation") for row in self.rows)


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


def _parameters(function: Callable) -> set[str]:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return set()
    every = {"rounding", "overflow", "bits", "random"}
    return every if any(p.kind is p.VAR_KEYWORD for p in found) else every & {p.name for p in found}


class _NotOfferedError(Exception):
    """The adapter has no such format, preset or option."""


def _answer(function: Callable, case: Case, x: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    """What the adapter returns, as fp32. Raises UserError for what is no array of the inputs' shape."""
    with np.errstate(all="ignore"):
        try:
            got = function(x, case.what, **options)
        except NotImplementedError:
            raise _NotOfferedError from None
        except KeyError as error:
            if error.args[:1] == (case.what,):
                raise _NotOfferedError from None
            raise
        try:
            got = np.asarray(got).astype(np.float32)
        except (TypeError, ValueError):
            raise UserError(
                f"the adapter returned {type(got).__name__} for {case.what}, not an array of numbers"
            ) from None
    if got.shape != case.x.shape:
        raise UserError(f"the adapter returned shape {got.shape} for {case.what} where x has {case.x.shape}")
    return np.ascontiguousarray(got)


def _cast_options(case: Case, accepted: set[str]) -> dict[str, Any]:
    """The keywords of a cast; _NotOfferedError where the adapter takes no such keyword."""
    usual = case.options["overflow"] == casts.default_overflow(case.what)
    needed = {"rounding"} if case.options["rounding"] != "nearest_even" else set()
    needed |= {"overflow"} if not usual else set()
    needed |= case.options.keys() & {"bits", "random"}
    if not needed <= accepted:
        raise _NotOfferedError
    return {name: value for name, value in case.options.items() if name in accepted}


def _input(case: Case, offered: tuple[str, ...]) -> np.ndarray:
    """The inputs in the dtype of the case, which the adapter must offer; a copy, so that it may write."""
    word = case.record.get("input", "fp32")
    if word not in offered:
        raise _NotOfferedError
    if word == "fp32":
        return case.x.copy()
    try:
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return case.x.astype("float16" if word == "fp16" else "bfloat16")
    except TypeError:
        raise UserError("bf16 inputs need ml_dtypes in numpy: install and import it in the adapter") from None


def _listed(module: ModuleType, name: str) -> Collection[str] | None:
    """The formats or presets that an adapter lists, if it does (the name may also be an imported module)."""
    found = getattr(module, name, None)
    return found if isinstance(found, Collection) and not isinstance(found, str) else None


def _hex(x: Any) -> str:
    return f"{np.float32(x).view(np.uint32):08x}"


def compare(case: Case, got: np.ndarray, row: Row) -> None:
    """Add what came back for a case to its row."""
    wrong = ~same_bits(got, case.expected)
    row.compared += got.size
    row.equal += int(got.size - wrong.sum())
    fitting = [(e, e.matches(got)) for e in case.explanations] if wrong.any() else []
    while wrong.any() and (fitting := [(e, hit) for e, hit in fitting if (hit & wrong).any()]):
        # Within a rank what explains most comes first; the order of the case decides among equals.
        e, hit = min(fitting, key=lambda pair: (pair[0].rank, -int((pair[1] & wrong).sum())))
        hit = hit & wrong
        row.note(e.name, e.verdict, e.clause, int(hit.sum()), _example(case, got, hit))
        wrong &= ~hit
    if wrong.any():
        name, verdict = ("unexplained", "violation") if case.standard else ("another definition", "choice")
        row.note(name, verdict, case.clause, int(wrong.sum()), _example(case, got, wrong))


def _example(case: Case, got: np.ndarray, hit: np.ndarray) -> str:
    at = np.unravel_index(int(hit.argmax()), hit.shape)
    x, expected, got_ = case.x[at], case.expected[at], got[at]
    return (
        f"{case.family}: {x:.9g} (0x{_hex(x)}) -> {got_:.9g} (0x{_hex(got_)}), "
        f"expected {expected:.9g} (0x{_hex(expected)})"
    )


def _ask(row: Row, case: Case, answer: Callable[[], np.ndarray]) -> bool:
    """Compare one answer; whether the adapter offers the case. What it raises is a violation of the row."""
    try:
        compare(case, answer(), row)
    except _NotOfferedError:
        return False
    except UserError:
        raise
    except Exception as error:
        row.compared += case.x.size
        name = f"raises {type(error).__name__}"
        row.note(name, "violation", case.clause, case.x.size, f"{case.family}: {error}")
    return True


def _casts(module: ModuleType, rows: dict[tuple[str, str], Row], missing: set[str]) -> None:
    accepted = _parameters(module.cast)
    offered = tuple(_listed(module, "inputs") or ("fp32",))
    names = _listed(module, "formats")
    for case in casts.cases():
        if names is not None and case.what not in names:
            missing.add(case.what)
            continue
        key = (case.what, casts.label(case))
        row = rows.get(key) or Row(*key)
        if _ask(
            row, case, lambda c=case: _answer(module.cast, c, _input(c, offered), _cast_options(c, accepted))
        ):
            rows[key] = row
        elif case.options["rounding"] == "nearest_even":
            missing.add(case.what)


def profile(ask: Callable[[Case], np.ndarray], preset: str) -> Quantizer:
    """The quantizer that explains most of the ordinary blocks of a preset; the preset itself among equals."""
    known = blockwise.profiles(preset)

    def fitting(q: Quantizer) -> int:
        cases = [c for c in blockwise.cases(q, preset) if c.family in inputs.ORDINARY]
        return sum(int(same_bits(ask(c), c.expected).all(axis=-1).sum()) for c in cases)

    return max(known, key=fitting)


def _blocks(module: ModuleType, rows: dict[tuple[str, str], Row], missing: set[str]) -> None:
    names = _listed(module, "presets")
    for preset in blockwise.PRESETS:

        def ask(case: Case) -> np.ndarray:
            return _answer(module.blocks, case, case.x.copy(), {})

        q = Quantizer(preset)
        try:
            if names is not None and preset not in names:
                raise _NotOfferedError
            q = profile(ask, preset)
        except _NotOfferedError:
            missing.add(preset)
            continue
        except UserError:
            raise
        except Exception:
            pass  # the same exception is reported below
        row = Row(preset, "nearest_even")
        for case in blockwise.cases(q, preset):
            _ask(row, case, lambda c=case: ask(c))
        if q != Quantizer(preset):
            name, clause = blockwise.described(q)
            row.note(name, "choice", clause, row.compared, "")
        rows[preset, "nearest_even"] = row


def run(module: ModuleType) -> Report:
    """Ask an adapter everything. Raises UserError where it offers nothing or returns no arrays."""
    rows: dict[tuple[str, str], Row] = {}
    missing: set[str] = set()
    if callable(getattr(module, "cast", None)):
        _casts(module, rows, missing)
    if callable(getattr(module, "blocks", None)):
        _blocks(module, rows, missing)
    if not rows:
        raise UserError("the adapter offers none of the formats and presets: it was asked for all of them")
    offered = {row.what for row in rows.values()}
    library = str(getattr(module, "library", module.__name__))
    return Report(module.__name__, library, list(rows.values()), sorted(missing - offered))


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""

    def findings(row: Row, verdict: Verdict) -> list[dict[str, Any]]:
        return [
            {"name": f.name, "clause": f.clause, "count": f.count, "example": f.example}
            for f in row.of(verdict)
        ]

    return {
        "adapter": report.adapter,
        "library": report.library,
        "conforming": report.conforming,
        "results": [
            {
                "what": row.what,
                "rounding": row.rounding,
                "compared": row.compared,
                "equal": row.equal,
                "choices": findings(row, "choice"),
                "violations": findings(row, "violation"),
            }
            for row in report.rows
        ],
        "not_offered": report.not_offered,
    }


def summary(report: Report, verdict: Verdict) -> dict[tuple[str, str], tuple[list[str], Finding]]:
    """The findings of a verdict by format and name, over all roundings: (roundings, the sum)."""
    found: dict[tuple[str, str], tuple[list[str], Finding]] = {}
    for row in report.rows:
        for f in row.of(verdict):
            roundings, total = found.setdefault((row.what, f.name), ([], replace(f, count=0)))
            roundings.append(row.rounding)
            total.count += f.count
    return found
