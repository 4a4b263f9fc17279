"""Whether a batch of visits can be taken into a tracker: what its records
(rust/scores/src/dynamics.rs) do not see, and what they refused, in words.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats, Ints

HELD = 2.0**127
"""Means of numbers below it fit into the records."""


def whole_step(step: Any) -> int | None:
    """UserError, before anything is taken, where a step is no whole number, or negative."""
    try:
        whole = None if step is None else operator.index(step)
    except TypeError:
        raise UserError(f"step= is a whole number, not {step!r}") from None
    if whole is not None and whole < 0:
        raise UserError(f"step= counts from 0, not {step!r}")
    return whole


def _are_places(places: Ints, n: int) -> bool:
    """Whether there are any, and none is outside: that is refused by its own name."""
    return len(places) > 0 and int(places.min()) >= 0 and int(places.max()) < n


def check_step(step: int | None, before: int | None, places: Ints, visits: np.ndarray) -> None:
    """UserError where a step falls for examples that were visited: visits are taken in their order."""
    if step is None or before is None or step >= before or not _are_places(places, len(visits)):
        return
    again = visits[places] > 0
    if again.any():
        raise UserError(
            f"step={step} comes after step {before}, and example {places[int(again.argmax())]} was visited "
            "before: histories have an order. A training that goes on from a checkpoint takes the tracker's "
            "state of then (load_state_dict); visits without order take no step="
        )


def check_labels(places: Ints, labels: Ints, known: np.ndarray | None) -> None:
    """UserError for a label that changes: most of the time it is another example, and the index is wrong.
    known: of all examples, -1 where there was none yet."""
    if known is None or not _are_places(places, len(known)):
        return
    before = known[places]
    changed = (before != labels) & (before >= 0)
    if changed.any():
        k = int(changed.argmax())
        raise UserError(
            f"example {places[k]} at place {k} of the batch has the label {labels[k]} and had {before[k]} "
            "before; is the index that of the data set? New labels need a new tracker"
        )


def refusal(why: str, place: int, places: Ints, columns: Mapping[str, Floats | None], n: int) -> UserError:
    """What the records say of a place in a batch ("outside", "twice", "finite"), in words."""
    where = f"example {places[place]} at place {place} of the batch"
    if why == "finite":
        return UserError(f"{_wrong(columns, place)} for {where}{_why(columns, place)}")
    if why == "twice":
        return UserError(f"{where} stands in the batch before; a batch visits an example once")
    return UserError(f"{where} is none of the {n} examples")


def _why(columns: Mapping[str, Floats | None], place: int) -> str:
    """Where an infinite loss or margin comes from."""
    for name in ("loss", "margin"):
        values = columns[name]
        if values is not None and np.isinf(values[place]):
            return (
                f": logits of -infinity, or of one class alone, leave no {name} to average; give such "
                f"classes a low number, or track no score of the {name}"
            )
    return ""


def _wrong(columns: Mapping[str, Floats | None], place: int) -> str:
    """Which value the records do not take, and why."""
    for name, values in columns.items():
        if values is None:
            continue
        if name in ("confidence", "correct") and not 0 <= values[place] <= 1 + 2**-8:
            return f"{name} is {values[place]:g} and not between 0 and 1"
        if not abs(values[place]) < HELD:
            return f"{name} has NaN, infinity or a number beyond fp32"
    raise AssertionError("the records refuse nothing else")
