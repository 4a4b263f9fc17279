"""Every recipe on other people's models: they train with one line changed."""

import pytest
import tiny_models
import torch
from torch.nn import functional as F

import dither.nn as dnn

STEPS = 40
PLAIN = ("fp32",)


@pytest.mark.parametrize("kind", tiny_models.MODELS)
@pytest.mark.parametrize("recipe", dnn.Recipe.presets())
def test_a_model_learns_under_every_recipe(recipe, kind):
    """40 steps on a fixed batch, mean of the last five losses under 0.9 of the first."""
    torch.manual_seed(0)
    make, batch = tiny_models.MODELS[kind]
    model, (x, y) = make(), batch()
    dnn.prepare_(model, recipe, steps=STEPS)  # the one line
    assert bool(dnn.sites(model)) == (recipe not in PLAIN)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(STEPS):
        dnn.set_clock_(model, step)
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0]
