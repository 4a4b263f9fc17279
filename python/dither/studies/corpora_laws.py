"""Laws of runs on several corpora: is the floor identified, do laws and maps between corpora predict larger
runs.

A corpus is a pair of tables, `fit` and `held`, with N (parameters), D (tokens of training) and loss (bits per
byte); the same cells (N, D) were trained on every corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from dither import laws
from dither.errors import UserError
from dither.laws import derived
from dither.laws.engine import Floats
from dither.laws.holdout import naive as naive_losses
from dither.laws.scales import size
from dither.laws.validation import nested, uncalibrated
from dither.studies.measure import Measurement, jackknife, proportion, resampled

Runs = dict[str, Floats]
LAW, OBJECTIVE = "chinchilla", "log_square"
RIVALS = ("chinchilla", "chinchilla_tied", "kaplan_e")
FEW = 6
"""Runs of a corpus from which its law is translated from another's, or fitted directly."""


@dataclass(frozen=True)
class Corpus:
    """name; fit: runs that laws see; held: larger ones; law: of the first."""

    name: str
    fit: Runs
    held: Runs
    law: laws.Fit


def corpus(name: str, fit: Runs, held: Runs) -> Corpus:
    return Corpus(name, fit, held, laws.fit(LAW, fit, objective=OBJECTIVE))


def floor(one: Corpus) -> Measurement:
    """E with its profile interval: from 0 where the runs do not bound it below, to the least loss where not
    above."""
    found, value = one.law.profile("E"), one.law.params["E"]
    low = 0.0 if found.low is None else found.low
    high = float(one.fit["loss"].min()) if found.high is None else found.high
    return Measurement(
        value, min(low, value), max(high, value), len(one.fit["loss"]), (1.96 + 0.84) / 3.92 * (high - low)
    )


def floor_row(one: Corpus) -> tuple[str, ...]:
    """What is known of E, in words."""
    found = one.law.profile("E")
    test = next(t for t in nested(one.law) if t.name == "E = 0")
    ends = ("not bounded" if end is None else f"{end:.3f}" for end in (found.low, found.high))
    why = uncalibrated(one.law)
    return (
        one.name,
        f"{one.law.params['E']:.3f}",
        *ends,
        "rejected" if test.rejected else "not rejected",
        f"{one.fit['loss'].min():.3f}",
        "yes" if identified(one) else "no",
        why or "-",
    )


def identified(one: Corpus) -> bool:
    """Whether the profile of E is bounded on both sides, and E = 0 rejected."""
    found = one.law.profile("E")
    zero = next(test for test in nested(one.law) if test.name == "E = 0")
    return found.low is not None and found.high is not None and zero.rejected


def power(cells: Runs, truth: Mapping[str, float], noise: float, sweeps: int) -> Measurement:
    """The share of simulated sweeps of these cells, at that noise of ln L, that identify the floor of
    `truth`."""
    found = []
    for seed in range(sweeps):
        made = laws.get(LAW).simulate(truth, N=cells["N"], D=cells["D"], noise=noise, seed=seed)
        found.append(identified(corpus("simulated", made, made)))
    return proportion(float(np.mean(found)), sweeps)


def exponent(one: Corpus, counts: Floats) -> tuple[float, Floats]:
    """a of N*(C) ~ C^a, and its values over resamples (counts: replicates x runs); NaN where one has no
    optimum."""
    drawn = one.law.bootstrap(weights=counts)
    a = drawn.values[:, 4] / (drawn.values[:, 3] + drawn.values[:, 4])
    return derived.exponent(**one.law.params), np.where(drawn.converged, a, np.nan)


def mean_exponent(corpora: list[Corpus], n: int) -> tuple[Measurement, dict[str, Measurement]]:
    """Over corpora, and of each: cells are resampled, the same for all corpora."""
    rows = len(corpora[0].fit["loss"])
    counts = np.random.default_rng(0).multinomial(rows, np.full(rows, 1 / rows), size=n).astype(float)
    enough = (counts > 0).sum(axis=1) > len(corpora[0].law.params)
    found = {one.name: exponent(one, counts[enough]) for one in corpora}
    each = {name: resampled(a, drawn[np.isfinite(drawn)], rows) for name, (a, drawn) in found.items()}
    whole = np.mean([drawn for _, drawn in found.values()], axis=0)  # where all corpora have an optimum
    centre = float(np.mean([a for a, _ in found.values()]))
    return resampled(centre, whole[np.isfinite(whole)], rows), each


