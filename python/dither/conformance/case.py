"""One question to a quantizer, its answer, and the other answers that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Verdict = Literal["choice", "violation"]


@dataclass(frozen=True)
class Explanation:
    """A known way to differ. `matches(got)` says at which elements it would have given what was got.

    Among those that fit, the lowest `rank` goes first: 0 names a cause, higher ones what was seen.
    """

    name: str
    verdict: Verdict
    clause: str
    matches: Callable[[np.ndarray], np.ndarray]
    rank: int = 0


@dataclass(frozen=True)
class Case:
    """Inputs and expected values.

    `x` and `expected` are fp32 of one shape ([n] for casts, [rows, block] for blocks); `options` are the
    keywords beyond the format; `codes` are what a cast stores, -1 where the format has none for the value.
    """

    id: str
    kind: Literal["cast", "block"]
    what: str
    """The format or the preset, as the adapter is asked for it."""
    family: str
    clause: str
    """What the expected values follow."""
    standard: bool
    """Whether that is a standard: only then is an unexplained difference a violation."""
    x: np.ndarray
    expected: np.ndarray
    explanations: tuple[Explanation, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    codes: np.ndarray | None = None
    record: dict[str, str] = field(default_factory=dict)
    """Further fields of the written vector, in hexadecimal."""


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equal fp32 patterns, every NaN being the same."""
    return (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))


def same_value(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As same_bits, but +0 equals -0."""
    return (a == b) | (np.isnan(a) & np.isnan(b))
