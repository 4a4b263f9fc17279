"""Prediction depth (Baldock et al., 2106.09647): how many layers a model needs for its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dither.errors import UserError, require
from dither.scores.borrowed import Ints, integers, matrix
from dither.scores.gradients import check_apart
from dither.scores.neighbours import centred
from dither.scores.reliability import at_least_one

BLOCK = 1 << 22
"""Distances held at a time."""


def activations(model: Any, inputs: Any, layers: Sequence[str], chunk: int = 256) -> list[Any]:
    """Outputs of the named layers of a torch model, each flattened to (n, d) numpy fp32, in the given order.

    UserError for a layer that the model has not, or that its forward pass does not call exactly once, and for
    a model whose outputs depend on the batch or on chance (batch normalisation, dropout): call eval() first.
    """
    torch = require("torch", "torch")
    at_least_one(chunk=chunk, inputs=len(inputs))
    check_apart(torch, model)
    modules = dict(model.named_modules())
    if missing := [name for name in layers if name not in modules]:
        raise UserError(f"the model has no layer {missing[0]!r}; it has {', '.join(n for n in modules if n)}")
    seen: dict[str, list[Any]] = {name: [] for name in layers}
    hooks = [
        modules[name].register_forward_hook(
            lambda _, __, out, name=name: seen[name].append(out.detach().flatten(1).float().cpu().numpy())
        )
        for name in layers
    ]
    try:
        with torch.no_grad():
            for start in range(0, len(inputs), chunk):
                model(inputs[start : start + chunk])
    finally:
        for hook in hooks:
            hook.remove()
    calls = -(-len(inputs) // chunk)
    for name, parts in seen.items():
        if len(parts) != calls:
            raise UserError(f"layer {name!r} was called {len(parts)} times in {calls} forward passes")
    return [np.concatenate(seen[name]) for name in layers]


def prediction_depth(
    layers: Sequence[Any],
    labels: Any,
    predictions: Any,
    *,
    queries: Sequence[Any] | None = None,
    k: int = 30,
    dialect: str | None = None,
) -> Ints:
    """The first layer from which on the vote of the k nearest neighbours is the model's prediction; high is
    hard. 0 is the first layer given, their number says that not even the last one agrees.

    layers: embeddings (n, d) of labelled examples, in the order of the layers; the input itself is a good
        first and the logits a good last one. labels: (n,).
    predictions: of the scored examples, the model's (or the consensus of several).
    queries: embeddings (m, d) of other examples in the same layers; without them the labelled ones are
        scored, each left out of its own vote.
    dialect: "kwok" leaves none out, as the code of 2401.01867.

    Distances are Euclidean; of classes with as many votes the smallest wins. Cost: a product of all pairs for
    every layer, the dearest of all scores.

    Raises UserError for shapes that do not agree and for k that is not below the number of examples.
    """
    if dialect not in (None, "kwok"):
        raise UserError(f"prediction_depth knows the dialect kwok, not {dialect!r}")
    own = queries is None and dialect is None
    others = layers if queries is None else queries
    if not len(layers) or len(layers) != len(others):
        raise UserError(f"queries are of the same layers, at least one, not {len(others)} of {len(layers)}")
    n, m = len(layers[0]), len(others[0])
    y, predicted = integers(labels, "labels", n), integers(predictions, "predictions", m)
    if not 1 <= k < n:
        raise UserError(f"k={k} neighbours of {n} examples")
    classes, codes = np.unique(y, return_inverse=True)
    depth = np.full(m, len(layers), np.int64)
    agrees = np.ones(m, bool)
    for place in range(len(layers) - 1, -1, -1):
        x = matrix(layers[place], f"layer {place}")
        q = x if others is layers else matrix(others[place], f"queries of layer {place}")
        if len(x) != n or len(q) != m or x.shape[1] != q.shape[1]:
            raise UserError(f"layer {place} has the shapes {x.shape} and {q.shape}")
        agrees &= classes[_votes(x, q, codes, len(classes), k, own)] == predicted
        depth[agrees] = place
    return depth


def _votes(x: np.ndarray, q: np.ndarray, codes: np.ndarray, classes: int, k: int, own: bool) -> Ints:
    """The class that most of the k nearest of x have, for every row of q."""
    x, q, squares = centred(x, q)
    won = np.empty(len(q), np.int64)
    step = max(1, BLOCK // len(x))
    for start in range(0, len(q), step):
        block = q[start : start + step]
        # The query's own square is the same for all and does not change the order.
        distances = squares[None, :] - 2 * (block @ x.T)
        rows = np.arange(len(block))
        if own:
            distances[rows, start + rows] = np.inf
        nearest = codes[np.argpartition(distances, k - 1, axis=1)[:, :k]]
        counts = np.bincount((nearest + rows[:, None] * classes).ravel(), minlength=len(block) * classes)
        won[start : start + step] = counts.reshape(len(block), classes).argmax(axis=1)
    return won