@dataclass(frozen=True)
class Errors:
    """Predicted minus measured losses of the held-out runs of a corpus (bits per byte), and what they are
    relative to."""

    off: Floats
    loss: Floats
    floor: float

    @property
    def relative(self) -> Floats:
        return np.abs(self.off) / self.loss

    @property
    def reducible(self) -> Floats:
        return np.abs(self.off) / (self.loss - self.floor)


def direct(one: Corpus, law: str = LAW, fixed: Mapping[str, float] | None = None) -> Errors:
    """A law of the corpus's own smaller runs."""
    fit = laws.fit(law, one.fit, objective=OBJECTIVE, fixed=fixed)
    predicted = fit.predict(N=one.held["N"], D=one.held["D"])
    return Errors(predicted - one.held["loss"], one.held["loss"], fit.params["E"])


def naive(one: Corpus) -> dict[str, Errors]:
    """The best loss of the largest scale seen; a power law of compute alone."""
    truth = one.held["loss"]
    said = naive_losses(size(one.fit), one.fit["loss"], size(one.held))
    return {
        name: Errors(values - truth, truth, 0.0)
        for name, values in zip(("last loss", "power law of C"), said, strict=True)
    }


def mapped(x: Corpus, y: Corpus) -> Errors:
    """The loss on y of the held-out runs from that on x, by the map of the smaller runs."""
    found = laws.loss_to_loss(x.fit, y.fit, objective=OBJECTIVE)
    reach = np.maximum(x.held["loss"], found.E_x * (1 + 1e-9))
    return Errors(found.predict(reach) - y.held["loss"], y.held["loss"], found.E_y)


def few(y: Corpus) -> Runs:
    """FEW runs of y, spread evenly over compute from the least to the largest."""
    order = np.argsort(y.fit["N"] * y.fit["D"])
    at = order[np.linspace(0, len(order) - 1, FEW).round().astype(int)]
    return {name: values[at] for name, values in y.fit.items()}


def translated(x: Corpus, y: Corpus) -> Errors:
    """y's larger runs from x's law, translated with FEW runs of y."""
    source = laws.fit("kaplan_e", x.fit, objective=OBJECTIVE)
    found = laws.loss_to_loss(x.fit, few(y), E_x=source.params["E"], E_y="free")
    law = laws.get("kaplan_e")
    predicted = law.predict(found.translate(source.params), N=y.held["N"], D=y.held["D"])
    return Errors(predicted - y.held["loss"], y.held["loss"], found.E_y)


def direct_few(y: Corpus) -> Errors:
    """The same from a law fitted to those runs alone."""
    fit = laws.fit("kaplan_e", few(y), objective=OBJECTIVE)
    predicted = fit.predict(N=y.held["N"], D=y.held["D"], far=True)
    return Errors(predicted - y.held["loss"], y.held["loss"], fit.params["E"])


def maps(corpora: list[Corpus]) -> dict[tuple[str, str], tuple[laws.LossMap, Measurement | str]]:
    """(x, y) -> the map of the smaller runs, and its kappa with the interval of leaving cells out."""
    found = {}
    for x, y in permutations(corpora, 2):

        def kappa(kept: np.ndarray, x: Corpus = x, y: Corpus = y) -> float:
            parts = [{name: values[kept] for name, values in one.fit.items()} for one in (x, y)]
            return laws.loss_to_loss(*parts, objective=OBJECTIVE).kappa

        try:
            span: Measurement | str = jackknife(kappa, len(x.fit["loss"]))
        except UserError as error:  # a loss below the floor of the others
            span = str(error)
        found[x.name, y.name] = (laws.loss_to_loss(x.fit, y.fit, objective=OBJECTIVE), span)
    return found
