"""Averages of the weights along a run, instead of a decay of the learning rate.

    average = WeightAverage(model.parameters(), "tail", start=800)     # after every optimizer.step():
    average.update(step)
    with average.applied():                                            # the model has the averaged weights
        evaluate(model)

Sources: the uniform average of a tail, arXiv:1803.05407 (SWA); both kinds beside decays, arXiv:2405.18392,
section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dither.errors import UserError, suggest

KINDS = ("ema", "tail")


class WeightAverage:
    """An average of parameters in fp32, whatever their dtype: 4 bytes a parameter.

    Args:
        parameters: of one model; a parameter that is given twice counts once.
        kind: "ema", a = decay a + (1 - decay) w from the first weights seen on, or "tail", the mean of all
            weights seen.
        decay: of "ema".
        start: the first step whose weights count.
    """

    def __init__(
        self, parameters: Iterable[Tensor], kind: str = "ema", *, decay: float = 0.999, start: int = 0
    ) -> None:
        if kind not in KINDS:
            raise UserError(f"unknown average {kind!r}{suggest(kind, KINDS)}; known: {', '.join(KINDS)}")
        if not 0 <= decay < 1:
            raise UserError(f"decay is a number in [0, 1), not {decay}")
        self.parameters = list({id(p): p for p in parameters}.values())
        self.kind, self.decay, self.start, self.count = kind, decay, start, 0
        self.averages = [torch.zeros_like(p, dtype=torch.float32) for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`; nothing before `start`."""
        if step < self.start:
            return
        self.count += 1
        part = 1.0 - self.decay if self.kind == "ema" and self.count > 1 else 1.0 / self.count
        for average, parameter in zip(self.averages, self.parameters, strict=True):
            average.lerp_(parameter.detach().float(), part)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold the averages (rounded to nearest) inside, and their own bits again afterwards.
        UserError where nothing has been averaged yet."""
        if not self.count:
            raise UserError(f"no weights have been averaged yet: start = {self.start}")
        own = [p.detach().clone() for p in self.parameters]
        self._copy(self.averages)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "averages": [average.clone() for average in self.averages]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """UserError where the averages are of other parameters."""
        shapes = [tuple(a.shape) for a in state["averages"]]
        if shapes != [tuple(a.shape) for a in self.averages]:
            raise UserError("the averages that are loaded belong to other parameters: their shapes differ")
        self.count = state["count"]
        for average, value in zip(self.averages, state["averages"], strict=True):
            average.copy_(value)
