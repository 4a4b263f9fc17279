"""Validation loss in nats per token and bits per byte: in full precision, under the run's own recipe, under
casts.

full     the trained weights, nothing quantized
recipe   the forward of training, with the quantizers of the run's recipe
cast     the linear weights cast with a quantizer, nothing else quantized: rounded to nearest
         ("nearest_even"), and randomized ("stochastic": the mean over draws with addressed bits, and the
         deviation between the draws); under the quantizer of a method whose grid is its own, the weights as
         the method deploys them
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dither import methods
from dither.models.gpt import GPT
from dither.models.losses import cross_entropy
from dither.train.batches import validation_windows
from dither.train.config import RunConfig
from dither.train.tokens import Tokens
from dither.train.wiring import is_plain

LOGITS = 1 << 23  # logits held at once; bounds the memory of an evaluation with a large vocabulary


@torch.no_grad()
def mean_loss(
    model: nn.Module, tokens: Tokens, context: int, limit: int, softmax: str = "softmax"
) -> tuple[float, float | None]:
    """Nats per token, and bits per byte (None where the bytes are unknown), over evenly spread windows."""
    rows = max(1, LOGITS // (context * tokens.vocab))
    batches, size = validation_windows(tokens.validation, tokens.validation_bytes, context, limit, rows)
    total, count = 0.0, 0
    was_training = model.training
    model.eval()
    for x_BT, y_BT in batches:
        total += float(cross_entropy(model(x_BT).flatten(0, 1), y_BT.flatten(), softmax, reduction="sum"))
        count += y_BT.numel()
    model.train(was_training)
    return total / count, (total / math.log(2) / size if size else None)


def evaluate(
    model: GPT,
    twin: GPT,
    config: RunConfig,
    tokens: Tokens,
    final: bool,
    method: methods.Method | None = None,
) -> list[dict[str, Any]]:
    """Rows {view, cast, rounding, draws, loss, loss_sd, bits_per_byte}; `view` is "full", "recipe" or "cast".

    `model` carries recipe and method, `twin` is plain over the same parameters. `method`: for the casts,
    ready to deploy."""
    settings = config.eval
    limit = settings.final_tokens if final and settings.final_tokens else settings.tokens
    draws = settings.draws if final else min(1, settings.draws)

    def measure(network: nn.Module) -> tuple[float, float | None]:
        return mean_loss(network, tokens, config.model.context, limit, config.model.softmax)

    def row(view: str, loss: float, bits: float | None, **rest: Any) -> dict[str, Any]:
        return {"view": view, "loss": loss, "bits_per_byte": bits, **rest}

    rows = [row("full", *measure(twin))]
    if not is_plain(config.recipe):
        rows.append(row("recipe", *measure(model)))
    for cast in settings.casts:
        own = method if method is not None and method.deploys_as(cast) else None
        with _cast(twin, cast, "nearest_even", None, own) as network:
            rows.append(row("cast", *measure(network), cast=cast, rounding="nearest_even"))
        if not draws or (own is not None and not own.can_draw):
            continue
        results = []
        for draw in range(draws):
            with _cast(twin, cast, "stochastic", draw, own) as network:
                results.append(measure(network))
        losses = [loss for loss, _ in results]
        mean = sum(losses) / draws
        sd = math.sqrt(sum((loss - mean) ** 2 for loss in losses) / (draws - 1)) if draws > 1 else None
        bits = None if results[0][1] is None else sum(b for _, b in results if b is not None) / draws
        rows.append(row("cast", mean, bits, cast=cast, rounding="stochastic", draws=draws, loss_sd=sd))
    return rows


@contextmanager
def _cast(
    twin: GPT, cast: str, rounding: str, seed: int | None, own: methods.Method | None
) -> Iterator[nn.Module]:
    """A plain network with its weights cast, as the method deploys them where it is given. The twin holds the
    weights of the run; a calibrated method has a copy."""
    if own is None:
        with methods.cast_weights(twin, cast, rounding, seed=seed):
            yield twin
        return
    with own.deployed(rounding, seed=seed) as network:
        yield network if own.needs_data else twin
