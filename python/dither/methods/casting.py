"""Casting a model's weights for evaluation, and putting the exact originals back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from dither.errors import UserError
from dither.methods.targets import find_targets
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

    Costs one copy of the target weights. Raises UserError for a stochastic cast without a seed and for globs
    without a match.
    """
    if rounding not in ROUNDINGS:
        raise UserError(f"unknown rounding {rounding!r} for a cast; use one of {', '.join(ROUNDINGS)}")
    if rounding == "stochastic":
        if seed is None:
            raise UserError("a stochastic cast needs seed=, so that it can be repeated")
        q = randomized(quantizer)
    else:
        q = quantizer if isinstance(quantizer, Quantizer) else Quantizer(quantizer)
        q = q.replace(rounding=rounding)
    targets = find_targets(model, sites=sites, exempt=exempt)
    originals = [(target.weight, target.weight.detach().clone()) for target in targets]
    try:
        with torch.no_grad():
            for target in targets:
                key = (
                    {}
                    if rounding != "stochastic"
                    else {"seed": seed, "stream": stream(target.index, CAST_OPERAND, 0, 0)}
                )
                target.weight.copy_(ops.fake_quant(target.weight, q, axis=-1, **key))
        yield model
    finally:
        with torch.no_grad():
            for weight, original in originals:
                weight.copy_(original)
