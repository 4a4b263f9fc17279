"""Decisions that follow from a law: size and tokens of a budget, bits of a memory, when more data harms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.isoflop import vertex
from dither.laws.law import FunctionLaw, SumLaw

if TYPE_CHECKING:
    from dither.laws.fitting import Fit


NEAR = 2e-3
"""Of ln x, between the points of the last parabola of a minimum."""


@dataclass(frozen=True)
class Decision:
    """What was decided: name -> value, and name -> (low, high) where runs gave intervals.

    basis: what the constants are: the user's runs, or a publication.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    basis: str
    cautions: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"constants: {self.basis}"]
        for name, value in self.values.items():
            interval = self.intervals.get(name)
            span = "" if interval is None else f"   (95 % {interval[0]:.4g} .. {interval[1]:.4g})"
            lines.append(f"  {name:<22} {value:.5g}{span}")
        return "\n".join(lines + [f"  ! {caution}" for caution in self.cautions])


def published(law: SumLaw | FunctionLaw) -> tuple[dict[str, float], str]:
    """The law's first published constants and their source. UserError where it has none."""
    if not law.published:
        raise UserError(f"no constants of {law.name} are known; fit it to your own runs")
    source, params = next(iter(law.published.items()))
    return dict(params), source


def decide(
    law: SumLaw | FunctionLaw,
    what: Callable[..., dict[str, float]],
    fit: Fit | None = None,
    *,
    n: int = 500,
    by: Any = None,
    seed: int = 0,
    far: bool = False,
) -> Decision:
    """`what(**params)` at a fit's parameters with intervals from its bootstrap, or at published constants.

    by: what is resampled, as `Fit.bootstrap` takes it. UserError where the size and tokens decided on lie
    FARTHEST times beyond the runs or more, unless `far`.
    """
    if fit is None:
        params, source = published(law)
        return Decision(what(**params), {}, f"published, {source}")
    from dither.laws.validation import uncalibrated

    values = what(**fit.params)
    beyond = _beyond(fit, values, far)
    replicates = fit.bootstrap(n, by=by, seed=seed).of(lambda **p: list(what(**p).values()))
    low, high = np.nanpercentile(replicates, (2.5, 97.5), axis=0)
    intervals = {name: (float(a), float(b)) for name, a, b in zip(values, low, high, strict=True)}
    why = uncalibrated(fit, by)
    cautions = (*beyond, *fit.cautions, *([f"intervals are not calibrated: {why}"] if why else []))
    return Decision(values, intervals, f"{len(fit.loss)} own runs", cautions)


def _beyond(fit: Fit, values: Mapping[str, float], far: bool) -> list[str]:
    """How far beyond the runs a decision lies, in words, where it does."""
    from dither.laws.fitting import FARTHEST

    if (
        not {"N", "D"} <= set(fit.arrays)
        or not np.isfinite([values.get("N", np.nan), values.get("D", np.nan)]).all()
    ):
        return []
    factor = fit.extrapolation({name: np.asarray(values[name]) for name in ("N", "D")})
    if factor > FARTHEST and not far:
        raise UserError(
            f"this decides {factor:.3g} times beyond the runs; add larger ones, or pass far=True (--far) if "
            "that is meant"
        )
    return [f"this lies {factor:.3g} times beyond the runs"] if factor > 1 else []


def least(loss: Callable[[Floats], Floats], low: float, high: float) -> float:
    """Where a curve of one minimum is lowest, in [low, high], searched by its logarithm.

    By grids, then by the vertex of a parabola of fixed width about the place: that is off by 1e-7 of the
    value, but smooth in whatever the curve depends on, so that its derivatives by differences are right.
    """
    a, b = np.log(low), np.log(high)
    for _ in range(4):
        x = np.linspace(a, b, 65)
        i = int(np.argmin(loss(np.exp(x))))
        a, b = x[max(i - 1, 0)], x[min(i + 1, 64)]
    at = float(x[i])
    if at - NEAR < np.log(low) or at + NEAR > np.log(high):
        return float(np.exp(at))
    for _ in range(2):
        around = at + NEAR * np.array([-1.0, 0.0, 1.0])
        at = vertex(around, loss(np.exp(around)))
    return float(np.exp(at))


def check_compute(law: SumLaw | FunctionLaw) -> None:
    """UserError where the law does not know the compute 6 N D."""
    if not {"N", "D"} <= set(law.variables):
        raise UserError(f"{law.name} has no N and D; a compute budget needs both")


