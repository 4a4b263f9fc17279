"""Memorization and influence from models trained on random subsets (Feldman and Zhang, 2008.03703)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError
from dither.scores.borrowed import Floats, booleans, to_numpy
from dither.scores.engine import run_subsets


def pack_bits(mask: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """(models, n) of booleans -> (n, words): a bit a model, models along the words."""
    bits = np.packbits(mask.T, axis=1, bitorder="little")
    bits = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
    return np.ascontiguousarray(bits).view("<u8").astype(np.uint64, copy=False)


def _pair(member: Any, correct: Any) -> tuple[NDArray[np.bool_], np.ndarray]:
    """Checked: masks of the same models, `correct` of booleans or of shares in fp64."""
    member, correct = to_numpy(member, "member"), to_numpy(correct, "correct")
    if member.ndim != 2 or correct.ndim != 2 or len(member) != len(correct):
        raise UserError(
            f"masks are (models, examples) of the same models, not of the shapes {member.shape} and "
            f"{correct.shape}"
        )
    if len(member) == 0:
        raise UserError("there are no models")
    if correct.dtype.kind == "f":
        if not ((correct >= 0) & (correct <= 1)).all():
            raise UserError("correct holds shares from 0 to 1, or booleans; there are others, or NaN")
        return booleans(member, "member"), correct.astype(np.float64)
    return booleans(member, "member"), booleans(correct, "correct")


def _contrast(member: NDArray[np.bool_], correct: np.ndarray, own: bool) -> Floats:
    """Means with an example less means without it, NaN where a side has no model."""
    if correct.dtype == bool:
        return run_subsets(pack_bits(member), pack_bits(correct), len(member), own)
    inside = member.astype(np.float64)
    with_it = (inside * correct).sum(axis=0) if own else inside.T @ correct
    n_in = inside.sum(axis=0) if own else inside.sum(axis=0)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return with_it / n_in - (correct.sum(axis=0) - with_it) / (len(member) - n_in)


def memorization(member: Any, correct: Any, dialect: str | None = None) -> Floats:
    """P[correct on i | i in the subset] - P[correct on i | it was not], for every training example.

    member, correct: (models, examples) of booleans; `correct` may be shares from 0 to 1, such as the accuracy
    over the tokens of a text (counterfactual memorization, 2112.12938). NaN for an example that every model,
    or none, had; dialect="feldman" counts the empty side as accuracy 0, as the authors' code does. A value of
    at least .25 is the paper's cut-off. Raises UserError for shapes that do not agree.

    `subset_runs` trains the models.
    """
    _check_dialect(dialect)
    m, c = _pair(member, correct)
    if m.shape != c.shape:
        raise UserError("memorization compares the examples with themselves: both masks have the same shape")
    return _one_sided(_contrast(m, c, True), m, c.mean(axis=0), dialect)


def influence(member: Any, correct: Any, dialect: str | None = None) -> Floats:
    """The same for every training example i on every test example j: (examples, tests).

    member: (models, examples), correct: (models, tests). The paper's cut-off is .15.
    """
    _check_dialect(dialect)
    m, c = _pair(member, correct)
    return _one_sided(_contrast(m, c, False), m, c.mean(axis=0)[None, :], dialect)


def _check_dialect(dialect: str | None) -> None:
    if dialect not in (None, "feldman"):
        raise UserError(f"memorization and influence know the dialect feldman, not {dialect!r}")


def _one_sided(values: Floats, member: np.ndarray, mean: Floats, dialect: str | None) -> Floats:
    """Values of examples that all models, or none, had; mean: accuracy over all models."""
    if dialect is None:
        return values
    sides = np.where(member.all(axis=0), 1.0, np.where(member.any(axis=0), np.nan, -1.0))
    one = sides if values.ndim == 1 else sides[:, None]
    return np.where(np.isnan(one), values, one * mean)
