"""The optimal size by three ways (2203.15556), so that a disagreement is seen.

1: the lower envelope of all runs over compute; 2: the minimum of a parabola in ln N at each budget; 3: a law
of the loss. Each gives the exponent a of N*(C) ~ C^a.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats

WIDEST = 1.3
"""The compute of one budget spans at most this factor."""

APART = 0.05
"""Exponents that differ by more are flagged."""


@dataclass(frozen=True)
class Parabola:
    """One budget. N, loss: of the minimum; cautions: why not to trust it; inside: whether it has a minimum at
    a size within those that were run."""

    C: float
    N: float
    loss: float
    runs: int
    cautions: tuple[str, ...]
    inside: bool


@dataclass(frozen=True)
class Approaches:
    """exponents: approach -> a (NaN where the runs do not allow it); parabolas: of approach 2."""

    exponents: dict[str, float]
    parabolas: tuple[Parabola, ...]
    cautions: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"approach {name}: N* ~ C^{value:.4f}" for name, value in self.exponents.items()]
        lines += [
            f"  {p.C:.3g} FLOPs: N* {p.N:.4g}, loss {p.loss:.5g} ({p.runs} runs)" for p in self.parabolas
        ]
        return "\n".join(lines + [f"  ! {caution}" for caution in self.cautions])


def budgets(C: Any) -> list[Any]:
    """The rows of each budget, smallest first: runs are parted at the widest gaps of their compute until no
    part spans more than WIDEST. Runs spread evenly over compute give the same slope as budgets do.
    """
    c = np.log(np.asarray(C, dtype=np.float64))
    left, found = [np.argsort(c, kind="stable")], []
    while left:
        part = left.pop()
        if c[part[-1]] - c[part[0]] <= np.log(WIDEST):
            found.append(part)
        else:
            at = int(np.argmax(np.diff(c[part]))) + 1
            left += [part[at:], part[:at]]
    return found


def vertex(x: Any, y: Any) -> float:
    """The vertex of the parabola through the least y and its two neighbours, never beyond them; x ascends."""
    x, y = (np.asarray(v, dtype=np.float64) for v in (x, y))
    i = int(np.clip(np.argmin(y), 1, len(x) - 2))
    near = x[i - 1 : i + 2] - x[i]
    bend, slope, _ = np.polyfit(near, y[i - 1 : i + 2] - y[i], 2)
    at = -slope / (2 * bend) if bend > 0 else x[np.argmin(y)] - x[i]
    return float(x[i] + np.clip(at, near[0], near[2]))


def parabolas(N: Any, C: Any, loss: Any) -> list[Parabola]:
    """The minimum over N at every budget that has three sizes or more."""
    n, c, y = (np.asarray(v, dtype=np.float64) for v in (N, C, loss))
    return [one for part in budgets(c) if (one := _parabola(np.log(n[part]), c[part], y[part])) is not None]


def _parabola(x: Floats, c: Floats, y: Floats) -> Parabola | None:
    if len(np.unique(np.round(x, 6))) < 3:
        return None
    centre = x.mean()
    curve, slope, level = np.polyfit(x - centre, y, 2)
    said = []
    budget = float(np.exp(np.log(c).mean()))
    if curve <= 0:
        best = int(np.argmin(y))
        said = ("it does not bend upwards",)
        return Parabola(budget, float(np.exp(x[best])), float(y[best]), len(x), said, False)
    bottom = centre - slope / (2 * curve)
    if not (inside := bool(x.min() < bottom < x.max())):
        said.append("its minimum lies outside the sizes that were run")
    off = abs(bottom - 0.5 * (x.min() + x.max())) / max(float(np.ptp(x)), 1e-12)
    if off > 0.25:
        said.append("its sizes lie to one side of the minimum, which biases it")
    if np.ptp(x) > 2 * np.log(16):
        said.append("its sizes span more than 16x each way, where the loss is no parabola")
    least = float(level - slope**2 / (4 * curve))
    return Parabola(budget, float(np.exp(bottom)), least, len(x), tuple(said), inside)


def approaches(N: Any, D: Any, loss: Any, *, law: str = "chinchilla") -> Approaches:
    """The exponent by all three ways. UserError for arrays of different lengths."""
    from dither.laws.fitting import fit

    n, d, y = (np.asarray(v, dtype=np.float64) for v in (N, D, loss))
    if not n.shape == d.shape == y.shape or n.ndim != 1:
        raise UserError("N, D and loss must be columns of one length")
    c = 6 * n * d
    found = parabolas(n, c, y)
    good = [one for one in found if one.inside]
    third = fit(law, {"N": n, "D": d, "loss": y})
    p = third.params
    exponents = {
        "1": _envelope(n, c, y),
        "2": _slope([one.C for one in good], [one.N for one in good]),
        "3": p["beta"] / (p["alpha"] + p["beta"]) if {"alpha", "beta"} <= set(p) else float("nan"),
    }
    said = [f"at {one.C:.2g} FLOPs: {text}" for one in found for text in one.cautions]
    if np.isnan(exponents["2"]):
        said.insert(
            0,
            "approach 2 needs three budgets, a factor of 3 apart, whose minimum lies inside the sizes that "
            f"were run; there are {len(good)}: run several sizes at one compute",
        )
    values = [v for v in exponents.values() if np.isfinite(v)]
    if len(values) > 1 and max(values) - min(values) > APART:
        listed = ", ".join(f"{name}: {value:.3f}" for name, value in exponents.items())
        said.insert(0, f"the approaches disagree by more than {APART} ({listed})")
    return Approaches(exponents, tuple(found), tuple(said))


def _envelope(n: Floats, c: Floats, y: Floats) -> float:
    """Approach 1 on final losses: the best run of each budget, where no cheaper budget's beats it."""
    best = np.array([part[np.argmin(y[part])] for part in budgets(c)])
    least = np.minimum.accumulate(y[best])
    on = best[y[best] <= least]
    return _slope(c[on], n[on])


def _slope(c: Any, n: Any) -> float:
    x = np.log(np.asarray(c, dtype=np.float64))
    if len(x) < 3 or np.ptp(x) < 1:
        return float("nan")
    return float(np.polyfit(x, np.log(np.asarray(n, dtype=np.float64)), 1)[0])
