"""Scores of one pass over logits: any of them at the price of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.scores.borrowed import Floats, Ints, borrow, integers, shaped
from dither.scores.catalogue import POINTWISE
from dither.scores.dialects import by_score, rescale
from dither.scores.engine import run_logits

NAMES = tuple(score.name for score in POINTWISE)
"""In the order of the extension's outputs."""

LABEL_FREE = ("max_confidence", "entropy", "top_margin")
DEFAULT = ("loss", "confidence", "entropy", "margin", "el2n")
AT_ONCE = 1 << 22
"""Logits of a sequence's tokens that are copied at a time."""


def logit_scores(
    logits: Any,
    labels: Any = None,
    scores: Iterable[str] | None = None,
    *,
    ignore_index: int | None = None,
    nan: str = "raise",
    dialect: str | Mapping[str, str] | None = None,
    out: Mapping[str, Floats] | None = None,
) -> dict[str, Floats]:
    """Scores of every row of logits, each logit read from memory once.

    logits: (n, classes) of fp32, bf16, fp16 or fp64 (read as fp32), numpy, torch or Arrow (lists of one
        length); rows may be strided.
    labels: (n,) integers; without them only the label-free scores exist. Rows whose label is `ignore_index`
        are NaN in the others.
    scores: names from `dither.scores.SCORES`; default: loss, confidence, entropy, margin, el2n (label-free:
        max_confidence, entropy, top_margin).
    nan: what a row of logits with NaN, with +infinity or with nothing but -infinity does: "raise", or
        "propagate" (its scores are NaN). Single logits of -infinity are classes without probability.
    dialect: a name, or names by score, of `SCORES[...].dialects`: the scores as published code has them.
    out: arrays of n fp64 to write into, by score.

    Returns fp64 arrays by name. Sums run over all classes but the greatest, so that small values keep their
    digits: EL2N, loss and entropy are right to a relative 1e-6 down to 3e-5 where forms that subtract from 1
    are noise. Results do not depend on the number of threads, on batches or on the instruction set.

    Raises UserError for labels outside the classes, rows without probabilities, unknown names.
    """
    wanted = _names(scores, labels is not None)
    spoken = by_score(dialect, wanted)
    results = _scored(logits, labels, wanted, ignore_index, nan, out, "row {}".format)
    for name, spelled in spoken.items():
        results[name][:] = rescale(name, results[name], spelled)
    return results


def _scored(
    logits: Any,
    labels: Any,
    wanted: tuple[str, ...],
    ignore_index: int | None,
    nan: str,
    out: Mapping[str, Floats] | None,
    called: Callable[[int], str],
) -> dict[str, Floats]:
    """The scores without a dialect. called: what errors call a row."""
    if nan not in ("raise", "propagate"):
        raise UserError(f"nan= is 'raise' or 'propagate', not {nan!r}")
    z = borrow(logits, 2, "logits")
    rows, classes = z.shape
    if classes == 0:
        raise UserError("logits have no classes")
    y = None if labels is None else check_labels(labels, rows, classes, ignore_index, called)
    results = {name: _array(out, name, rows) for name in wanted}
    probe = None if nan == "propagate" or "entropy" in results else np.empty(rows)
    every = dict(results) if probe is None else {**results, "entropy": probe}
    run_logits(z, y, [every.get(name) for name in NAMES])
    if nan == "raise" and np.isnan(every["entropy"]).any():
        row = int(np.flatnonzero(np.isnan(every["entropy"]))[0])
        raise UserError(
            f"{called(row)} of the logits has NaN, +infinity or nothing but -infinity; "
            "mend it, or score it as NaN with logit_scores(..., nan='propagate') in Python"
        )
    return results


def _names(scores: Iterable[str] | None, labelled: bool) -> tuple[str, ...]:
    if scores is None:
        return DEFAULT if labelled else LABEL_FREE
    if isinstance(scores, str):
        scores = (scores,)
    wanted = tuple(dict.fromkeys(scores))
    for name in wanted:
        if name not in NAMES:
            raise UserError(
                f"no score of logits {name!r}{suggest(name, NAMES)}; there are {', '.join(NAMES)}"
            )
        if not labelled and name not in LABEL_FREE:
            raise UserError(f"{name} needs labels=; without them there are {', '.join(LABEL_FREE)}")
    return wanted


