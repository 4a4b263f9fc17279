"""Ask an adapter every question it offers to answer, and sort what comes back.

An answer is equal, a documented choice (the standard leaves it open, or there is no standard), or a
violation. A block quantizer is first asked for ordinary blocks, which tell its scale rule; every other block
is then held against that rule: a rule other than `floor` is one choice and not a thousand differences.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

import numpy as np

from dither.conformance import blockwise, casts, inputs
from dither.conformance.case import Case, same_bits
from dither.conformance.findings import Report, Row
from dither.errors import UserError
from dither.quantizer import Quantizer


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
        except SystemExit:
            raise UserError(f"the adapter ends the process where it is asked for {case.what}") from None
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
