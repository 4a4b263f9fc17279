"""How sure a decision is where no covariance of its constants is published: rival laws, errors of a rule.

The spread from the least to the most of what publications answer to one question is no confidence interval:
they differ in models, data and schedules, and are few. It shows what is not settled between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from dither.laws.decisions import Decision, Values, published
from dither.laws.engine import Floats
from dither.laws.planning import BITS, budget, least, shared_tokens
from dither.laws.precision import QAT_SHARE_ERROR
from dither.laws.sums import CHINCHILLA, FP_TRAINING
from dither.laws.tasks import COMPUTE_POWER, HYPERPARAMETER

BLOCK = 128.0
"""Elements a scale, with which the published critical tokens of 2501.02423 come out."""

STANDARDS = {
    4: {"e2m1 (OCP MX v1.0)": (2, 1)},
    6: {"e2m3 (OCP MX v1.0)": (2, 3), "e3m2 (OCP MX v1.0)": (3, 2)},
    8: {"e4m3 (OCP OFP8)": (4, 3), "e5m2 (OCP OFP8)": (5, 2)},
    16: {"fp16 (IEEE 754)": (5, 10), "bf16": (8, 7)},
}
"""Floats that standards and hardware have: bits -> name -> exponent and mantissa bits."""


def spread_over(found: Decision, others: Mapping[str, Values], what: str) -> Decision:
    """The decision with intervals from the least to the most of it and of the others, where these speak of a
    value. what: what the others are, in words."""
    ends = {}
    for name, value in found.values.items():
        said = [value, *(other[name] for other in others.values() if name in other)]
        if len(said) > 1:
            ends[name] = (min(said), max(said))
    text = f"no confidence intervals, but from the least to the most of {what}"
    return replace(found, intervals=ends, spread=text, others={k: dict(v) for k, v in others.items()})


def within_error_of_share(found: Decision, tokens: float) -> Decision:
    """The share of QAT by the published rule, with the interval of normal errors of its published mean."""
    half = 1.96 * np.sqrt(np.pi / 2) * QAT_SHARE_ERROR
    sides = (shared_tokens(float(np.clip(found.values["share"] + s * half, 0, 1)), tokens) for s in (-1, 1))
    low, high = sides
    ends = {name: (min(low[name], high[name]), max(low[name], high[name])) for name in low}
    text = f"normal errors of the rule's published mean absolute error of the share, {QAT_SHARE_ERROR:g}"
    return replace(found, intervals=ends, spread=text)


def bits_of_floats(flops: float, size: float | None = None) -> Callable[..., Values]:
    """Bits of weights and activations in fp_training, each split in its best exponent and mantissa, with size
    and tokens that make the loss least where flops = 6 N D bits/16 (2501.02423): the question of
    `planning.bits_for_compute`, and 4 to 8 bits for budgets of 1e21 to 1e31, as the paper says. BLOCK
    elements a scale.
    """

    def what(**p: float) -> Values:
        alpha, beta = p["alpha"], p["beta"]

        def harm(bits: Floats) -> Floats:
            """The factor of D^beta / N^alpha: in the best split e + 1/2 is to m + 1/2 as delta to nu."""
            share = p["delta"] / (p["delta"] + p["nu"])
            spoiled = (bits * share) ** -p["delta"] * (bits * (1 - share)) ** -p["nu"]
            return p["rho"] * np.log2(BLOCK) * spoiled

        def sizes(bits: Floats) -> Floats:
            """Those of least loss, where its derivative by ln N vanishes; the loss is convex in ln N."""
            product = flops * 16 / (6 * bits)
            low, high = np.full_like(product, np.log(10.0)), np.log(product)
            for _ in range(60):
                x = 0.5 * (low + high)
                y = np.log(product) - x
                falls = alpha * p["n"] * np.exp(-alpha * x)
                falls += (alpha + beta) * harm(bits) * np.exp(beta * y - alpha * x)
                more = falls > beta * p["d"] * np.exp(-beta * y)
                low, high = np.where(more, x, low), np.where(more, high, x)
            return np.exp(0.5 * (low + high))

        def point(bits: Floats) -> tuple[Floats, Floats, Floats]:
            n = sizes(bits) if size is None else np.full_like(bits, size)
            d = flops * 16 / (6 * bits * n)
            loss = p["eps"] + p["n"] * n**-alpha + p["d"] * d**-beta + harm(bits) * d**beta * n**-alpha
            return n, d, loss

        bits = least(lambda bits: point(bits)[2], *BITS)
        n, d, loss = (float(v) for v in point(np.array(bits)))
        return {"bits": bits, "N": n, "D": d, "loss": loss}

    return what


def of_bits(flops: float, size: float | None = None) -> dict[str, Values]:
    """Bits of training for a budget, from floats."""
    params, source = published(FP_TRAINING)
    return {source: bits_of_floats(flops, size)(**params)}


def of_split(bits: float) -> dict[str, Values]:
    """Splits of a float of so many bits that standards have; empty where there is none."""
    return {
        name: {"exponent bits": float(e), "mantissa bits": float(m)}
        for name, (e, m) in STANDARDS.get(int(bits), {}).items()
    }


def of_hyper(flops: float, size: float | None = None) -> dict[str, Values]:
    """Learning rate and batch (tokens) of each publication: 2401.02954 from the compute alone, 2503.04715
    from size and tokens, which are the optimal ones of Chinchilla's law where no size is given."""
    if size is None:
        best = budget(CHINCHILLA, flops)(**published(CHINCHILLA)[0])
        n, d = best["N"], best["D"]
    else:
        n, d = size, flops / (6 * size)
    found: dict[str, Values] = {}
    for law, at in ((COMPUTE_POWER, {"C": flops}), (HYPERPARAMETER, {"N": n, "D": d})):
        for label, params in law.published.items():
            source, _, name = label.partition(", ")
            if name in ("learning rate", "batch in tokens"):
                found.setdefault(source, {})[name] = float(law.predict(params, **at))
    return found
