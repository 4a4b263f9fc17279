"""Variance of gradients (Agarwal et al., 2008.11600): how much the gradient of a class moves over
checkpoints.

    S_k = d z_y / d x at checkpoint k;  V = std_k S_k per input element;  VoG = mean over elements of V

Published codes differ silently; `DIALECTS` names what each does. Average colour channels before you pass
gradients: (n, 3, H, W) -> mean over the channels -> (n, H * W).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.scores.borrowed import Floats, borrow, dense, integers, to_numpy
from dither.scores.engine import run_vog_examples, run_vog_reduce, run_vog_update

NORMS = ("class", "dataset", "none")


@dataclass(frozen=True)
class Dialect:
    """output: what is differentiated, "logit" or "prob" (the caller's part); stat: "std" or "var"; ddof: 0
    for the population's; norm: "class", "dataset" or "none"; stage: which checkpoints, from and to, with the
    sum over ALL of them by the stage's length for its mean, as the toy script and Datagnosis have it."""

    output: str = "logit"
    stat: str = "std"
    ddof: int = 0
    norm: str = "class"
    stage: tuple[int, int | None] | None = None

    def __post_init__(self) -> None:
        for name, known in (("output", ("logit", "prob")), ("stat", ("std", "var")), ("norm", NORMS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name}= is one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.ddof < 0:
            raise UserError(f"ddof= is 0 or more, not {self.ddof}")


DIALECTS = {
    "agarwal": Dialect(),
    "agarwal-toy": Dialect(output="prob"),
    "agarwal-toy-early": Dialect(output="prob", stage=(0, 5)),
    "agarwal-toy-middle": Dialect(output="prob", stage=(5, 10)),
    "agarwal-toy-late": Dialect(output="prob", stage=(10, None)),
    "datagnosis": Dialect(output="prob", norm="none"),
    "datagnosis-early": Dialect(output="prob", norm="none", stage=(0, 5)),
    "datagnosis-middle": Dialect(output="prob", norm="none", stage=(5, 10)),
    "datagnosis-late": Dialect(output="prob", norm="none", stage=(10, None)),
    "kwok": Dialect("prob", "var", 1, "none"),
    "emnlp": Dialect("logit", "var", 0, "class"),
    "emnlp-dataset": Dialect("logit", "var", 0, "dataset"),
}
"""agarwal: the authors' ImageNet script; agarwal-toy: their toy script as it is called without options but
for the mode, with all checkpoints; datagnosis: its plugin, which took that and left the normalisation out;
kwok: the code of 2401.01867; emnlp: 2311.16298, over embeddings."""


def dialect(name: str | Dialect) -> Dialect:
    """The dialect of that name. UserError where there is none."""
    if isinstance(name, Dialect):
        return name
    if name not in DIALECTS:
        raise UserError(f"no VoG dialect {name!r}{suggest(name, DIALECTS)}; there are {', '.join(DIALECTS)}")
    return DIALECTS[name]


class VoG:
    """The streaming reducer: give it the gradients of one checkpoint after the other.

    State is two fp32 arrays of examples x elements (Welford), whatever the number of checkpoints.
    """

    def __init__(
        self, examples: int, elements: int, how: str | Dialect = "agarwal", mask: Any = None
    ) -> None:
        """mask: as `vog` takes it."""
        self.how = dialect(how)
        if self.how.stage is not None:
            raise UserError("a stage of the checkpoints is taken of all their gradients: use vog()")
        if not (examples >= 0 and elements >= 0):
            raise UserError(f"VoG is of numbers of examples and elements, not of {examples} and {elements}")
        self.checkpoints = 0
        self._mean = np.zeros((examples, elements), np.float32)
        self._squares = np.zeros((examples, elements), np.float32)
        self._mask = None if mask is None else _counting(mask, (examples, elements))

    def update(self, gradients: Any) -> None:
        """Take in one checkpoint's gradients, (examples, elements) of fp32, bf16, fp16 or fp64."""
        x = borrow(gradients, 2, "the gradients")
        if self._mask is not None and x.shape == self._mask.shape:
            x = borrow(np.where(self._mask, to_numpy(gradients), 0), 2, "the gradients")
        if x.shape != self._mean.shape:
            raise UserError(f"gradients have the shape {x.shape} where {self._mean.shape} is expected")
        self.checkpoints += 1
        run_vog_update(dense(x, "the gradients"), self._mean, self._squares, self.checkpoints)

    def scores(self, labels: Any = None) -> Floats:
        """VoG of every example so far; `labels` for the normalisation within classes."""
        _enough(self.checkpoints, self.how)
        raw = run_vog_reduce(self._squares, self.checkpoints, self.how.stat == "std", self.how.ddof)
        return normalise(_of_counting(raw, self._mask), self.how.norm, labels)


def vog(gradients: Any, labels: Any = None, how: str | Dialect = "agarwal", mask: Any = None) -> Floats:
    """VoG from gradients of examples x checkpoints x elements at once, without state.

    mask: (examples, elements) of booleans, which elements the mean is taken over; leave out the padding of
    texts, which would make short ones look easy. Default all. Raises UserError for an example of which none
    counts."""
    d, x = dialect(how), borrow(gradients, 3, "the gradients")
    counting = None if mask is None else _counting(mask, (x.shape[0], x.shape[2]))
    if counting is not None:
        gradients = np.where(counting[:, None], to_numpy(gradients), 0)
        x = borrow(gradients, 3, "the gradients")
    if d.stage is not None:
        raw = _of_stage(to_numpy(gradients), *d.stage)
    else:
        _enough(x.shape[1], d)
        raw = run_vog_examples(x, d.stat == "std", d.ddof)
    return normalise(_of_counting(raw, counting), d.norm, labels)


def _counting(mask: Any, shape: tuple[int, int]) -> np.ndarray:
    counting = to_numpy(mask)
    if counting.dtype.kind != "b" or counting.shape != shape:
        raise UserError(f"mask= holds booleans of {shape}, not {counting.dtype} of {counting.shape}")
    if not (some := counting.any(axis=1)).all():
        raise UserError(f"no element of example {int((~some).argmax())} counts: the mask leaves it nothing")
    return counting


def _of_counting(raw: Floats, counting: np.ndarray | None) -> Floats:
    """The mean over what counts: gradients of the rest were made 0, which vary by 0."""
    return raw if counting is None else raw * (counting.shape[1] / counting.sum(axis=1))


def _of_stage(gradients: np.ndarray, start: int, end: int | None) -> Floats:
    stage = gradients[:, start:end].astype(np.float64)
    if not stage.shape[1]:
        raise UserError(f"there is no checkpoint from {start} on among {gradients.shape[1]}")
    mean = gradients.sum(axis=1, dtype=np.float64) / stage.shape[1]
    return np.sqrt(((stage - mean[:, None]) ** 2).mean(axis=1)).mean(axis=1)


def _enough(checkpoints: int, how: Dialect) -> None:
    if checkpoints < 2:
        raise UserError(f"a variance over checkpoints needs at least two of them, not {checkpoints}")
    if checkpoints <= how.ddof:
        raise UserError(f"ddof={how.ddof} needs more than {how.ddof} checkpoints")


def normalise(raw: Floats, norm: str, labels: Any = None) -> Floats:
    """(v - mean) / population std, within each class, over the data set, or not at all.

    Where all of a class are equal (one example, say) they are 0. An example without a finite VoG is NaN, and
    the others are normalised without it. UserError for an unknown norm and for
    "class" without labels.
    """
    if norm == "none":
        return raw
    if norm == "dataset":
        return _standard(raw)
    if norm != "class":
        raise UserError(f"norm= is 'class', 'dataset' or 'none', not {norm!r}")
    if labels is None:
        raise UserError("norm='class' needs labels=; 'dataset' and 'none' do not")
    y = integers(labels, "labels", len(raw))
    result = np.empty_like(raw)
    for label in np.unique(y):
        result[y == label] = _standard(raw[y == label])
    return result


def _standard(v: Floats) -> Floats:
    result, finite = np.full_like(v, np.nan), np.isfinite(v)
    known = v[finite]
    # The mean of equal numbers is rounded, and their deviations from it would be divided by one another.
    differ = len(known) > 0 and known.min() < known.max()
    result[finite] = (known - known.mean()) / known.std() if differ else 0.0
    return result