def budget(
    law: SumLaw | FunctionLaw, flops: float, fixed: Mapping[str, float] | None = None
) -> Callable[..., dict[str, float]]:
    """Size and tokens that make the loss least under C = 6 N D = flops, and that loss.

    fixed: values of the law's other variables.
    """
    check_compute(law)
    if not flops > 0:
        raise UserError(f"a budget is a positive number of FLOPs, not {flops}")

    def what(**params: float) -> dict[str, float]:
        def loss(n: Floats) -> Floats:
            return law.predict(params, N=n, D=flops / (6 * n), **(fixed or {}))

        n = least(loss, 10.0, flops / 60)
        d = flops / (6 * n)
        return {"N": n, "D": d, "tokens a parameter": d / n, "loss": float(loss(np.array(n)))}

    return what


def for_loss(
    law: SumLaw | FunctionLaw, target: float, served: float = 0.0
) -> Callable[..., dict[str, float]]:
    """The cheapest way to a loss when `served` tokens of inference follow: least 6 N D + 2 N served
    (2401.00448).
    """

    def what(**params: float) -> dict[str, float]:
        def tokens(n: Floats) -> Floats:
            """Tokens at which each size reaches the loss; infinite where it never does."""
            low, high = np.full_like(n, np.log(10.0)), np.full_like(n, np.log(1e18))
            never = law.predict(params, N=n, D=np.exp(high)) > target
            for _ in range(60):
                middle = 0.5 * (low + high)
                above = law.predict(params, N=n, D=np.exp(middle)) > target
                low, high = np.where(above, middle, low), np.where(above, high, middle)
            return np.where(never, np.inf, np.exp(high))

        n = least(lambda n: 6 * n * tokens(n) + 2 * n * served, 10.0, 1e15)
        d = float(tokens(np.array([n]))[0])
        if not np.isfinite(d):
            return dict.fromkeys(("N", "D", "training FLOPs", "inference FLOPs"), float("nan"))
        return {"N": n, "D": d, "training FLOPs": 6 * n * d, "inference FLOPs": 2 * n * served}

    return what


