"""Laws across families of models from their benchmarks alone (2405.10938), without training any.

Scores of many models on many benchmarks lie near a few components S (PCA); within a family these grow with
the logarithm of compute, S = theta_f ln C + nu_f; and a task follows them, logit(normalised error) = beta S +
const. So a task is predicted from what a family's smaller models do elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dither.errors import UserError, suggest
from dither.laws import table
from dither.laws.engine import Floats
from dither.laws.law import FARTHEST
from dither.laws.scales import tails

STEPS = 100
"""Of Newton's method at most."""

SPREAD = 1e-12
"""Variance of a component that is none, as a share of all."""


@dataclass(frozen=True)
class Components:
    """mean: (benchmarks,); axes: (components, benchmarks), orthonormal, their largest entries positive;
    explained: share of the variance of each.
    """

    mean: Floats
    axes: Floats
    explained: Floats

    def of(self, scores: Floats) -> Floats:
        """S: (models, components)."""
        return (scores - self.mean) @ self.axes.T


@dataclass(frozen=True)
class Observational:
    """The fitted chain.

    families: name -> (theta, nu), each (components,), of S = theta ln C + nu. beta, const: of logit(error),
    error = (ceiling - y) / (ceiling - floor). cautions: what a reader must know, in words.
    """

    benchmarks: tuple[str, ...]
    components: Components
    families: dict[str, tuple[Floats, Floats]]
    beta: Floats
    const: float
    floor: float
    ceiling: float
    cautions: tuple[str, ...]
    scores: Floats = field(repr=False)
    task: Floats = field(repr=False)
    family: Any = field(repr=False)
    C: Floats = field(repr=False)

    def predict(self, scores: Any) -> Floats:
        """The task of models of given benchmark scores: (models, benchmarks)."""
        return self._task(self.components.of(np.asarray(scores, dtype=np.float64)))

    def at(self, C: Any, family: str, *, far: bool = False) -> Floats:
        """The task of a model of the family at a compute. UserError for an unknown family, and beyond
        FARTHEST times its largest model, unless `far`."""
        if family not in self.families:
            raise UserError(f"no family {family!r}{suggest(family, self.families)} among those fitted")
        flops = np.asarray(C, dtype=np.float64)
        if not (np.isfinite(flops) & (flops > 0)).all():
            raise UserError("compute must be positive and finite")
        factor = float(np.max(flops) / self.C[self.family == family].max())
        if factor > FARTHEST and not far:
            raise UserError(
                f"this predicts {factor:.3g} times beyond the models of {family}; pass far=True if that is "
                "meant"
            )
        theta, nu = self.families[family]
        return self._task(np.log(flops)[..., None] * theta + nu)

    def _task(self, components: Floats) -> Floats:
        error = 1 / (1 + np.exp(-(components @ self.beta + self.const)))
        return self.ceiling - (self.ceiling - self.floor) * error

    def interval(
        self, C: float, family: str, level: float = 0.95, *, n: int = 300, seed: int = 0, far: bool = False
    ) -> tuple[float, float]:
        """The interval of `at` from resampled models, within families so that each keeps its own."""
        self.at(C, family, far=far)
        rng, found = np.random.default_rng(seed), []
        members = [np.flatnonzero(self.family == name) for name in self.families]
        for _ in range(n):
            at = np.concatenate([self._resampled(one, rng) for one in members])
            one = _fit(self, self.scores[at], self.task[at], self.family[at], self.C[at])
            found.append(float(one.at(C, family, far=True)))
        low, high = np.percentile(found, tails(level))
        return float(low), float(high)

    def _resampled(self, members: Any, rng: np.random.Generator) -> Any:
        """As many models of one family; drawn again where all are of one size, which has no line."""
        at = rng.choice(members, len(members))
        while len(np.unique(self.C[at])) < 2:
            at = rng.choice(members, len(members))
        return at

    def hold_out(self, cutoff: float) -> dict[str, float]:
        """Fit to the models up to a compute, predict the task of the larger ones: mean absolute errors from
        their own benchmarks ("scores"), from compute and family ("compute"), and of the mean of the models
        seen ("naive"); "held" and "seen" count them.

        UserError where either side is empty or a family keeps fewer than two sizes.
        """
        seen = self.C <= cutoff
        if seen.all() or not seen.any():
            raise UserError(f"a cut-off of {cutoff:.3g} FLOPs leaves no model on one side")
        keep = seen & np.isin(self.family, [
            name for name in self.families if len(np.unique(self.C[seen & (self.family == name)])) > 1
        ])  # fmt: skip
        held = ~seen & np.isin(self.family, self.family[keep])
        if not held.any():
            raise UserError(f"below {cutoff:.3g} FLOPs no family of a held-out model has two sizes")
        part = _fit(self, self.scores[keep], self.task[keep], self.family[keep], self.C[keep])
        truth = self.task[held]
        by_compute = [
            float(part.at(c, str(f), far=True)) for c, f in zip(self.C[held], self.family[held], strict=True)
        ]
        return {
            "scores": float(np.mean(np.abs(part.predict(self.scores[held]) - truth))),
            "compute": float(np.mean(np.abs(np.array(by_compute) - truth))),
            "naive": float(np.mean(np.abs(self.task[keep].mean() - truth))),
            "seen": int(keep.sum()),
            "held": int(held.sum()),
        }


