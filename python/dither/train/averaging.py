"""The average of a run's weights that takes the place of a decay: `train.average`.

Training goes on with its own weights. Measurements from `train.average_from` on, and model.safetensors, are
of the averaged ones (dither.optim.averaging).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from dither.optim import WeightAverage
from dither.train.config import TrainConfig

PREFIX = "weight_average."


class RunAverage:
    """What `train.average` asks for, "none" included."""

    def __init__(self, model: nn.Module, settings: TrainConfig) -> None:
        self.names = [name for name, _ in model.named_parameters()]
        self.average = None
        if settings.average != "none":
            start = int(settings.average_from * settings.steps)
            self.average = WeightAverage(
                model.parameters(), settings.average, decay=settings.average_decay, start=start
            )

    def update(self, step: int) -> None:
        """Take in the weights after optimizer step `step`."""
        if self.average is not None:
            self.average.update(step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, once there are any."""
        if self.average is None or not self.average.count:
            yield
            return
        with self.average.applied():
            yield

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        if self.average is None:
            return {}
        tensors = dict(zip(self.names, self.average.averages, strict=True))
        return {PREFIX + name: value for name, value in tensors.items()} | {
            PREFIX + "count": self.average.count
        }

    def load_(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        if self.average is not None:
            averages = [state[PREFIX + name] for name in self.names]
            self.average.load_state_dict({"count": state[PREFIX + "count"], "averages": averages})
