"""Vectors for casts of single elements, and the known ways in which casts differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dither import formats
from dither.conformance import inputs
from dither.conformance.case import Case, Explanation, same_bits, same_value
from dither.formats import Format
from dither.functions import cast, decode, encode
from dither.quantizer import OVERFLOWS, ROUNDINGS, Quantizer

OFP8 = ("e4m3", "e5m2")
MX_ELEMENTS = ("e3m2", "e2m3", "e2m1", "mxint8")
IEEE = ("fp16", "bf16", "tf32")
HALVES = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")
"""Formats that also get vectors with fp16 and bf16 inputs."""

RANDOM_WIDTHS = (3, 8, 16)
"""Random bits an element in the vectors of the stochastic roundings."""


def names() -> list[str]:
    """The formats with vectors: the catalogue without fp32, and e8m0, which only scales use."""
    return [name for name in formats.names() if name not in ("fp32", "e8m0")]


def clause(fmt: Format) -> str:
    """What the cast to a format follows."""
    if fmt.name in OFP8:
        return "OCP OFP8 v1.0: roundTiesToEven, then saturation (a parameter of the conversion)"
    if fmt.name in MX_ELEMENTS:
        return "OCP MX v1.0 section 5.3 and 6.3: roundTiesToEven, clamped to the largest with the sign kept"
    if fmt.name in IEEE:
        return "IEEE 754-2019 section 4.3.1: roundTiesToEven, overflow to infinity"
    if fmt.name.startswith("binary"):
        return "IEEE P3109 report v4.0, projection"
    return "no standard: dither's definition of the format"


def is_standard(fmt: Format) -> bool:
    """Whether a standard, and not only this package, says what the cast returns."""
    return not clause(fmt).startswith("no standard")


def _explanations(fmt: Format, x: np.ndarray, expected: np.ndarray, options: dict[str, Any]) -> tuple:
    """Known ways to differ, in the order in which they are tried."""
    law = clause(fmt)
    broken = "violation" if is_standard(fmt) else "choice"

    def like(**changed: Any) -> np.ndarray:
        return cast(x, fmt, **{**options, **changed})

    def always(mask: np.ndarray):
        return lambda got: mask

    def equal(other: np.ndarray):
        return lambda got: same_value(got, other)

    finite = np.isfinite(x)
    small = (np.abs(expected) < (fmt.min_normal or 0)) & (expected != 0)
    found = []
    overflow = options["overflow"]
    for mode, name in (
        ("propagate", "finite overflow saturates, infinity is kept (SatPropagate)"),
        ("ieee", "overflow is not saturated: infinity or NaN (OVF)"),
        ("saturate", "overflow saturates"),
    ):
        if mode != overflow and (mode == "saturate" or fmt.has_inf or fmt.has_nan):
            verdict = "violation" if fmt.name in IEEE else "choice"
            beyond = np.abs(x) > fmt.max
            other = like(overflow=mode)
            found.append(
                Explanation(name, verdict, law, lambda got, b=beyond, o=other: b & same_bits(got, o))
            )
    if not fmt.has_nan:
        open_ = "OCP MX v1.0 section 6.3 leaves NaN and infinity in the source to the implementation"
        nan = np.isnan(x)
        found.append(Explanation("NaN into a format without NaN", "choice", open_, always(nan)))
        infinite = np.isinf(x)
        found.append(
            Explanation("infinity into a format without infinity", "choice", open_, always(infinite))
        )
    if not fmt.signed:
        negative = "a negative number is kept by an unsigned format"
        found.append(Explanation(negative, broken, law, lambda got: got < 0))
    found += [
        Explanation("the sign of zero is lost", broken, f"{law}; IEEE 754-2019 section 6.3",
                    lambda got: (expected == 0) & (got == 0)),
        Explanation("NaN becomes a number", broken, law, lambda got: np.isnan(expected) & ~np.isnan(got)),
    ]  # fmt: skip
    if options["rounding"] == "nearest_even":
        ties = like(rounding="nearest_away")
        found.append(Explanation("ties go away from zero", broken, law, equal(ties)))
        for half in ("fp16", "bf16"):
            twice = cast(cast(x, half), fmt, **options)
            found.append(Explanation(f"rounded twice, first to {half}", broken, law, equal(twice)))
        found.append(
            Explanation("truncated instead of rounded", broken, law, equal(like(rounding="toward_zero")))
        )
    found += [
        Explanation("subnormals are flushed to zero", broken, law, lambda got: small & (got == 0)),
        Explanation("a number becomes NaN", broken, law, lambda got: finite & np.isnan(got), 1),
        Explanation("a finite number becomes infinite", broken, law, lambda got: finite & np.isinf(got), 1),
    ]
    if fmt.bits <= 16:
        values = np.append(inputs.grid(fmt), [np.inf, -np.inf])
        found.append(
            Explanation(
                "not a value of the format",
                broken,
                law,
                lambda got: ~np.isin(got, values) & ~np.isnan(got),
                rank=1,
            )
        )
    return tuple(found)


def codes_of(fmt: Format, values: np.ndarray) -> np.ndarray:
    """The codes of values of a format; -1 where it has none (NaN without a NaN code)."""
    held = ~np.isnan(values) | fmt.has_nan
    codes = np.full(values.shape, -1, np.int64)
    overflow = "ieee" if fmt.has_inf else None
    codes[held] = encode(values[held], fmt, overflow=overflow)
    return codes


def _case(
    fmt: Format, x: np.ndarray, family: str, options: dict[str, Any], record: dict[str, str] | None = None
) -> Case:
    expected = cast(x, fmt, **options)
    named = [
        fmt.name,
        options["rounding"],
        options["overflow"],
        *([f"{options['bits']}bits"] if "bits" in options else []),
    ]
    return Case(
        id="/".join(["cast", *named, family]),
        kind="cast",
        what=fmt.name,
        family=family,
        clause=clause(fmt),
        standard=is_standard(fmt),
        x=x,
        expected=expected,
        explanations=_explanations(fmt, x, expected, options),
        options=options,
        codes=codes_of(fmt, expected),
        record=record or {},
    )


def default_overflow(name: str) -> str:
    """The overflow mode that an adapter without that keyword is asked for."""
    return Quantizer(format=name).overflow


def label(case: Case) -> str:
    """The rounding of a case, and its overflow mode where that is not the usual one."""
    mode = case.options["overflow"]
    return case.options["rounding"] + ("" if mode == default_overflow(case.what) else f", {mode}")


def cases() -> Iterator[Case]:
    """Nearest-even with every overflow mode on all boundaries; the other roundings on a part of them."""
    for name in names():
        fmt = formats.get(name)
        x = inputs.boundaries(fmt)
        usual = default_overflow(name)
        for overflow in OVERFLOWS:
            if overflow == "saturate" or fmt.has_inf or fmt.has_nan:
                yield _case(fmt, x, "boundaries", {"rounding": "nearest_even", "overflow": overflow})
        part = np.concatenate([x[: -len(inputs.NANS)][::3], x[-24:]])
        for rounding in ROUNDINGS:
            if rounding.startswith("stochastic"):
                for bits in RANDOM_WIDTHS:
                    drawn = inputs.random_bits(len(part), bits, bits)
                    options = {"rounding": rounding, "overflow": usual, "bits": bits, "random": drawn}
                    yield _case(fmt, part, "boundaries", options)
            elif rounding != "nearest_even":
                yield _case(fmt, part, "boundaries", {"rounding": rounding, "overflow": usual})
        if name in HALVES:
            for word in ("fp16", "bf16"):
                patterns = inputs.halves(part, word)
                options = {"rounding": "nearest_even", "overflow": usual}
                hexed = " ".join(f"{p:04x}" for p in patterns)
                yield _case(fmt, inputs.widen(patterns, word), word, options, {"input": word, "x": hexed})


def decodes() -> Iterator[tuple[Format, np.ndarray, np.ndarray]]:
    """Every code of every format of at most 8 bits, e8m0 among them, with its fp32 value."""
    for name in [*names(), "e8m0"]:
        fmt = formats.get(name)
        if fmt.bits <= 8:
            codes = np.arange(2**fmt.bits, dtype=np.uint8)
            yield fmt, codes, decode(codes, fmt)