def principal(scores: Floats, components: int) -> Components:
    """PCA of a matrix (models, benchmarks), centred, not scaled (scores are shares of one range)."""
    mean = scores.mean(axis=0)
    _, size, axes = np.linalg.svd(scores - mean, full_matrices=False)
    axes = axes[:components]
    axes *= np.sign(axes[np.arange(len(axes)), np.argmax(np.abs(axes), axis=1)])[:, None]
    return Components(mean, axes, size[:components] ** 2 / np.sum(size**2))


def observational(
    data: Any,
    benchmarks: Sequence[str],
    task: str,
    *,
    family: str = "family",
    C: str = "C",
    components: int = 3,
    floor: float = 0.0,
    ceiling: float = 1.0,
) -> Observational:
    """Fit the chain to a table of models.

    Args:
        data: a table as `dither.laws.fit` takes it, a row a model. benchmarks: columns of scores; task: the
        column that is predicted, between floor (a guess) and ceiling. family, C: columns of the family's name
        and of the training FLOPs. components: of the PCA.

    Missing scores are refused, by name: what would be filled in decides the components. UserError too for
    fewer than two sizes in a family, or too few models.
    """
    frame = table.read(data) if isinstance(data, str) or hasattr(data, "suffix") else data
    names = tuple(dict.fromkeys(benchmarks))
    if len(names) != len(benchmarks) or not 1 <= components <= len(names):
        raise UserError(
            f"{components} components need as many benchmarks, each named once; got {', '.join(benchmarks)}"
        )
    if task in names:
        raise UserError(f"{task} is a benchmark too: a task must not predict itself")
    taken = table.select(frame, {**{name: name for name in names}, task: task, "compute": C})
    _refuse_missing(taken)
    flops, y = taken["compute"], taken[task]
    if not (flops > 0).all():
        raise UserError(f"column {C!r} must be positive: training FLOPs")
    if not floor < ceiling or (y < floor - 0.1 * (ceiling - floor)).any() or (y > ceiling).any():
        raise UserError(
            f"{task} must lie between floor {floor:g} and ceiling {ceiling:g}; give those of the task"
        )
    if family not in table.columns(frame):
        raise UserError(f"the table has no column {family!r}{suggest(family, table.columns(frame))}")
    label = np.array([str(v) for v in frame[family]])
    scores = np.stack([taken[name] for name in names], axis=1)
    if len(y) < components + 3:
        raise UserError(
            f"{len(y)} models for {components} components: give {components + 3} or more, or fewer components"
        )
    for name in dict.fromkeys(label.tolist()):
        if len(np.unique(flops[label == name])) < 2:
            raise UserError(f"family {name!r} has one size only: a line over compute needs two; leave it out")
    empty = Observational(
        names, principal(scores, components), {}, np.zeros(components), 0.0, floor, ceiling, (), scores, y,
        label, flops,
    )  # fmt: skip
    if empty.components.explained[-1] < SPREAD:
        raise UserError(f"the scores have fewer than {components} components; ask for fewer")
    return _fit(empty, scores, y, label, flops)


def _refuse_missing(taken: Mapping[str, Floats]) -> None:
    missing = {name: np.flatnonzero(~np.isfinite(values)) for name, values in taken.items()}
    missing = {name: rows for name, rows in missing.items() if len(rows)}
    if missing:
        said = "; ".join(
            f"{name}: rows {', '.join(str(i + 1) for i in rows[:5])}" + (", ..." if len(rows) > 5 else "")
            for name, rows in missing.items()
        )
        raise UserError(f"missing scores ({said}): measure them, or leave out these models or benchmarks")


