"""Small models on one thread, with the scores of their training data: what studies of scores are made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from dither.nn import prepare_
from dither.scores import ScoreTable, Tracker, class_gradients, grand_last_layer
from dither.scores.vog import Dialect, VoG

AVERAGED = ("el2n_mean", "aum", "confidence_mean", "loss_mean", "entropy_mean", "variability")
COUNTED = ("correctness", "iteration_learned", "forgetting")
SCORES = (*AVERAGED, *COUNTED, "el2n_early", "el2n_end", "grand_early", "vog")
"""`el2n_early` and `grand_early` (last layer) are of the epoch EARLY, `el2n_end` of the last; vog is not
normalised by class or data set."""
EASY = ("aum", "confidence_mean", "correctness")
EARLY = 3


@contextmanager
def _alone(seed: int):
    """One thread and a random state of one's own; both are put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def build(arch: str, inputs: int, classes: int) -> nn.Sequential:
    """mlp (128, 128), mlp-32 (32, 32), cnn (two convolutions; square images), linear."""
    if arch == "linear":
        return nn.Sequential(nn.Linear(inputs, classes))
    if arch == "cnn":
        side = int(inputs**0.5)
        return nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(16 * (side // 4) ** 2, classes),
        )  # fmt: skip
    width = {"mlp": 128, "mlp-32": 32}[arch]
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


def fit(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    *,
    seed: int,
    arch: str = "mlp",
    recipe: str = "fp32",
    epochs: int = 6,
    batch: int = 64,
    rate: float = 1e-3,
    visit: Callable[[nn.Sequential, int], None] | None = None,
) -> nn.Sequential:
    """Train by Adam; `seed` gives weights and order. recipe: of `dither.nn.prepare_`, for all layers but
    the last.

    visit(model, epoch) is called after every epoch, 1, 2, ...
    """
    with _alone(seed):
        model = build(arch, x.shape[1], classes)
        if recipe != "fp32":
            prepare_(model, recipe, exempt=[str(len(model) - 1)], seed=seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
        for epoch in range(1, epochs + 1):
            for rows in torch.randperm(len(y)).split(batch):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
                optimizer.step()
            if visit is not None:
                visit(model, epoch)
    return model


def logits(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """Of every row, without gradients."""
    with torch.no_grad():
        return model(torch.from_numpy(x)).numpy()


def accuracy(model: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """The share of rows whose greatest logit is the label's."""
    return float((logits(model, x).argmax(axis=1) == y).mean())


class Watch:
    """Scores of all training examples by full evaluations after every epoch: pass it to `fit` as `visit`."""

    def __init__(self, x: np.ndarray, y: np.ndarray, with_vog: bool = True) -> None:
        self.x, self.y = x, y
        self.tracker = Tracker(len(y), (*AVERAGED, *COUNTED, "el2n"))
        self.vog = VoG(len(y), x.shape[1], Dialect(norm="none")) if with_vog else None
        self.early: dict[str, np.ndarray] = {}

    def __call__(self, model: nn.Sequential, epoch: int) -> None:
        inputs, labels = torch.from_numpy(self.x), torch.from_numpy(self.y)
        with torch.no_grad():
            features = model[:-1](inputs)
            z = model[-1](features)
        self.tracker.update(np.arange(len(self.y)), z, self.y, step=epoch)
        if epoch == EARLY:
            self.early = {
                "el2n_early": self.table().values("el2n")[0],
                "grand_early": grand_last_layer(z, self.y, features),
            }
        if self.vog is not None:
            self.vog.update(class_gradients(model, inputs, labels))

    def table(self) -> ScoreTable:
        return self.tracker.table()

    def scores(self) -> dict[str, np.ndarray]:
        """Every one of SCORES as an array of (n,); vog where it was asked for."""
        table = self.table()
        found = {name: table.values(name)[0] for name in (*AVERAGED, *COUNTED)}
        found |= {"el2n_end": table.values("el2n")[0], **self.early}
        if self.vog is not None:
            found["vog"] = self.vog.scores()
        return found


def hard(name: str, values: np.ndarray) -> np.ndarray:
    """The score turned so that high is hard."""
    return -values if name in EASY else values


def flip(y: np.ndarray, classes: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which `share` are replaced by another class, any as likely; and which ones."""
    noise = np.random.Generator(np.random.Philox(seed))
    planted = np.zeros(len(y), bool)
    planted[noise.permutation(len(y))[: round(share * len(y))]] = True
    other = (y + noise.integers(1, classes, len(y))) % classes
    return np.where(planted, other, y), planted
