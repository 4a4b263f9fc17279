"""Runs whose training examples were scored: one part of a study each, shared by the studies of scores."""

from __future__ import annotations

import numpy as np

from dither.scores import condition_effect, rank, spearman
from dither.studies.data import images
from dither.studies.measure import Measurement, jackknife
from dither.studies.study import Arrays, Context
from dither.studies.training import SCORES, Watch, accuracy, fit, flip, hard


def scored_run(
    source: str, train: int, arch: str, recipe: str, epochs: int, noise: float, seed: int
) -> Arrays:
    """All SCORES of the images' training examples after one run, high is hard, and `accuracy` on the test
    images. noise: the share of labels replaced, the same ones for every seed."""
    found = images(source, train, 2000)
    labels, _ = flip(found.y, found.classes, noise, seed=1)
    watch = Watch(found.x, labels)
    model = fit(
        found.x, labels, found.classes, seed=seed, arch=arch, recipe=recipe, epochs=epochs, visit=watch
    )
    scores = {name: hard(name, values) for name, values in watch.scores().items()}
    return scores | {"accuracy": np.array(accuracy(model, found.test_x, found.test_y))}


def runs(context: Context, **settings: object) -> dict[str, np.ndarray]:
    """Of one setting, all seeds: score -> (seeds, n), and accuracy -> (seeds,)."""
    parts = [context.part(scored_run, **settings, seed=seed) for seed in context.seeds]
    return {name: np.stack([part[name] for part in parts]) for name in (*SCORES, "accuracy")}


def r1(values: np.ndarray) -> float:
    """Mean Spearman of two runs of (runs, n)."""
    return float(spearman(values)[np.triu_indices(len(values), 1)].mean())


def between(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Spearman of a run of one setting and one of the other with another seed: two runs of a seed share
    weights and order at the start."""
    return condition_effect(a, b, paired=True).between


def corrected(a: np.ndarray, b: np.ndarray) -> float:
    """The same, corrected for the noise of runs."""
    return condition_effect(a, b, paired=True).corrected


def measured(statistic, *groups: np.ndarray) -> Measurement:
    """A statistic of groups of runs, with a jackknife over seeds (the same one is left out of all)."""
    return jackknife(lambda kept: statistic(*(group[kept] for group in groups)), len(groups[0]))


def mean_rank(values: np.ndarray) -> np.ndarray:
    """(runs, n) -> (n,): the mean of the ranks within runs."""
    return rank(values).mean(axis=0)