def _fit(like: Observational, scores: Floats, y: Floats, family: Any, flops: Floats) -> Observational:
    parts = principal(scores, len(like.components.axes))
    s, lines = parts.of(scores), {}
    for name in dict.fromkeys(family.tolist()):
        mine = family == name
        x = np.stack([np.log(flops[mine]), np.ones(mine.sum())], axis=1)
        theta, nu = np.linalg.lstsq(x, s[mine], rcond=None)[0]
        lines[name] = (theta, nu)
    error = (like.ceiling - y) / (like.ceiling - like.floor)
    beta, said = _logistic(s, np.clip(error, 0.0, 1.0))
    below = int(np.sum(error > 1))
    if below:
        said.append(f"{below} models are worse than a guess (below floor): they count as guessing")
    if parts.explained.sum() < 0.9:
        said.append(
            f"{len(parts.axes)} components hold {parts.explained.sum():.0%} of the variance of the scores"
        )
    few = [name for name in lines if len(np.unique(flops[family == name])) == 2]
    if few:
        said.append(f"{', '.join(few)}: two sizes, so the line over compute meets both and shows no error")
    return Observational(
        like.benchmarks, parts, lines, beta[:-1], float(beta[-1]), like.floor, like.ceiling, tuple(said),
        scores, y, family, flops,
    )  # fmt: skip


def _logistic(s: Floats, share: Floats) -> tuple[Floats, list[str]]:
    """Coefficients and constant of logit(share) by the likelihood of shares (so that 0 and 1 have their
    place), by Newton's method with halved steps."""
    scale = np.maximum(s.std(axis=0), 1e-300)
    x = np.column_stack([s / scale, np.ones(len(s))])

    def cost(b: Floats) -> float:
        z = x @ b
        return float(np.sum(np.logaddexp(0.0, z) - share * z))

    b, value = np.zeros(x.shape[1]), np.inf
    value, settled = cost(b), False
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ b, -500, 500)))
        gradient, weight = x.T @ (p - share), p * (1 - p)
        step = np.linalg.lstsq((x.T * weight) @ x, -gradient, rcond=1e-12)[0]
        if float(-gradient @ step) < 1e-12 * max(value, 1e-12):
            settled = True
            break
        size = 1.0
        while size > 1e-6 and cost(b + size * step) >= value:
            size *= 0.5
        b = b + size * step
        value = cost(b)
    said = (
        [] if settled else ["the task's slope ran away: its error jumps between 0 and 1; add models between"]
    )
    return np.append(b[:-1] / scale, b[-1]), said


def simulate(
    families: Mapping[str, tuple[Any, Any]],
    C: Mapping[str, Any],
    loadings: Any,
    mean: Any,
    beta: Any,
    const: float,
    *,
    floor: float = 0.0,
    ceiling: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> dict[str, Any]:
    """A table of the chain: family, C, benchmarks b1, b2, ... and task, with normal noise of that sd.

    families: name -> (theta, nu); C: name -> its FLOPs; loadings: (components, benchmarks); mean:
    (benchmarks,). Generated data, not measurements.
    """
    rng = np.random.default_rng(seed)
    label = np.concatenate([[name] * len(C[name]) for name in families])
    flops = np.concatenate([np.asarray(C[name], dtype=np.float64) for name in families])
    lines = {name: tuple(np.asarray(v, dtype=np.float64) for v in line) for name, line in families.items()}
    s = np.array([lines[f][0] * np.log(c) + lines[f][1] for f, c in zip(label.tolist(), flops, strict=True)])
    scores = np.asarray(mean) + s @ np.asarray(loadings, dtype=np.float64)
    error = 1 / (1 + np.exp(-(s @ np.asarray(beta, dtype=np.float64) + const)))
    task = ceiling - (ceiling - floor) * error
    scores = scores + noise * rng.standard_normal(scores.shape)
    task = np.clip(task + noise * rng.standard_normal(task.shape), floor, ceiling)
    columns = {f"b{i + 1}": column for i, column in enumerate(scores.T)}
    return {"family": label.tolist(), "C": flops, **columns, "task": task}