def bits_for_compute(flops: float, size: float | None = None) -> Callable[..., dict[str, float]]:
    """Bits of weights, activations and cache alike, size and tokens that make the precision law's loss least
    where a product of b bits costs b/16 of one of 16 bits: flops = 6 N D bits/16 (2411.04330, section 4.3).

    With size and tokens free it depends on gw, ga, gkv alone: where x / (e^x - 1), x = bits/g, sums to one
    over the three; 1.90 g for equal ones. gw 2.67, ga 2.21, gkv .96 give 3.47 bits; the paper's 7 to 8 would
    need g of about 4. With the `size` held, more bits pay the longer it is trained.
    """
    from dither.laws.precision import PRECISION

    def best(bits: Floats, p: Mapping[str, float]) -> tuple[Floats, Floats]:
        """The optimal size and tokens at these bits: Chinchilla's, its A raised by what the bits cost."""
        product = flops * 16 / (6 * bits)
        if size is not None:
            return np.full_like(product, size), product / size
        worth = np.prod([-np.expm1(-bits / p[g]) for g in ("gw", "ga", "gkv")], axis=0)
        a = p["A"] * worth ** -p["alpha"]
        g = (p["alpha"] * a / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
        n = g * product ** (p["beta"] / (p["alpha"] + p["beta"]))
        return n, product / n

    def what(**params: float) -> dict[str, float]:
        def loss(bits: Floats) -> Floats:
            n, d = best(bits, params)
            return PRECISION.predict(params, N=n, D=d, Pw=bits, Pa=bits, Pkv=bits)

        bits = least(loss, 1.0, 16.0)
        n, d = best(np.array(bits), params)
        return {"bits": bits, "N": float(n), "D": float(d), "loss": float(loss(np.array(bits)))}

    return what


def split_of_bits(bits: float) -> Callable[..., dict[str, float]]:
    """Exponent and mantissa bits of a float of `bits` bits, its sign among them, whose term in fp_training is
    least: (e + 1/2)^-delta (m + 1/2)^-nu with e + m = bits - 1 (2501.02423).

    In fractions e = bits delta / (delta + nu) - 1/2, whatever the size, the tokens and the block.
    "next best costs" is the term of the second best split over that of the best.
    """
    if not (3 <= bits <= 64 and bits == int(bits)):
        raise UserError(f"a float has 3 to 64 bits to split, not {bits:g}")
    exponents = np.arange(1, int(bits) - 1)

    def what(*, delta: float, nu: float, **_: float) -> dict[str, float]:
        cost = (exponents + 0.5) ** -delta * (bits - 1 - exponents + 0.5) ** -nu
        order = np.argsort(cost)
        e = int(exponents[order[0]])
        found = {"exponent bits": float(e), "mantissa bits": bits - 1.0 - e}
        found["exponent bits, in fractions"] = bits * delta / (delta + nu) - 0.5
        if len(order) > 1:
            found["next best costs"] = float(cost[order[1]] / cost[order[0]])
        return found

    return what


def bits_for_memory(
    law: SumLaw | FunctionLaw, gap: Mapping[str, float], nbytes: float, tokens: float
) -> Callable[..., dict[str, float]]:
    """Bits after training, and the size they leave, that make the loss least when the weights may take
    `nbytes`: fewer bits allow a larger model, and cost the gap of post_training with the constants `gap`.
    """
    from dither.laws.precision import POST_TRAINING

    def what(**params: float) -> dict[str, float]:
        def loss(bits: Floats) -> Floats:
            n = 8 * nbytes / bits
            trained = law.predict(params, N=n, D=tokens)
            return trained + POST_TRAINING.predict(gap, N=n, D=tokens, P=bits)

        bits = least(loss, 1.0, 16.0)
        return {"bits": bits, "N": 8 * nbytes / bits, "loss": float(loss(np.array(bits)))}

    return what


def critical_tokens(beta: float, B: float, post: Mapping[str, float], size: float, bits: float) -> float:
    """Tokens beyond which more training raises the loss after quantization to `bits` (2411.04330, section 3).

    The data term B D^-beta falls as fast as the gap CT D^gD N^-gN exp(-bits rate) rises.
    """
    gap = post["CT"] * size ** -post["gN"] * np.exp(-bits * post["rate"])
    return float((beta * B / (post["gD"] * gap)) ** (1 / (post["gD"] + beta)))


@dataclass(frozen=True)
class Crossover:
    """Is the cheap method worth it at equal compute? advantage: loss of `plain` minus that of `cheap` at each
    budget, with its interval; crossing: the budget where it changes its sign (None: nowhere in range).
    """

    flops: Floats
    advantage: Floats
    low: Floats
    high: Floats
    crossing: float | None

    @property
    def verdict(self) -> str:
        if (self.low > 0).all():
            return "the cheap method is better at every budget of the range"
        if (self.high < 0).all():
            return "the cheap method is worse at every budget of the range"
        if self.crossing is None:
            return "not resolved: the intervals hold zero"
        return f"it changes near {self.crossing:.3g} FLOPs, where the interval still holds zero"


def crossover(
    cheap: Fit,
    plain: Fit,
    speedup: float,
    flops: Any,
    *,
    n: int = 300,
    seed: int = 0,
    by: tuple[Any, Any] = (None, None),
) -> Crossover:
    """Compare the best of two methods at equal cost; the cheap one does `speedup` times the FLOPs for it.

    by: what is resampled of the runs of each, as `Fit.bootstrap` takes it.
    """
    if not speedup > 0:
        raise UserError(f"speedup must be positive, not {speedup}")
    points = np.atleast_1d(np.asarray(flops, dtype=np.float64))

    def curves(fit: Fit, factor: float, which: int) -> tuple[Floats, Floats]:
        plans = [budget(fit.law, float(c) * factor) for c in points]
        own = np.array([plan(**fit.params)["loss"] for plan in plans])
        drawn = fit.bootstrap(n, by=by[which], seed=seed + which).of(
            lambda **p: [plan(**p)["loss"] for plan in plans]
        )
        return own, drawn

    (one, ones), (two, twos) = curves(cheap, speedup, 0), curves(plain, 1.0, 1)
    kept = min(len(ones), len(twos))
    low, high = np.percentile(twos[:kept] - ones[:kept], (2.5, 97.5), axis=0)
    advantage = two - one
    at = np.flatnonzero(np.diff(np.sign(advantage)) != 0)
    crossing = None
    if len(at):
        i = int(at[0])
        share = advantage[i] / (advantage[i] - advantage[i + 1])
        crossing = float(np.exp(np.log(points[i]) + share * np.log(points[i + 1] / points[i])))
    return Crossover(points, advantage, low, high, crossing)
