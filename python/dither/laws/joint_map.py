"""The map between two losses with errors in both of them, its floors among what is fitted.

L_y = K (L_x - E_x)^kappa + E_y, where ln L_x and ln L_y are both measured with noise: the squared distances
of the points (ln L_x, ln L_y / ratio) from the curve are least. Regression of y on x takes x for exact, so
that noise in x makes its kappa too small; distances do not, and the map back is the inverse one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import numpy as np

from dither.errors import UserError, suggest
from dither.laws.certificate import ROUNDING, Certificate, certify
from dither.laws.descent import Problem, descend, slope
from dither.laws.engine import Floats, Optima
from dither.laws.intervals import allowed

PARAMETERS = ("kappa", "K", "E_x", "E_y")
KAPPA = (0.02, 20.0)
NEWTON = 40
"""Steps to the nearest point of the curve at most."""

CLOSE = 1e-8
"""Of ln L_x: a nearest point so close has its distance to 1e-16."""

INSIDE = 1e-9
"""Relative distance that floors keep from the least loss."""

SHARES = (0.0, 0.5, 0.9)
"""Of the least loss: floors of the starts."""


@dataclass(frozen=True)
class JointFit:
    """The fitted map. theta: kappa, ln K at the middle of the losses, E_x, E_y.

    params: PARAMETERS by name; sd: of ln L_x about the curve; ratio: sd of ln L_y over it, as given;
    certificate: of half the sum of squared distances.
    """

    params: dict[str, float]
    sd: float
    ratio: float
    certificate: Certificate
    value: float
    theta: Floats = field(repr=False)
    x: Floats = field(repr=False)
    y: Floats = field(repr=False)
    low: Floats = field(repr=False)
    high: Floats = field(repr=False)

    @property
    def cautions(self) -> list[str]:
        said = []
        if not self.certificate.is_minimum:
            names = " and ".join(self.certificate.flat) or "its parameters"
            said.append(
                f"the optimum of the map is no certified minimum: these pairs do not tell {names} apart; "
                "give a floor (E_x=, E_y=), or add runs of smaller loss"
            )
        for name in self.certificate.active_bounds:
            said.append(
                f"{name} sits at its bound ({self.params[name]:.6g}): these pairs do not show it; give it, "
                "or add runs of smaller loss"
            )
        return said

    def interval(self, name: str, level: float = 0.95) -> tuple[float | None, float | None]:
        """The profile interval of kappa, E_x or E_y; None for an end that the pairs do not bound."""
        free = [n for n, lo, hi in zip(PARAMETERS, self.low, self.high, strict=True) if lo < hi and n != "K"]
        if name not in free:
            raise UserError(f"no interval of {name!r}{suggest(name, free)}; give one of {', '.join(free)}")
        n = len(self.x)
        # the likelihood of normal distances: n/2 ln(sum of squares) may rise by so much
        limit = self.value * float(np.exp(2 * allowed(n, int(np.sum(self.low < self.high)), level) / n))
        at = PARAMETERS.index(name)
        return self._end(at, -1.0, limit), self._end(at, 1.0, limit)

    def _end(self, at: int, side: float, limit: float) -> float | None:
        bound = float(self.low[at] if side < 0 else self.high[at])
        theta, inner, width = self.theta, float(self.theta[at]), 0.02 * (1 + abs(float(self.theta[at])))
        for _ in range(30):
            outer = max(inner - width, bound) if side < 0 else min(inner + width, bound)
            held, height = self._held(at, outer, theta)
            if height > limit:
                break
            if outer == bound:
                return None
            inner, theta, width = outer, held, 2 * width
        else:
            return None
        for _ in range(25):
            middle = 0.5 * (inner + outer)
            held, height = self._held(at, middle, theta)
            if height > limit:
                outer = middle
            else:
                inner, theta = middle, held
        return 0.5 * (inner + outer)

    def _held(self, at: int, value: float, theta: Floats) -> tuple[Floats, float]:
        low, high = self.low.copy(), self.high.copy()
        low[at] = high[at] = value
        found = descend(_problem(self.x, self.y, self.ratio, low, high, _middle(self.x)), theta)
        assert found is not None
        return found

    def bootstrap(self, n: int = 500, *, seed: int = 0) -> Floats:
        """PARAMETERS of maps refitted to resampled pairs: (n, 4)."""
        rng, middle, found = np.random.default_rng(seed), _middle(self.x), []
        for _ in range(n):
            at = rng.integers(0, len(self.x), len(self.x))
            x, y = self.x[at], self.y[at]
            low, high = self.low.copy(), self.high.copy()
            for i, values in ((2, x), (3, y)):
                if low[i] < high[i]:
                    high[i] = values.min() * (1 - INSIDE)
            end = descend(_problem(x, y, self.ratio, low, high, middle), self.theta)
            assert end is not None
            found.append(_natural(end[0], middle))
        return np.array(found)


def joint_fit(
    x: Floats, y: Floats, *, E_x: float | None = None, E_y: float | None = None, ratio: float = 1.0
) -> JointFit:
    """Fit the map to pairs of losses; a floor that is given is held.

    ratio: sd of the noise of ln y over that of ln x. UserError for too few pairs, a floor that is not below
    every loss, and a ratio that is not positive.
    """
    held = {name: value for name, value in (("E_x", E_x), ("E_y", E_y)) if value is not None}
    if len(x) < 5 - len(held):
        raise UserError(
            f"{len(x)} pairs for {4 - len(held)} parameters: a joint fit needs one more, or a floor"
        )
    if not 0 < ratio < np.inf:
        raise UserError(f"ratio is the sd of ln y's noise over ln x's, a positive number, not {ratio}")
    middle = _middle(x)
    low = np.array([KAPPA[0], -np.inf, 0.0, 0.0])
    high = np.array([KAPPA[1], np.inf, x.min() * (1 - INSIDE), y.min() * (1 - INSIDE)])
    for i, (name, losses) in enumerate((("E_x", x), ("E_y", y)), start=2):
        if name in held:
            if not held[name] < losses.min():
                raise UserError(f"{name} = {held[name]:.6g} is not below every loss ({losses.min():.6g})")
            low[i] = high[i] = held[name]
    problem = _problem(x, y, ratio, low, high, middle)
    starts = np.array([_start(x, y, a, b, low, high, middle) for a, b in product(SHARES, SHARES)])
    ends = [descend(problem, start) for start in starts]
    theta, values = np.array([e[0] for e in ends if e]), np.array([e[1] for e in ends if e])
    best = int(np.argmin(values))
    gradient, matrix = problem.normal(theta[best])
    free = (low < theta[best]) & (theta[best] < high)
    promise = float(
        gradient[free] @ np.linalg.lstsq(matrix[np.ix_(free, free)], gradient[free], rcond=1e-12)[0]
    )
    promises = np.full((1, len(values)), promise / max(values[best], ROUNDING * len(x)))
    optima = Optima(theta[None], values[None], promises, *np.zeros((2, 1, len(values)), dtype=np.int64))
    hessian = np.array([slope(lambda t, i=i: problem.normal(t)[0][i], theta[best], 1e-6) for i in range(4)])
    certificate = certify(PARAMETERS, optima, starts, gradient, 0.5 * (hessian + hessian.T), low, high)
    sd = float(np.sqrt(2 * values[best] / max(1, len(x) - int(np.sum(low < high)))))
    natural = _natural(theta[best], middle)
    params = {name: float(value) for name, value in zip(PARAMETERS, natural, strict=True)}
    return JointFit(params, sd, ratio, certificate, float(values[best]), theta[best], x, y, low, high)


def _middle(x: Floats) -> float:
    """Where K is fitted: ln of a loss in the midst of all, so that K and kappa are nearly independent."""
    return float(np.mean(np.log(x)))


def _natural(theta: Floats, middle: float) -> Floats:
    """kappa, K, E_x, E_y: theta has ln(L_y - E_y) at the middle loss in place of K."""
    kappa, level, e_x, e_y = theta
    return np.array([kappa, np.exp(level - kappa * np.log(np.exp(middle) - e_x)), e_x, e_y])


def _start(x: Floats, y: Floats, a: float, b: float, low: Floats, high: Floats, middle: float) -> Floats:
    """Regression at floors that are shares a, b of the least losses, or at the given ones."""
    e_x = float(np.clip(a * x.min(), low[2], high[2]))
    e_y = float(np.clip(b * y.min(), low[3], high[3]))
    u, v = np.log(x - e_x), np.log(y - e_y)
    kappa = float(np.clip(np.std(v) / max(float(np.std(u)), 1e-12), 0.1, 5.0))
    level = v.mean() + kappa * (np.log(np.exp(middle) - e_x) - u.mean())
    return np.array([kappa, level, e_x, e_y])


def _problem(x: Floats, y: Floats, ratio: float, low: Floats, high: Floats, middle: float) -> Problem:
    u, v = np.log(x), np.log(y)

    def curve(theta: Floats, t: Floats) -> tuple[Floats, Floats]:
        """ln L_y at ln L_x = t, and its slope."""
        kappa, level, e_x, e_y = theta
        over = np.exp(t) - e_x
        part = np.exp(level + kappa * np.log(over / (np.exp(middle) - e_x)))
        total = part + e_y
        return np.log(total), part / total * kappa * np.exp(t) / over

    def nearest(theta: Floats) -> Floats:
        """ln L_x of the nearest point of the curve, by Gauss and Newton with halved steps."""
        t, floor = u.copy(), np.log(max(theta[2], 1e-300))
        f, s = curve(theta, t)
        d = (u - t) ** 2 + ((v - f) / ratio) ** 2
        for _ in range(NEWTON):
            step = ((u - t) + s * (v - f) / ratio**2) / (1 + (s / ratio) ** 2)
            # never over the floor: at most half of the way to it
            step = np.maximum(step, 0.5 * (floor - t))
            moving = np.abs(step) > CLOSE
            if not moving.any():
                break
            for _ in range(20):
                trial = np.where(moving, t + step, t)
                f_new, s_new = curve(theta, trial)
                d_new = (u - trial) ** 2 + ((v - f_new) / ratio) ** 2
                better = moving & (d_new <= d)
                t, f, s, d = (
                    np.where(better, a, b) for a, b in ((trial, t), (f_new, f), (s_new, s), (d_new, d))
                )
                moving &= ~better
                if not moving.any():
                    break
                step = np.where(moving, 0.5 * step, step)
        return t

    def residuals(theta: Floats) -> Floats:
        """Signed distances: the sign is that of the point's height over the curve."""
        t = nearest(theta)
        f, _ = curve(theta, t)
        above = v - curve(theta, u)[0]
        return np.copysign(np.hypot(u - t, (v - f) / ratio), above)

    def jacobian(theta: Floats) -> Floats:
        """A distance changes by the curve's own move along the normal."""
        t = nearest(theta)
        _, s = curve(theta, t)
        kappa, level, e_x, e_y = theta
        centre = np.exp(middle) - e_x
        over = np.exp(t) - e_x
        log = np.log(over / centre)
        part = np.exp(level + kappa * log)
        total = part + e_y
        moves = np.stack([part * log, part, part * kappa * (1 / centre - 1 / over), np.ones_like(t)], axis=1)
        return -moves / total[:, None] / (ratio * np.sqrt(1 + (s / ratio) ** 2))[:, None]

    return Problem(residuals, jacobian, np.ones(len(x)), np.inf, low, high)
