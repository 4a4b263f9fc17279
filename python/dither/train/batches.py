"""Which tokens a step sees: a function of (seed, step), so that the data order needs no state.

The training tokens are cut into windows of `context` tokens. In every epoch each window is used once, in an
order and with an offset of the cuts that depend on (seed, epoch) alone. The order comes from Philox
counter-mode bits and a stable sort, not from a library's shuffle, whose stream may change between versions.

A run on a subset (train.subset) has examples that it never sees: its cuts stay where those of the scored
windows are (dither.train.scoring), and it uses those windows that the subset of its seed holds. The last
target of a window is the first token of the next one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dither.errors import UserError
from dither.scores import subset


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, windows: int, context: int) -> tuple[int, np.ndarray]:
    """Offset of the cuts in [0, context) and the order of the windows, for one epoch."""
    bits = np.random.Philox(counter=0, key=(epoch << 64) | (seed & (2**64 - 1))).random_raw(windows + 1)
    return int(bits[0] % np.uint64(context)), np.argsort(bits[1:], kind="stable")


class Batches:
    """`batches.at(step, microbatch)` returns inputs and targets (b, T), int64, b = batch / accumulate."""

    def __init__(
        self, tokens: np.ndarray, context: int, batch: int, accumulate: int, seed: int, share: float = 1.0
    ) -> None:
        self.tokens, self.context, self.seed = tokens, context, seed
        self.batch, self.micro = batch, batch // accumulate
        available = (len(tokens) - 1) // context
        self.kept = subset(available, share, seed) if share < 1 and available else None
        # one window less than fits, so that every offset leaves room for the last target
        self.windows = available - 1 if self.kept is None else len(self.kept)
        if self.windows < 1:
            raise UserError(
                f"the training data has {len(tokens)} tokens, too few for model.context = {context}; "
                "add data or shorten the context"
            )

    def at(self, step: int, microbatch: int = 0) -> tuple[Tensor, Tensor]:
        rows = []
        first = step * self.batch + microbatch * self.micro
        for index in range(first, first + self.micro):
            epoch, place = divmod(index, self.windows)
            offset, order = epoch_order(self.seed, epoch, self.windows, self.context)
            window = int(order[place])
            start = (
                offset + window * self.context if self.kept is None else int(self.kept[window]) * self.context
            )
            rows.append(self.tokens[start : start + self.context + 1])
        window = torch.from_numpy(np.stack(rows).astype(np.int64))
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()


def validation_windows(
    tokens: np.ndarray, widths: np.ndarray, context: int, limit: int, rows: int
) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
    """Windows spread evenly over the validation tokens, at most `limit` tokens in all, `rows` at a time; and
    the bytes of text that their targets stand for (0 where unknown)."""
    context = min(context, len(tokens) - 1)
    if context < 1:
        raise UserError("the validation split holds fewer than two tokens; add data or raise data.validation")
    available = (len(tokens) - 1) // context
    count = min(available, max(1, limit // context))
    starts = [(i * available // count) * context for i in range(count)]
    size = sum(int(widths[start + 1 : start + context + 1].sum(dtype=np.int64)) for start in starts)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(0, count, rows):
            chunk = [tokens[start : start + context + 1] for start in starts[i : i + rows]]
            window = torch.from_numpy(np.stack(chunk).astype(np.int64))
            yield window[:, :-1].contiguous(), window[:, 1:].contiguous()

    return batches(), size
