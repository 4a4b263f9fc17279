"""Scores of an example's history, from its sufficient statistics.

A table keeps the statistics, not the scores, so that a convention (what an example counts that was never
learned) is chosen when a score is read, not when it was collected. T is the number of visits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dither.errors import UserError
from dither.scores.borrowed import Floats

NEVER = ("visits", "inf", "zero", "1000")
"""What forgetting counts for an example never learned: the most visits of any example, which none that was
learned can reach; infinity (data-diet), 0 (DeepCore and the code of 2401.01867), or 1000 (cartography)."""

DIALECTS = {"data-diet": "inf", "cartography": "1000", "deepcore": "zero", "kwok": "zero"}

DERIVED = {
    "forgetting": ("correct",),
    "first_learned": ("correct",),
    "iteration_learned": ("correct",),
    "correctness": ("correct",),
    "aum": ("margin",),
    "confidence_mean": ("confidence",),
    "variability": ("confidence",),
    "closeness": ("confidence",),
    "aleatoric": ("confidence",),
    "settled": ("prediction",),
    "loss_mean": ("loss",),
    "el2n_mean": ("el2n",),
    "entropy_mean": ("entropy",),
}
"""Scores of training dynamics, and what each visit must tell for them."""


def derive(columns: Mapping[str, np.ndarray], name: str, dialect: str | None = None) -> Floats:
    """The score `name` from the columns of a table; NaN for examples never visited.

    dialect: for forgetting, one of data-diet, cartography, deepcore, kwok, datagnosis, or "visits" (default);
    for variability, "cartography-std-ci": sqrt(var + var^2 / (T - 1)), the option of that repository. Raises
    UserError where the table lacks what the score needs.
    """
    make = _MAKERS[name]
    missing = [c for c in _NEEDS[name] if c not in columns]
    if missing:
        raise UserError(
            f"{name} needs the columns {', '.join(missing)}, which the table has not; track {name} from "
            f"the start"
        )
    visits = columns["visits"].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.asarray(make(columns, np.where(visits > 0, visits, np.nan), dialect), np.float64)
    return np.where(visits > 0, values, np.nan)


def derivable(columns: Iterable[str]) -> tuple[str, ...]:
    """The scores that these columns are statistics of."""
    known = set(columns)
    return tuple(name for name, needed in _NEEDS.items() if known.issuperset(needed))


def _forgetting(c: Mapping[str, np.ndarray], visits: Floats, dialect: str | None) -> Floats:
    if dialect == "datagnosis":
        return c["sum_forgets"] / visits
    never = DIALECTS.get(dialect or "visits", dialect or "visits")
    if never not in NEVER:
        known = ", ".join((*DIALECTS, "datagnosis", *NEVER))
        raise UserError(f"forgetting knows the dialects {known}, not {dialect!r}")
    count = {"visits": float(c["visits"].max(initial=0)), "inf": np.inf, "zero": 0.0, "1000": 1000.0}[never]
    return np.where(c["sum_correct"] == 0, count, c["sum_forgets"])


def _plain(dialect: str | None, name: str) -> None:
    if dialect is not None:
        raise UserError(f"{name} has no dialects, not {dialect!r} either")


def _first_learned(c: Mapping[str, np.ndarray], visits: Floats, dialect: str | None) -> Floats:
    _plain(dialect, "first_learned")
    return np.where(c["sum_first_correct"] == 0, visits, c["sum_first_correct"] - 1.0)


def _variability(c: Mapping[str, np.ndarray], visits: Floats, dialect: str | None) -> Floats:
    variance = c["squares_confidence"] / visits
    if dialect == "cartography-std-ci":
        return np.sqrt(variance + variance**2 / (visits - 1))
    _plain(dialect, "variability")
    return np.sqrt(variance)


def _aleatoric(c: Mapping[str, np.ndarray], visits: Floats, dialect: str | None) -> Floats:
    _plain(dialect, "aleatoric")
    # mean of p (1 - p) = mean p - mean p^2 = p (1 - p) of the mean, less the variance. Both are rounded to
    # fp32: where p was always 0 or 1, only that would make their difference less than 0.
    return np.maximum(_closeness(c, visits, dialect) - c["squares_confidence"] / visits, 0.0)


def _closeness(c: Mapping[str, np.ndarray], visits: Floats, dialect: str | None) -> Floats:
    _plain(dialect, "closeness")
    return c["mean_confidence"] * (1 - c["mean_confidence"])


def _column(column: str):
    def read(c: Mapping[str, np.ndarray], visits: Floats, dialect: str | None) -> Floats:
        _plain(dialect, column)
        return c[column].astype(np.float64)

    return read


def _correctness(c: Mapping[str, np.ndarray], visits: Floats, dialect: str | None) -> Floats:
    if dialect == "cartography":
        return c["sum_correct"].astype(np.float64)
    _plain(dialect, "correctness")
    return c["sum_correct"] / visits


_MAKERS = {
    "forgetting": _forgetting,
    "first_learned": _first_learned,
    "iteration_learned": _column("sum_last_wrong"),
    "correctness": _correctness,
    "aum": _column("mean_margin"),
    "confidence_mean": _column("mean_confidence"),
    "variability": _variability,
    "closeness": _closeness,
    "aleatoric": _aleatoric,
    "settled": _column("sum_changed"),
    "loss_mean": _column("mean_loss"),
    "el2n_mean": _column("mean_el2n"),
    "entropy_mean": _column("mean_entropy"),
}

_NEEDS = {
    "forgetting": ("visits", "sum_correct", "sum_forgets"),
    "first_learned": ("visits", "sum_first_correct"),
    "iteration_learned": ("visits", "sum_last_wrong"),
    "correctness": ("visits", "sum_correct"),
    "aum": ("visits", "mean_margin"),
    "confidence_mean": ("visits", "mean_confidence"),
    "variability": ("visits", "squares_confidence"),
    "aleatoric": ("visits", "mean_confidence", "squares_confidence"),
    "closeness": ("visits", "mean_confidence"),
    "settled": ("visits", "sum_changed"),
    "loss_mean": ("visits", "mean_loss"),
    "el2n_mean": ("visits", "mean_el2n"),
    "entropy_mean": ("visits", "mean_entropy"),
}
