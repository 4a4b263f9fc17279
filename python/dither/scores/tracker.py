"""Training dynamics in a user's own loop: one record of 48 bytes an example, updated by index in any
order."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

from dither.errors import UserError, suggest
from dither.scores.borrowed import Floats, floats, integers, shaped
from dither.scores.catalogue import DYNAMICS, POINTWISE
from dither.scores.dynamics import DERIVED
from dither.scores.engine import Histories, alike
from dither.scores.pointwise import logit_scores
from dither.scores.runs import LABEL
from dither.scores.settling import Settling
from dither.scores.table import ScoreTable
from dither.scores.visits import check_labels, check_step, refusal, whole_step

DEFAULT = (
    "forgetting",
    "iteration_learned",
    "aum",
    "confidence_mean",
    "variability",
    "el2n_mean",
    "loss_mean",
)
_COLUMNS = ("confidence", "correct", "margin", "loss", "el2n", "entropy")
"""What the records take, in the order of the extension."""

LAST = tuple(score.name for score in POINTWISE)
"""Scores of one visit: the tracker keeps the latest."""


class Tracker:
    """Collects scores of one run while it trains.

    tracker = Tracker(len(dataset), scores=["el2n", "forgetting", "aum"])
    for index, x, y in loader:
        logits = model(x)
        tracker.update(index, logits, y, step=step)
    table = tracker.table(run="seed-0")

    A batch may hold any examples in any order, each at most once: a minibatch of the training pass, or a full
    evaluation in pieces. Every visit counts as one observation, so keep to one cadence in a run (NLP
    fine-tuning needs evaluations every 50 steps: per epoch, most examples are never seen to be forgotten).

    Scores of one visit (loss, el2n, margin, ...) keep the value of the latest visit: take `table()` at the
    step that the score is meant for, or after an evaluation there. `update` also keeps the labels (4 bytes an
    example), by which tables of different data are told apart. Thread-safe; a batch that is refused leaves
    nothing behind.

    Counts are exact. Means are kept in fp32 without bias: after T visits they are right to about 5e-8
    sqrt(T/3) of themselves (rms; 4e-6 after 20,000), that of the margin to 1e-12; a confidence above 1/2 to
    as much of what it lacks of 1, so that examples known for sure differ.
    """

    def __init__(self, n_examples: int, scores: Iterable[str] = DEFAULT) -> None:
        """Raises UserError for unknown scores, for none, and for a number of examples below 1."""
        if isinstance(n_examples, bool) or not hasattr(n_examples, "__index__") or n_examples < 1:
            raise UserError(f"n_examples is a positive integer, not {n_examples!r}")
        known = (*LAST, *(score.name for score in DYNAMICS))
        self.scores = tuple(dict.fromkeys((scores,) if isinstance(scores, str) else scores))
        if not self.scores:
            raise UserError(f"scores= is empty: name what is tracked, such as {', '.join(DEFAULT[:3])}")
        for name in self.scores:
            if name not in known:
                raise UserError(
                    f"no score {name!r} of training{suggest(name, known)}; there are {', '.join(known)}"
                )
        needed = {column for name in self.scores for column in DERIVED.get(name, ())}
        self._columns = tuple(c for c in _COLUMNS if c in needed or c in ("confidence", "correct"))
        self._wanted = tuple(name in self._columns or name in self.scores for name in _COLUMNS)
        self._from_logits = [n for n in self.scores if n == "settled" or (n in LAST and n not in _COLUMNS)]
        self._histories = Histories(n_examples)
        self._record = self._histories.recorder(
            sum(1 << k for k, wanted in enumerate(self._wanted) if wanted)
        )
        self._last = {name: np.full(n_examples, np.nan) for name in self.scores if name in LAST}
        self._labels: np.ndarray | None = None  # int32, -1 where there was none yet
        self._settling = Settling(n_examples) if "settled" in self.scores else None
        self._lock = threading.Lock()
        self.classes: int | None = None
        self.step: int | None = None

    def __len__(self) -> int:
        return len(self._histories)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        more = [*self._last.values(), *(() if self._labels is None else (self._labels,))]
        more += () if self._settling is None else self._settling.state.values()
        return self._histories.nbytes + sum(values.nbytes for values in more)

    def update(self, index: Any, logits: Any, labels: Any, *, step: SupportsIndex | None = None) -> None:
        """One visit of each example of a batch.

        index: (b,) integers, places in the data set. logits: (b, classes), labels: (b,), as `logit_scores`
        takes them. step: where training stands, from 0; the last one is kept in the table.

        Raises UserError for an index outside the data set or twice in the batch, labels outside the classes
        or other than before, logits without probabilities (NaN), another number of classes than before, and a
        step below that of the batch before for examples that were visited already: their history would be out
        of order, as after a resumption without `load_state_dict` (shards may follow one another, each from
        step 0). Nothing is taken then.
        """
        step = whole_step(step)
        places = integers(index, "index", masks=False)
        logits = shaped(logits, "logits")
        wanted = tuple(dict.fromkeys((*self._columns, *self._last)))
        found = logit_scores(logits, labels, wanted)
        classes = int(logits.shape[1])
        with self._lock:
            if self.classes not in (None, classes):
                raise UserError(f"logits have {classes} classes where earlier ones had {self.classes}")
            rows = len(found["confidence"])
            if rows != len(places):
                raise UserError(f"index has {len(places)} elements where logits have {rows} rows")
            mine = integers(labels, "labels")
            check_step(step, self.step, places, self._histories["visits"])
            check_labels(places, mine, self._labels)
            self._take_batch(places, [found.get(name) for name in _COLUMNS], found, step)
            if self._labels is None:
                self._labels = np.full(len(self), -1, np.int32)
            self._labels[places] = mine
            if self._settling is not None:
                self._settling.visit(places, logits, self._histories["visits"])
            self.classes = classes

    def visit(
        self,
        index: Any,
        *,
        confidence: Any,
        correct: Any,
        margin: Any = None,
        loss: Any = None,
        el2n: Any = None,
        entropy: Any = None,
        step: SupportsIndex | None = None,
    ) -> None:
        """The same from values that are at hand: p_y, whether the prediction was right (0 or 1; of a share,
        above one half), and what the tracked scores need beside them. Raises UserError where one is missing,
        and as `update` does."""
        step = whole_step(step)
        falls = step is not None and self.step is not None and step < self.step
        if not self._last and not self._from_logits and not falls:
            # A training step a visit: arrays that need no conversion go straight into the histories. What is
            # refused here is converted below, or refused there in words.
            with self._lock:
                if self._record(index, confidence, correct, margin, loss, el2n, entropy) is None:
                    if step is not None:
                        self.step = step
                    return
        places = integers(index, "index", masks=False)
        if self._from_logits:
            raise UserError(f"{self._from_logits[0]} comes from logits: use update()")
        n, columns = len(places), []
        given = (confidence, correct, margin, loss, el2n, entropy)
        for value, wanted in zip(given, self._wanted, strict=True):
            if wanted and value is None:
                name = _COLUMNS[len(columns)]
                raise UserError(f"the tracked scores need {name}; pass it, or use update() with logits")
            columns.append(floats(value, _COLUMNS[len(columns)], n) if wanted else None)
        with self._lock:
            check_step(step, self.step, places, self._histories["visits"])
            self._take_batch(
                places, columns, dict(zip(_COLUMNS, columns, strict=True)) if self._last else {}, step
            )

    def _take_batch(
        self,
        places: np.ndarray,
        columns: Sequence[Floats | None],
        values: Mapping[str, Floats | None],
        step: int | None,
    ) -> None:
        refused = self._record(places, *columns)
        if refused is not None:
            place, why = refused
            assert why != "form"
            raise refusal(why, place, places, dict(zip(_COLUMNS, columns, strict=True)), len(self))
        for name, last in self._last.items():
            last[places] = values[name]
        if step is not None:
            self.step = step

    def table(
        self,
        run: str = "run",
        *,
        ids: Any = None,
        provenance: Mapping[str, Any] | None = None,
        data: str | None = None,
    ) -> ScoreTable:
        """What was collected, as the table of one run. ids: (n,) of integers or strings, default 0..n-1.
        data: a name of the data set; tables of different ones do not merge."""
        with self._lock:
            columns: dict[str, np.ndarray] = {"visits": self._histories["visits"].astype(np.int64)}
            columns["visits"] &= 0x7FFF_FFFF
            for name in ("correct", "forgets", "first_correct", "last_wrong"):
                columns[f"sum_{name}"] = self._histories[name].astype(np.int64)
            kept = {part for name in self.scores for part in DERIVED.get(name, ())} & set(_COLUMNS)
            for name in sorted(kept - {"correct"}):
                columns[f"mean_{name}"] = self._histories.mean(name)
            if "confidence" in kept:
                columns["squares_confidence"] = self._histories["deviation"].astype(np.float64)
            if self._settling is not None:
                columns["sum_changed"] = self._settling.state["changed"].astype(np.int64)
            # -1 is no label: that of a process of a distributed run that had no batch merges with the others'
            labels = (
                np.full(len(self), -1, np.int64) if self._labels is None else self._labels.astype(np.int64)
            )
            last = {name: values.copy() for name, values in self._last.items()}
        unseen = columns["visits"] == 0
        for name, values in columns.items():
            if name.startswith(("mean_", "squares_")):
                values[unseen] = np.nan
        about = {"step": self.step, "classes": self.classes}
        about = {key: value for key, value in about.items() if value is not None} | dict(provenance or {})
        return ScoreTable.of_run(
            run, {**columns, **last, LABEL: labels}, ids=ids, scores=self.scores, provenance=about, data=data
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything, as arrays and plain values: to save beside a checkpoint and go on bit for bit."""
        with self._lock:
            last = {f"last.{name}": values.copy() for name, values in self._last.items()}
            labels = {} if self._labels is None else {"labels": self._labels.copy()}
            if self._settling is not None:
                labels |= {name: values.copy() for name, values in self._settling.state.items()}
            about = {"scores": list(self.scores), "classes": self.classes, "step": self.step}
            return {**self._histories.state(), **last, **labels, "about": about}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave. UserError, and nothing is taken, where it belongs to other examples
        or scores, or a part of it is missing or damaged."""
        about = state.get("about") if isinstance(state, Mapping) else None
        if not isinstance(about, Mapping) or not about.keys() >= {"scores", "classes", "step"}:
            raise UserError("this is no state of a tracker: it lacks 'about', or a part of that")
        mine = {f"last.{name}": values for name, values in self._last.items()}
        mine |= {} if self._settling is None else self._settling.state
        labels = None if about["classes"] is None else np.empty(len(self), np.int32)  # update() keeps both
        found = mine if labels is None else {**mine, "labels": labels}
        with self._lock:
            if (
                tuple(about["scores"]) != self.scores
                or ("labels" in state) != (labels is not None)
                or not all(alike(state.get(name), values) for name, values in found.items())
                or not self._histories.load_state(state)
            ):
                raise UserError(
                    f"the state is of {about['scores']} and not of the {len(self)} examples and "
                    f"{list(self.scores)} of the tracker, or damaged, or of another version of dither"
                )
            for name, values in found.items():
                values[:] = state[name]
            self._labels, self.classes, self.step = labels, about["classes"], about["step"]
