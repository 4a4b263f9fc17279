"""Published variants of scores that are computed from the value itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from dither.errors import UserError, suggest
from dither.scores.borrowed import Floats

RESCALED: dict[str, dict[str, Callable[[Floats], Floats]]] = {
    "entropy": {"bits": lambda h: h / np.log(2.0)},
    "el2n": {"datagnosis": np.square},
    "probability_margin": {"cleanlab": lambda m: (m + 1) / 2, "data-diet": np.negative},
}
"""Score -> dialect -> what it makes of the value. `dither.scores.SCORES` says it in words."""


def rescale(name: str, values: Floats, dialect: str | None) -> Floats:
    """The values as `dialect` has them. UserError for one that the score has not."""
    if dialect is None:
        return values
    known = RESCALED.get(name, {})
    if dialect not in known:
        there = f"; there are {', '.join(known)}" if known else "; it has none"
        raise UserError(f"{name} has no dialect {dialect!r}{suggest(dialect, known)}{there}")
    return known[dialect](values)


def by_score(dialect: str | Mapping[str, str] | None, scores: Iterable[str]) -> Mapping[str, str]:
    """Score -> dialect: a single name is for every score that knows it. UserError where none does, and for
    scores that are not computed."""
    scores = tuple(scores)
    if dialect is None:
        return {}
    if isinstance(dialect, str):
        found = {name: dialect for name in scores if dialect in RESCALED.get(name, {})}
        if not found:
            raise UserError(f"none of {', '.join(scores)} has a dialect {dialect!r}")
        return found
    if left := [name for name in dialect if name not in scores]:
        raise UserError(f"dialect= speaks of {left[0]}, which is not among the scores {', '.join(scores)}")
    return dialect
