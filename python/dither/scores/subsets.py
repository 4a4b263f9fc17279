"""Memorization and influence from models trained on random subsets (Feldman and Zhang, 2008.03703)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError
from dither.scores.borrowed import Floats, to_numpy
from dither.scores.engine import run_subsets


def pack_bits(mask: Any) -> NDArray[np.uint64]:
    """(models, n) of booleans -> (n, words): a bit a model, models along the words."""
    bits = np.packbits(np.asarray(to_numpy(mask), bool).T, axis=1, bitorder="little")
    bits = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
    return np.ascontiguousarray(bits).view("<u8").astype(np.uint64, copy=False)


def _pair(member: Any, correct: Any) -> tuple[NDArray[np.uint64], NDArray[np.uint64], int]:
    member, correct = to_numpy(member), to_numpy(correct)
    if member.ndim != 2 or correct.ndim != 2 or len(member) != len(correct):
        raise UserError(
            f"masks are (models, examples) of the same models, not of the shapes {member.shape} and "
            f"{correct.shape}"
        )
    if len(member) == 0:
        raise UserError("there are no models")
    for name, mask in (("member", member), ("correct", correct)):
        if mask.dtype.kind not in "biu" or (
            mask.size and mask.dtype.kind != "b" and (mask.min() < 0 or mask.max() > 1)
        ):
            raise TypeError(f"{name} holds booleans (or 0 and 1), not {mask.dtype}")
    return pack_bits(member), pack_bits(correct), len(member)


def memorization(member: Any, correct: Any, dialect: str | None = None) -> Floats:
    """P[correct on i | i in the subset] - P[correct on i | it was not], for every training example.

    member, correct: (models, examples) of booleans. NaN for an example that every model, or none, had;
    dialect="feldman" counts the empty side as accuracy 0, as the authors' code does. A value of at least .25
    is the paper's cut-off. Raises UserError for shapes that do not agree.
    """
    _check_dialect(dialect)
    m, c, models = _pair(member, correct)
    if m.shape != c.shape:
        raise UserError("memorization compares the examples with themselves: both masks have the same shape")
    values = run_subsets(m, c, models, True)
    mean = np.asarray(to_numpy(correct), bool).mean(axis=0)
    return _one_sided(values, np.asarray(to_numpy(member), bool), mean, dialect)


def influence(member: Any, correct: Any, dialect: str | None = None) -> Floats:
    """The same for every training example i on every test example j: (examples, tests).

    member: (models, examples), correct: (models, tests). The paper's cut-off is .15.
    """
    _check_dialect(dialect)
    m, c, models = _pair(member, correct)
    values = run_subsets(m, c, models, False)
    mean = np.asarray(to_numpy(correct), bool).mean(axis=0)
    return _one_sided(values, np.asarray(to_numpy(member), bool), mean[None, :], dialect)


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
