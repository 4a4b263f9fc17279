"""Every recipe on other people's models: they train with one line changed."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
import torch
from torch.nn import functional as F

import dither.nn as dnn
from dither import methods

STEPS = 40


def trained(kind: str, recipe: str | dnn.Recipe, method: Callable[..., Any] | None = None) -> list[float]:
    """The losses of 40 steps on a fixed batch."""
    torch.manual_seed(0)
    make, batch = tiny_models.MODELS[kind]
    model, (x, y) = make(), batch()
    dnn.prepare_(model, recipe, steps=STEPS)  # the one line
    assert bool(dnn.sites(model)) != dnn.Recipe.get(recipe).is_plain
    attached = method(model) if method else None
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(STEPS):
        dnn.set_clock_(model, step)
        if attached:
            attached.set_step(step)
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", tiny_models.MODELS)
@pytest.mark.parametrize("recipe", dnn.Recipe.presets())
def test_a_model_learns_under_every_recipe(recipe, kind):
    """The mean of the last five losses is under 0.9 of the first."""
    losses = trained(kind, recipe)
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny_models.MODELS)
@pytest.mark.parametrize("recipe", dnn.Recipe.presets())
def test_a_model_learns_under_every_recipe_with_its_weights_left_to_qat(recipe, kind):
    """Quartet's dgrad_w stays, for it turns what the forward has rotated."""
    own = ("fprop_w",) if recipe == "quartet" else ("fprop_w", "dgrad_w")
    rest = dnn.Recipe.get(recipe, **dict.fromkeys(own))
    losses = trained(kind, rest, lambda model: methods.Qat(model, "int4_g32", sites=("linear", "conv")))
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]
