"""From the loss of one model to the loss of another: L_y = K (L_x - E_x)^kappa + E_y (2411.12925).

Train to train: two corpora, each model on its own corpus. Train to test: one family of models, its training
loss and another. Test to test: two corpora, one test set. In all of them runs are paired by size and tokens,
and E_x, E_y are the floors of the laws that each loss follows by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws import table
from dither.laws.engine import Floats
from dither.laws.fitting import Fit, fit, get
from dither.laws.joint_map import JointFit, joint_fit
from dither.laws.law import unusable
from dither.laws.propagation import Mapped, through

SAME = 1e-6
"""Relative difference up to which sizes and tokens of two runs count as equal."""

KAPPAS = (0.05, 5.0)
"""Exponents among which a map with a free floor is searched; published ones lie between .36 and 1.14."""


@dataclass(frozen=True)
class Pairs:
    """Runs of two tables that have the same keys.

    x, y: losses of the pairs; keys: (pairs, keys); index_x, index_y: their rows; unmatched_x, unmatched_y:
    rows without a partner.
    """

    x: Floats
    y: Floats
    keys: Floats
    index_x: Any = field(repr=False)
    index_y: Any = field(repr=False)
    unmatched_x: Any = field(repr=False)
    unmatched_y: Any = field(repr=False)


def pair(keys_x: Floats, loss_x: Floats, keys_y: Floats, loss_y: Floats) -> Pairs:
    """Pair rows whose keys (rows, keys) agree to SAME; each row is used once, in the order of x."""
    log_x, log_y = np.log(keys_x), np.log(keys_y)
    equal = np.ones((len(log_x), len(log_y)), dtype=bool)
    for column_x, column_y in zip(log_x.T, log_y.T, strict=True):
        equal &= np.abs(column_x[:, None] - column_y) <= SAME
    index, taken, matched = [], np.zeros(len(log_y), dtype=bool), -1
    for i, j in np.argwhere(equal).tolist():
        if i != matched and not taken[j]:
            taken[j], matched = True, i
            index.append((i, j))
    at = np.array(index, dtype=np.int64).reshape(-1, 2)
    alone = np.ones(len(log_x), dtype=bool)
    alone[at[:, 0]] = False
    return Pairs(
        loss_x[at[:, 0]],
        loss_y[at[:, 1]],
        keys_x[at[:, 0]],
        at[:, 0],
        at[:, 1],
        np.flatnonzero(alone),
        np.flatnonzero(~taken),
    )


@dataclass(frozen=True)
class LossMap:
    """L_y = K (L_x - E_x)^kappa + E_y.

    r2: of L_y over the pairs. cautions: what a reader must know, in words. fit_x, fit_y: the laws that gave
    the floors (None where they were given). joint: of a joint fit, its certificate and intervals. refit: the
    same map of other pairs at given floors; floors that are fitted with the map stay free.
    """

    kappa: float
    K: float
    E_x: float
    E_y: float
    r2: float
    pairs: Pairs = field(repr=False)
    cautions: tuple[str, ...]
    fit_x: Fit | None = field(repr=False, default=None)
    fit_y: Fit | None = field(repr=False, default=None)
    joint: JointFit | None = field(repr=False, default=None)
    refit: Callable[[Pairs, float, float], LossMap] = field(repr=False, default=None)  # pyright: ignore[reportAssignmentType]

    def predict(self, loss_x: Any) -> Floats:
        """L_y at L_x. UserError where a loss lies below E_x: the map has no value there."""
        x = np.asarray(loss_x, dtype=np.float64)
        if not (x > self.E_x).all():
            raise UserError(f"the map starts at E_x = {self.E_x:.6g}; {x.min():.6g} lies below it")
        return self.K * (x - self.E_x) ** self.kappa + self.E_y

    def interval(
        self,
        loss_x: float | None = None,
        *,
        at: Mapping[str, float] | None = None,
        source: Fit | None = None,
        level: float = 0.95,
        n: int = 300,
        seed: int = 0,
        far: bool = False,
    ) -> Mapped:
        """The loss of y for one run to come with its interval: at a measured `loss_x`, or at the loss that
        the law of x (`source`; default: that of E_x) says of a run `at`, with the uncertainty of that law.

        Runs are resampled, and with them the law of x, both floors and the map; what scatters about the map
        is added. UserError where most resamples have no map.
        """
        return through(self, loss_x, at=at, source=source, level=level, n=n, seed=seed, far=far)

    def translate(self, params: Mapping[str, float]) -> dict[str, float]:
        """The law of y from a kaplan_e law of x: a shifted power of one is one again (2411.12925, section 4).

        The compute-optimal N*(C) stays where it was.
        """
        a, b, alpha, beta = (params[name] for name in ("A", "B", "alpha", "beta"))
        return {
            "A": a * self.K ** (1 / (self.kappa * alpha)),
            "B": b * self.K ** (1 / (self.kappa * beta)),
            "E": self.E_y,
            "alpha": self.kappa * alpha,
            "beta": self.kappa * beta,
        }


def loss_to_loss(
    data_x: Any,
    data_y: Any,
    *,
    on: Sequence[str] = ("N", "D"),
    loss: str = "loss",
    law: str = "kaplan_e",
    E_x: float | str | None = None,
    E_y: float | str | None = None,
    errors: str = "y",
    ratio: float = 1.0,
    objective: str = "huber",
    **columns: str,
) -> LossMap:
    """Fit the map between the losses of two tables of runs.

    Args:
        data_x, data_y: tables as `dither.laws.fit` takes them; `columns`: names of N and D, `loss` that of
        the loss. on: law's variables by which runs are paired ("D" alone where sizes are counted
        differently). law: the law that gives each loss its floor; or give `E_x`, `E_y`.
        objective: of those laws.
        E_y="free": fitted with the map by least squares of L_y, not below 0, for targets with too few runs
        for a law of their own (then `translate` gives them one).
        errors: "y": least squares of ln(L_y - E_y) on ln(L_x - E_x), as published; "both": orthogonal in
        these two, which is right where they are equally noisy, so that noise is a share of L - E (then the
        map from y to x is the inverse one). Where it is a share of L, give free floors: with errors="both",
        "free" floors (E_x, E_y or both) are fitted jointly with K and kappa, by the distances of (ln L_x,
        ln L_y / ratio) from the curve, with a certificate and profile intervals in `.joint`; ratio: sd of
        the noise of ln L_y over that of ln L_x.

    Raises UserError where fewer than three runs pair, or a loss lies below its floor.
    """
    for name, floor in (("E_x", E_x), ("E_y", E_y)):
        if isinstance(floor, str) and floor != "free":
            raise UserError(f"{name} must be a number, None or 'free', not {floor!r}")
    if E_x == "free" and errors != "both":
        raise UserError("E_x='free' needs errors='both': regression of y on x cannot fit it")
    if ratio != 1 and not (errors == "both" and "free" in (E_x, E_y)):
        raise UserError("ratio= belongs to a joint fit: errors='both' and a floor 'free'")
    if errors not in ("y", "both"):
        raise UserError(f"errors must be 'y' or 'both', not {errors!r}")
    if not on or not set(on) <= {"N", "D"}:
        raise UserError(f"runs are paired on N, D or both (on=), not on {', '.join(on) or 'nothing'}")
    if (needed := get(law)).floor not in ("E",) and None in (E_x, E_y):
        raise UserError(f"{law} has no floor E; take a law that has one, or give E_x and E_y")
    if None in (E_x, E_y) and set(needed.variables) != {"N", "D"}:
        raise UserError(f"{law} is no law of N and D alone, which the runs have")
    names = {variable: columns.get(variable, variable) for variable in ("N", "D")}
    frames = [table.select(data, {**names, "loss": loss}) for data in (data_x, data_y)]
    for frame, which in zip(frames, "xy", strict=True):
        for name, values in frame.items():
            if len(bad := unusable(values)):
                raise UserError(
                    f"{name} of data_{which} must be positive and finite; rows {table.listed(bad)} are not"
                )
    keys = [np.stack([frame[variable] for variable in on], axis=1) for frame in frames]
    pairs = pair(keys[0], frames[0]["loss"], keys[1], frames[1]["loss"])
    if len(pairs.x) < 3:
        raise UserError(
            f"{len(pairs.x)} runs pair on {', '.join(on)} ({len(keys[0])} and {len(keys[1])} runs); a map "
            "needs three. Pair on fewer columns (on=), or check their units"
        )
    if np.ptp(pairs.x) == 0 or np.ptp(pairs.y) == 0:
        raise UserError("the pairs have one loss of x or of y only: nothing to map")
    given = (E_x, E_y)
    fits = [
        fit(law, frame, objective=objective) if floor is None else None
        for frame, floor in zip(frames, given, strict=True)
    ]
    floors = [
        f.params["E"] if f is not None else None if floor == "free" else float(floor or 0.0)
        for f, floor in zip(fits, given, strict=True)
    ]

    def made(pairs: Pairs, e_x: float | None, e_y: float | None) -> LossMap:
        e_x, e_y = (None if free else e for e, free in ((e_x, E_x == "free"), (e_y, E_y == "free")))
        if errors == "both" and None in (e_x, e_y):
            return _joint_map(pairs, e_x, e_y, ratio, fits[0], fits[1])
        assert e_x is not None
        if e_y is None:
            return _free_map(pairs, e_x, fits[0])
        return _fit_map(pairs, e_x, e_y, errors, fits[0], fits[1])

    return replace(made(pairs, *floors), refit=made)


def _joint_map(
    pairs: Pairs, e_x: float | None, e_y: float | None, ratio: float, fit_x: Fit | None, fit_y: Fit | None
) -> LossMap:
    found = joint_fit(pairs.x, pairs.y, E_x=e_x, E_y=e_y, ratio=ratio)
    kappa, scale, e_x, e_y = (found.params[name] for name in ("kappa", "K", "E_x", "E_y"))
    predicted = scale * (pairs.x - e_x) ** kappa + e_y
    said = (*_cautions(pairs, fit_x, fit_y), *found.cautions)
    return LossMap(kappa, scale, e_x, e_y, _r2(pairs, predicted), pairs, said, fit_x, fit_y, found)


def _r2(pairs: Pairs, predicted: Floats) -> float:
    return 1 - float(np.sum((pairs.y - predicted) ** 2) / np.sum((pairs.y - pairs.y.mean()) ** 2))


def _fit_map(
    pairs: Pairs, e_x: float, e_y: float, errors: str, fit_x: Fit | None, fit_y: Fit | None
) -> LossMap:
    for name, losses, floor in (("x", pairs.x, e_x), ("y", pairs.y, e_y)):
        if not (losses > floor).all():
            raise UserError(f"E_{name} = {floor:.6g} is not below every loss of {name} ({losses.min():.6g})")
    u, v = np.log(pairs.x - e_x), np.log(pairs.y - e_y)
    kappa = _slope(u, v, errors)
    scale = float(np.exp(v.mean() - kappa * u.mean()))
    predicted = scale * (pairs.x - e_x) ** kappa + e_y
    said = tuple(_cautions(pairs, fit_x, fit_y))
    return LossMap(kappa, scale, e_x, e_y, _r2(pairs, predicted), pairs, said, fit_x, fit_y)


def _free_map(pairs: Pairs, floor: float, fit_x: Fit | None) -> LossMap:
    if not (pairs.x > floor).all():
        raise UserError(f"E_x = {floor:.6g} is not below every loss of x ({pairs.x.min():.6g})")
    u = np.log(pairs.x - floor)

    def line(kappa: float) -> tuple[float, float, float]:
        """Squared error, K and E_y at an exponent: linear least squares, with E_y not below 0."""
        b = np.exp(kappa * u)
        scale, e_y = np.linalg.lstsq(np.stack([b, np.ones_like(b)], axis=1), pairs.y, rcond=None)[0]
        if e_y < 0:
            scale, e_y = float(b @ pairs.y / (b @ b)), 0.0
        return float(np.sum((scale * b + e_y - pairs.y) ** 2)), float(scale), float(e_y)

    low, high = KAPPAS
    for _ in range(9):
        grid = np.linspace(low, high, 41)
        best = int(np.argmin([line(kappa)[0] for kappa in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 40)]
    kappa = float(0.5 * (low + high))
    _, scale, e_y = line(kappa)
    said = _cautions(pairs, fit_x, None)
    if len(pairs.x) < 5:
        said.append(f"{len(pairs.x)} pairs for three parameters: the floor of y is a guess")
    r2 = _r2(pairs, scale * np.exp(kappa * u) + e_y)
    return LossMap(kappa, scale, floor, e_y, r2, pairs, tuple(said), fit_x)


def _slope(u: Floats, v: Floats, errors: str) -> float:
    u, v = u - u.mean(), v - v.mean()
    uu, vv, uv = float(u @ u), float(v @ v), float(u @ v)
    if errors == "y":
        return uv / uu
    return (vv - uu + float(np.hypot(vv - uu, 2 * uv))) / (2 * uv)


def _cautions(pairs: Pairs, fit_x: Fit | None, fit_y: Fit | None) -> list[str]:
    said = []
    for name, rows in (("x", pairs.unmatched_x), ("y", pairs.unmatched_y)):
        if len(rows):
            said.append(f"{len(rows)} runs of {name} have no partner and were left out")
    for name, one in (("x", fit_x), ("y", fit_y)):
        if one is not None:
            said += [f"E_{name}: {caution}" for caution in one.cautions]
    if np.ptp(np.log(pairs.x)) < 0.1:
        said.append("the losses of x span less than 10 %: kappa is hardly identified")
    return said
