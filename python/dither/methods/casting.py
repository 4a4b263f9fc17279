"""Casting a model's weights for evaluation, and putting the exact originals back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dither.errors import UserError
from dither.methods.grid import Grid
from dither.methods.targets import Target, find_targets
from dither.nn import ops
from dither.nn.streams import stream
from dither.quantizer import Quantizer

CAST_OPERAND = 15
"""The operand number of a cast in the random stream; layers use 0..5 and 8..13, so no draw of training is
repeated.
"""

ROUNDINGS = ("nearest_even", "stochastic")


def randomized(quantizer: Quantizer | str) -> Quantizer:
    """The stochastic version of a quantizer: unchanged if it is stochastic, else with 16 random bits per
    element.

    Each weight's probability of rounding up is then off by at most 2^-17.
    """
    q = quantizer if isinstance(quantizer, Quantizer) else Quantizer(quantizer)
    return q if q.is_stochastic else q.replace(rounding="stochastic", bits=16)


@contextmanager
def cast_weights(
    model: nn.Module,
    quantizer: Quantizer | str,
    rounding: str = "nearest_even",
    *,
    seed: int | None = None,
    sites: Sequence[str] = ("linear",),
    exempt: Sequence[str] = (),
) -> Iterator[nn.Module]:
    """Inside the block the target weights of `model` are fake-quantized; on leaving, also by an exception,
    they are restored bit for bit.

    `rounding`: "nearest_even", or "stochastic" (randomized rounding, which needs `seed`: every weight draws
    from its own stream, so the cast of one does not depend on which others are cast). Blocks run along the
    last axis, as in the forward product. A weight that several modules share is cast once. The weights must
    not be trained inside the block: what is written to them there is lost. Cast the weights of a plain model
    (`Method.paused`): a layer that quantizes its own weights would quantize twice.

    Costs two copies of the target weights. Raises UserError for a stochastic cast without a seed and for
    globs without a match.
    """
    targets = find_targets(model, sites=sites, exempt=exempt)
    with written(targets, {t.name: cast_weight(t, t.weight, quantizer, rounding, seed) for t in targets}):
        yield model


def cast_weight(
    target: Target, weight: Tensor, quantizer: Quantizer | str | Grid, rounding: str, seed: int | None
) -> Tensor:
    """`weight`, of the shape of the target's, rounded for evaluation under a quantizer or to the points of a
    grid; `rounding` and `seed` as for `cast_weights`."""
    if rounding not in ROUNDINGS:
        raise UserError(f"unknown rounding {rounding!r} for a cast; use one of {', '.join(ROUNDINGS)}")
    if hasattr(weight, "full_tensor"):
        raise UserError(
            f"{target.name} is sharded over processes (FSDP2): load the full state dict into a plain model, "
            "and cast its weights"
        )
    key: dict[str, Any] = {}
    if rounding == "stochastic":
        if seed is None:
            raise UserError("a stochastic cast needs seed=, so that it can be repeated")
        key = {"seed": seed, "stream": stream(target.index, CAST_OPERAND, 0, 0)}
    with torch.no_grad():
        rows = target.rows(weight)
        if isinstance(quantizer, Grid):
            return target.like(quantizer.drawn(rows, **key) if key else quantizer.nearest(rows))
        q = randomized(quantizer) if key else Quantizer(quantizer).replace(rounding=rounding)
        return target.like(ops.fake_quant(rows, q, axis=-1, **key))


@contextmanager
def written(targets: Sequence[Target], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the block the target weights hold `values` (by name); afterwards what they held before."""
    originals = [(target.weight, target.weight.detach().clone()) for target in targets]
    try:
        with torch.no_grad():
            for target in targets:
                target.weight.copy_(values[target.name])
        yield
    finally:
        with torch.no_grad():
            for weight, original in originals:
                weight.copy_(original)
