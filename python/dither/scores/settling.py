"""When a prediction became what it stayed, whatever the label says (Baldock et al., 2106.09647)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dither.scores.borrowed import Ints, to_numpy


class Settling:
    """The last prediction of every example, and the visit (from 0) at which it last changed."""

    def __init__(self, n: int) -> None:
        self.state = {"prediction": np.full(n, -1, np.int32), "changed": np.zeros(n, np.uint32)}

    def visit(self, places: Ints, logits: Any, visits: np.ndarray) -> None:
        """Take a batch in. visits: of all examples, this one counted; the highest bit is not theirs."""
        # torch has an argmax for bf16, which numpy does not read
        z = logits.detach() if hasattr(logits, "detach") else to_numpy(logits)
        now = to_numpy(z.argmax(1))
        before = self.state["prediction"][places]
        count = (visits[places] & 0x7FFF_FFFF) - 1
        changed = self.state["changed"]
        changed[places] = np.where(now == before, changed[places], count)
        self.state["prediction"][places] = now
