"""What follows from constants: size and tokens of a budget, bits of a memory, when more data harms."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dither.errors import UserError
from dither.laws.engine import Floats
from dither.laws.isoflop import vertex
from dither.laws.law import FunctionLaw, SumLaw

BITS = 1.0, 16.0
"""Among which the best are looked for."""

NEAR = 2e-3
"""Of ln x, between the points of the last parabola of a minimum."""


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
    (2401.00448). Infinite where no size reaches it.
    """

    def what(**params: float) -> dict[str, float]:
        def tokens(n: Floats) -> Floats:
            """Tokens at which each size reaches the loss; infinite where it never does."""
            low, high = np.full_like(n, np.log(10.0)), np.full_like(n, np.log(1e18))
            never = law.predict(params, N=n, D=np.exp(high)) > target
            for _ in range(45):
                middle = 0.5 * (low + high)
                above = law.predict(params, N=n, D=np.exp(middle)) > target
                low, high = np.where(above, middle, low), np.where(above, high, middle)
            return np.where(never, np.inf, np.exp(high))

        n = least(lambda n: 6 * n * tokens(n) + 2 * n * served, 10.0, 1e15)
        d = float(tokens(np.array([n]))[0])
        if not np.isfinite(d):
            never = dict.fromkeys(("N", "D", "training FLOPs"), np.inf)
            return {**never, "inference FLOPs": np.inf if served else 0.0}
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

        bits = least(loss, *BITS)
        n, d = best(np.array(bits), params)
        return {"bits": bits, "N": float(n), "D": float(d), "loss": float(loss(np.array(bits)))}

    return what


def shared_tokens(share: float, tokens: float) -> dict[str, float]:
    """Tokens of quantized training and those before it, by its share."""
    return {"share": share, "tokens quantized": share * tokens, "tokens before": (1 - share) * tokens}


def share_of_qat(size: float, tokens: float, bits: float) -> Callable[..., dict[str, float]]:
    """The share of the tokens that quantized training should get (2509.22935)."""
    from dither.laws.precision import QAT_SHARE

    def what(**params: float) -> dict[str, float]:
        return shared_tokens(float(QAT_SHARE.predict(params, N=size, D=tokens, bits=bits)), tokens)

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


def room_of_split(bits: float, delta: float, nu: float) -> str:
    """Between which delta / nu the best split of `split_of_bits` stays the best, in words."""
    e = split_of_bits(bits)(delta=delta, nu=nu)["exponent bits"]
    m = bits - 1 - e
    low = np.log((m + 1.5) / (m + 0.5)) / np.log((e + 0.5) / (e - 0.5)) if e > 1 else 0.0
    high = np.log((m + 0.5) / (m - 0.5)) / np.log((e + 1.5) / (e + 0.5)) if m > 1 else np.inf
    return (
        f"e{e:.0f}m{m:.0f} is the best of {bits:.0f} bits while delta / nu lies between {low:.3g} and "
        f"{high:.3g}; here it is {delta / nu:.3g}"
    )


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

        bits = least(loss, *BITS)
        return {"bits": bits, "N": 8 * nbytes / bits, "loss": float(loss(np.array(bits)))}

    return what


def critical_tokens(beta: float, B: float, post: Mapping[str, float], size: float, bits: float) -> float:
    """Tokens beyond which more training raises the loss after quantization to `bits` (2411.04330, section 3).

    The data term B D^-beta falls as fast as the gap CT D^gD N^-gN exp(-bits rate) rises.
    """
    gap = post["CT"] * size ** -post["gN"] * np.exp(-bits * post["rate"])
    return float((beta * B / (post["gD"] * gap)) ** (1 / (post["gD"] + beta)))
