"""The shares, not negative and one in sum, that make a smooth loss least.

Newton's method: slopes and curvatures by differences along the simplex, the least of their quadratic over the
simplex by an active set, and a step towards it that is halved until it lowers the loss by its due. It does
not depend on the scale of the loss, and a share that becomes zero may grow again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats

STEPS = 200
"""Of Newton's method at most."""

NEAR, WIDE = 3e-6, 1e-4
"""Steps of the differences of first and of second order."""

SETTLED = 1e-13
"""The optimum is reached where a step promises less than this share of the loss."""

ROUNDED = 1e-5
"""The same where no step lowers the loss: its own rounding, or a bend at zero shares, hides as much."""

DUE = 1e-4
"""Share of its promise that a step must keep."""


def best_mixture(loss: Callable[[Floats], float], domains: int) -> tuple[Floats, float]:
    """Shares that sum to one and make `loss(shares)` least, and that loss.

    loss: smooth, called with shares that sum to one, some of which may be zero; of several minima the one
    below the equal mixture is found. UserError where it does not settle, which a loss with jumps does not.
    """
    if domains < 2:
        raise UserError(f"a mixture needs two domains or more, not {domains}")
    shares = np.full(domains, 1 / domains)
    value = first = float(loss(shares))
    for _ in range(STEPS):
        slope, bend = _derivatives(loss, shares)
        if not (np.isfinite(value) and np.isfinite(slope).all() and np.isfinite(bend).all()):
            raise UserError(f"the loss is not finite near the shares {shares.tolist()}")
        move = _least_of_quadratic(slope, bend, shares) - shares
        promise = -float(slope @ move)
        if promise <= SETTLED * abs(value):
            return shares, value
        for part in 0.5 ** np.arange(40):
            moved = shares + part * move
            lower = float(loss(moved))
            if lower < value - DUE * part * promise:
                break
        else:
            if promise <= ROUNDED * max(abs(value), abs(first)):
                return shares, value
            raise UserError(
                f"the mixture did not settle: at the shares {shares.tolist()} a step promises {promise:.3g} "
                f"of the loss {value:.6g}, but none lowers it; is the loss smooth in the shares?"
            )
        shares, value = moved, lower
    raise UserError(f"the mixture did not settle in {STEPS} steps; is the loss smooth in the shares?")


def _derivatives(loss: Callable[[Floats], float], shares: Floats) -> tuple[Floats, Floats]:
    """Slope and curvature as weight moves to each domain from that of the largest share."""
    count, base = len(shares), int(np.argmax(shares))
    towards = np.eye(count) - np.eye(count)[base]
    others = np.delete(np.arange(count), base).tolist()
    # Inside, so that no step leaves the simplex; the curvature takes the slope back to the shares themselves.
    close, inner = (shares + np.maximum(2 * step - shares, 0.0) @ towards for step in (NEAR, WIDE))
    middle, up = float(loss(inner)), {i: float(loss(inner + WIDE * towards[i])) for i in others}
    slope, bend = np.zeros(count), np.zeros((count, count))
    for n, i in enumerate(others):
        one = towards[i]
        slope[i] = (float(loss(close + NEAR * one)) - float(loss(close - NEAR * one))) / (2 * NEAR)
        bend[i, i] = (up[i] - 2 * middle + float(loss(inner - WIDE * one))) / WIDE**2
        for j in others[:n]:
            both = float(loss(inner + WIDE * (one + towards[j])))
            bend[i, j] = bend[j, i] = (both - up[i] - up[j] + middle) / WIDE**2
    return slope + bend @ (shares - close), bend


def _least_of_quadratic(slope: Floats, bend: Floats, shares: Floats) -> Floats:
    """Where slope (x - shares) + (x - shares) bend (x - shares) / 2 is least over the simplex.

    Curvatures that are negative are turned round, so that there is one such place and it lies downhill.
    """
    values, vectors = np.linalg.eigh(bend)
    least = 1e-8 * (float(np.abs(values).max()) + float(np.ptp(slope))) or 1.0
    bend = (vectors * np.maximum(np.abs(values), least)) @ vectors.T
    x, held = shares.copy(), shares <= 0
    for _ in range(20 * len(shares)):
        free = np.flatnonzero(~held)
        here, n = slope + bend @ (x - shares), len(free)
        system = np.ones((n + 1, n + 1))
        system[:n, :n], system[n, n] = bend[np.ix_(free, free)], 0.0
        *step, level = np.linalg.solve(system, np.r_[-here[free], 0.0])
        falls = np.minimum(step, 0.0)
        room = np.divide(x[free], -falls, out=np.full(n, np.inf), where=falls < 0)
        part = min(1.0, float(room.min()))
        x[free] += part * np.array(step)
        if part < 1:
            hit = free[int(np.argmin(room))]
            x[hit], held[hit] = 0.0, True
            continue
        gain = np.where(held, slope + bend @ (x - shares) + level, np.inf)
        if gain.min() >= -1e-12 * np.ptp(slope):
            break
        held[int(np.argmin(gain))] = False
    return x / x.sum()