def _array(out: Mapping[str, Floats] | None, name: str, rows: int) -> Floats:
    if out is None or name not in out:
        return np.empty(rows)
    array = out[name]
    right = isinstance(array, np.ndarray) and array.dtype == np.float64 and array.shape == (rows,)
    if not right or not array.flags.c_contiguous or not array.flags.writeable:
        raise UserError(f"out[{name!r}] is a contiguous, writable float64 array of {rows} elements")
    return array


def check_labels(
    labels: Any,
    rows: int,
    classes: int,
    ignore_index: int | None = None,
    called: Callable[[int], str] = "row {}".format,
) -> Ints:
    """Labels as int64, -1 where there is none. UserError, which calls a row so, where one is outside the
    classes."""
    y = integers(labels, "labels", rows)
    if y.size == 0 or (y.min() >= 0 and y.max() < classes):
        return y if ignore_index is None else np.where(y == ignore_index, -1, y)
    known = np.ones(rows, bool) if ignore_index is None else y != ignore_index
    outside = np.flatnonzero(known & ((y < 0) | (y >= classes)))
    if outside.size:
        raise UserError(
            f"label {y[outside[0]]} of {called(outside[0])} lies outside the {classes} classes; pass "
            "ignore_index= for rows without a label"
        )
    return np.where(known, y, -1)


def sequence_scores(
    logits: Any,
    labels: Any,
    scores: Iterable[str] | None = None,
    *,
    mask: Any = None,
    ignore_index: int | None = -100,
    nan: str = "raise",
) -> dict[str, Floats]:
    """Scores of sequences of tokens: the mean of each token score over the tokens that count.

    logits: (sequences, tokens, vocabulary), token j's logits for the label at j (shift before you call).
    labels: (sequences, tokens). A token counts where its label is not `ignore_index` and `mask` (same shape,
        if given) is true; where some do not, those that do are copied, 2^22 logits at a time.
    scores: names of token scores, and "perplexity", exp of the mean loss (Marion et al., 2309.04564, prune by
        it; it depends on length and tokenizer). Default: loss, entropy, el2n, perplexity.

    Returns fp64 arrays of one value a sequence, and "tokens", how many counted; NaN for a sequence without
    any. Raises UserError for shapes that do not agree and as `logit_scores` does.
    """
    logits, labels = shaped(logits, "logits"), shaped(labels, "labels")
    shape = tuple(logits.shape)
    if len(shape) != 3:
        raise UserError(f"logits have the axes sequences, tokens, vocabulary, not the shape {shape}")
    scores = (scores,) if isinstance(scores, str) else scores
    wanted = tuple(dict.fromkeys(("loss", "entropy", "el2n", "perplexity") if scores is None else scores))
    sequences, tokens, classes = shape
    if tuple(labels.shape) != (sequences, tokens):
        raise UserError(f"labels have the shape {tuple(labels.shape)} where logits have {shape}")
    flat = integers(labels.reshape(-1), "labels")
    counts = np.ones(flat.size, bool) if ignore_index is None else flat != ignore_index
    if mask is not None:
        mask = shaped(mask, "the mask")
        if tuple(mask.shape) != (sequences, tokens):
            raise UserError(
                f"the mask has the shape {tuple(mask.shape)} where labels have {(sequences, tokens)}"
            )
        counts &= integers(mask.reshape(-1), "the mask") != 0
    names = _names(("loss" if name == "perplexity" else name for name in wanted), labelled=True)
    used = np.flatnonzero(counts)
    rows, found = logits.reshape(len(flat), classes), {name: np.empty(len(used)) for name in names}
    step = len(used) if len(used) == len(flat) else max(1, AT_ONCE // max(classes, 1))
    for start in range(0, len(used), max(step, 1)):
        mine = used[start : start + step]

        def called(row: int, mine: Ints = mine) -> str:
            return "token {1} of sequence {0}".format(*divmod(int(mine[row]), tokens))

        out = {name: values[start : start + step] for name, values in found.items()}
        _scored(rows if len(mine) == len(flat) else rows[mine], flat[mine], names, None, nan, out, called)
    owner = used // max(tokens, 1)
    n = np.bincount(owner, minlength=sequences)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {name: np.bincount(owner, values, sequences) / n for name, values in found.items()}
        result = {name: np.exp(means["loss"]) if name == "perplexity" else means[name] for name in wanted}
    return {**result, "tokens": n.astype(np.float64)}
