"""What a layout has to say: which tensors it can hold, how large they become, what bytes they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dither.checkpoints.safetensors import Entry
from dither.checkpoints.source import Checkpoint
from dither.checkpoints.tensors import TensorInfo
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor

Choice = Mapping[str, Quantizer | None]
"""What becomes of every tensor: a quantizer, or None where it stays as it is."""


Part = Sequence[tuple[Entry, int]]
"""What is written for a source tensor, in the order of `Layout.encode`: entries, offsets in the file."""


@dataclass(frozen=True)
class PlannedFile:
    """A file of the output: the bytes before the data, and where the parts of every source tensor go."""

    name: str
    head: bytes
    size: int
    parts: Mapping[str, Part]


@dataclass(frozen=True)
class Stored:
    """A quantized tensor found in a checkpoint: the tensors it lies in, in the order of `Layout.encode`."""

    info: TensorInfo
    """Its name and shape as they were before it was quantized; `dtype` is that of the values."""
    quantizer: Quantizer
    parts: list[TensorInfo]


class Layout(Protocol):
    """One way of storing quantized tensors. Layouts hold no state: these are functions with a name."""

    name: str
    suffix: str
    """Ending of a single output file."""

    def check(self, q: Quantizer) -> None:
        """Raise UserError for a quantizer that the layout has no place for."""
        ...

    def obstacle(self, info: TensorInfo, q: Quantizer) -> str | None:
        """Why this tensor cannot be stored under `q` though others can; None where it can."""
        ...

    def entries(self, info: TensorInfo, q: Quantizer | None) -> list[Entry]:
        """What is written for a tensor."""
        ...

    def encode(self, t: QuantizedTensor, info: TensorInfo) -> list[np.ndarray]:
        """The arrays of `entries`. Raises UserError where a value has no place."""
        ...

    def decode(self, parts: Sequence[np.ndarray], info: TensorInfo, q: Quantizer) -> np.ndarray:
        """The values that the layout's readers give, as float32: `parts` are those of `encode`."""
        ...

    def plan(self, source: Checkpoint, choice: Choice, out_name: str) -> list[PlannedFile]:
        """The files with tensors."""
        ...

    def documents(self, source: Checkpoint, choice: Choice, plan: Sequence[PlannedFile]) -> dict[Path, Any]:
        """JSON documents beside them: relative path to content."""
        ...

    def find(self, source: Checkpoint) -> list[Stored]:
        """The quantized tensors of a checkpoint; none where it is not in this layout."""
        ...
