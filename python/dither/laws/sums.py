"""Laws that are sums of power terms: the engine fits them to a certified optimum.

Sources and constants: each law's `source` and `published`. N: parameters, D: training tokens, C = 6 N D
training FLOPs, M = D / N, losses in nats a token.
"""

from __future__ import annotations

import numpy as np

from dither.laws.engine import Floats
from dither.laws.law import COARSE, Spread, SumLaw, powers
from dither.laws.straight import ND, exponent, log, scale, straight

BESIROGLU = "2404.10102 (Besiroglu et al.)"

_A = scale("A", "coefficient of the size term")
_B = scale("B", "coefficient of the data term")
_E = scale("E", "irreducible loss")
_ALPHA = exponent("alpha", "exponent of the size")
_BETA = exponent("beta", "exponent of the data")

CHINCHILLA = straight(
    "chinchilla",
    "L = E + A N^-alpha + B D^-beta",
    {"A": {"N": "alpha"}, "B": {"D": "beta"}},
    (_A, _B, _E, _ALPHA, _BETA),
    source="Hoffmann et al. 2022, 2203.15556, approach 3",
    published={
        "2203.15556 (Hoffmann et al., digits of its source text)": dict(
            A=float(np.exp(6.0073404)),
            B=float(np.exp(6.0179186)),
            E=float(np.exp(0.5267228)),
            alpha=0.33917084,
            beta=0.2849083,
        ),
        BESIROGLU: dict(A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658),
    },
    spread={
        BESIROGLU: Spread(
            (
                (0.25813, 0.0, 0.0, 0.0, 0.0),
                (-0.107561, 0.407004, 0.0, 0.0, 0.0),
                (0.00827226, 0.0110309, 0.00294999, 0.0, 0.0),
                (0.015387, -0.000168581, 0.000235655, 0.000488235, 0.0),
                (-0.00538722, 0.0198706, 0.000251892, -0.000412592, 0.000150332),
            ),
            "the covariance of 4,000 resamples of its 240 runs (dither study chinchilla-replication)",
        )
    },
    studied={BESIROGLU: {"N": (5.7e7, 1.62e10), "D": (8.2e8, 3.18e11), "C": (1.4e18, 1.3e22)}},
)

CHINCHILLA_TIED = straight(
    "chinchilla_tied",
    "L = E + A N^-alpha + B D^-alpha",
    {"A": {"N": "alpha"}, "B": {"D": "alpha"}},
    (_A, _B, _E, exponent("alpha", "exponent of size and data")),
    source="Muennighoff et al. 2023, 2305.16264, appendix; the tied form",
    published={"2305.16264": dict(A=521.0, B=1488.0, E=1.87, alpha=0.353)},
)

OVER_TRAINING = straight(
    "over_training",
    "L = E + (a M^eta + b M^-eta) C^-eta, M = D/N, C = 6 N D",
    {"a": {"M": ("eta", 1.0), "C": "eta"}, "b": {"M": "eta", "C": "eta"}},
    (
        scale("a", "coefficient of the term that grows with M (the size term)"),
        scale("b", "coefficient of the term that falls with M (the data term)"),
        _E,
        exponent("eta", "exponent of compute"),
    ),
    features={
        "M": lambda v: np.log(v["D"] / v["N"]),
        "C": lambda v: np.log(6.0 * v["N"] * v["D"]),
    },
    source="Gadre et al. 2024, 2403.08540, equation 4: Chinchilla with alpha = beta = 2 eta",
)

SATURATION = straight(
    "saturation",
    "L = E + A C^-alpha",
    {"A": {"C": "alpha"}},
    (scale("A", "coefficient"), _E, exponent("alpha", "exponent of compute")),
    variables={"C": "training FLOPs"},
    source="a power law with a floor; the loss-saturation fits of Porian et al. 2024, 2406.19146",
)

KAPLAN_N = straight(
    "kaplan_n",
    "L = A N^-alpha (no floor)",
    {"A": {"N": "alpha"}},
    (scale("A", "coefficient: Nc^alpha"), exponent("alpha", "exponent of the size")),
    variables={"N": "parameters without embeddings"},
    floor=None,
    source="Kaplan et al. 2020, 2001.08361, equation 1.1",
    published={"2001.08361": dict(A=8.8e13**0.076, alpha=0.076)},
)

SHAPE = straight(
    "shape",
    "L = E + A W^-alpha + B H^-beta + F N^-gamma + G D^-delta",
    {"A": {"W": "alpha"}, "B": {"H": "beta"}, "F": {"N": "gamma"}, "G": {"D": "delta"}},
    (
        scale("A", "coefficient of the width term"),
        scale("B", "coefficient of the depth term"),
        scale("F", "coefficient of the size term"),
        scale("G", "coefficient of the data term"),
        _E,
        exponent("alpha", "exponent of the width"),
        exponent("beta", "exponent of the depth"),
        exponent("gamma", "exponent of the size"),
        exponent("delta", "exponent of the data"),
    ),
    variables={"W": "width", "H": "depth (layers)", **ND},
    grid=np.array([0.1, 0.3, 0.5, 0.8, 1.2]),
    source="McLeish et al. 2025 (Gemstones), 2502.06857",
)

FINE_GRAINED_MOE = straight(
    "fine_grained_moe",
    "L = E + (g G^-gamma + a) N^-alpha + B D^-beta",
    {"g": {"G": "gamma", "N": "alpha"}, "a": {"N": "alpha"}, "B": {"D": "beta"}},
    (
        scale("g", "coefficient of the granularity"),
        scale("a", "coefficient of the size term"),
        _B,
        _E,
        exponent("gamma", "exponent of the granularity"),
        _ALPHA,
        _BETA,
    ),
    variables={"G": "granularity of the experts", **ND},
    grid=np.array([0.05, 0.15, 0.3, 0.5, 0.8, 1.2]),
    source="Krajewski et al. 2024, 2402.07871",
)

ENSEMBLE = straight(
    "ensemble",
    "L = E + A K^-alpha",
    {"A": {"K": "alpha"}},
    (scale("A", "coefficient"), _E, exponent("alpha", "exponent of the number of members")),
    variables={"K": "members"},
    source="2509.14786 (infinite compute, fixed data)",
)

FP_TRAINING = straight(
    "fp_training",
    "L = eps + n N^-alpha + d D^-beta + (D^beta / N^alpha) log2(block) rho (e + 1/2)^-delta (m + 1/2)^-nu",
    {
        "n": {"N": "alpha"},
        "d": {"D": "beta"},
        "rho": {"N": "alpha", "D": ("beta", 1.0), "B": 1.0, "e": "delta", "m": "nu"},
    },
    (
        scale("n", "coefficient of the size term"),
        scale("d", "coefficient of the data term"),
        scale("rho", "1 / gamma of the paper"),
        scale("eps", "irreducible loss"),
        _ALPHA,
        _BETA,
        exponent("delta", "exponent of the exponent bits"),
        exponent("nu", "exponent of the mantissa bits"),
    ),
    variables={**ND, "e": "exponent bits", "m": "mantissa bits", "block": "elements a scale"},
    features={
        "N": log("N"),
        "D": log("D"),
        "B": lambda v: _log(np.log2(v["block"])),  # a scale for each element costs nothing
        "e": lambda v: np.log(v["e"] + 0.5),
        "m": lambda v: np.log(v["m"] + 0.5),
    },
    floor="eps",
    zero={"e": lambda e: e + 0.5, "m": lambda m: m + 0.5},
    grid=np.array([0.15, 0.3, 0.5, 1.0, 2.0, 3.0]),
    source="Sun et al. 2025, 2501.02423, equation 26 (table 2)",
    published={
        "2501.02423": dict(
            n=69.2343,
            d=68973.0621,
            rho=1 / 11334.5197,
            eps=1.9061,
            alpha=0.2368,
            beta=0.5162,
            delta=3.1926,
            nu=2.9543,
        )
    },
    studied={"2501.02423": {"N": (4.1e7, 1.2e9), "D": (1e10, 1e11)}},
)


_BENT_MODEL = powers({"A": {"N": "p"}, "B": {"D": "q"}}, variables=("N", "D"), floor="E", outer="gamma")[0]


def _log(scale: Floats) -> Floats:
    """ln of a scale, or of E; 0 is -inf."""
    with np.errstate(divide="ignore"):
        return np.log(scale)


def _kaplan_to_theta(vector: Floats) -> Floats:
    a, b, e, alpha, beta = np.moveaxis(vector, -1, 0)
    p = alpha / beta
    return np.stack([p * _log(a), _log(b), _log(e), p, np.ones_like(a), beta], axis=-1)


def _kaplan_from_theta(theta: Floats) -> Floats:
    a, b, e, p, _, beta = np.moveaxis(theta, -1, 0)
    with np.errstate(over="ignore"):  # a scale that ran to infinity, which the fit's cautions name
        return np.stack([np.exp(a / p), np.exp(b), np.exp(e), p * beta, beta], axis=-1)


KAPLAN_E = SumLaw(
    "kaplan_e",
    "L = E + [(A/N)^(alpha/beta) + B/D]^beta",
    ND,
    (
        scale("A", "size scale (parameters)"),
        scale("B", "data scale (tokens)"),
        _E,
        _ALPHA,
        _BETA,
    ),
    source="Brandfonbrener et al. 2024, 2411.12925, equation 3: closed under shifted powers",
    model=_BENT_MODEL,
    features=lambda v: [np.log(v["N"]), np.log(v["D"])],
    to_theta=_kaplan_to_theta,
    from_theta=_kaplan_from_theta,
    fixed={"q": 1.0},
    same={"B": "B", "E": "E", "beta": "gamma"},
    called={"p": "alpha/beta"},
    grid={"p": COARSE},
)


def _gamma_to_theta(vector: Floats) -> Floats:
    a, b, e, p, q, gamma = np.moveaxis(vector, -1, 0)
    return np.stack([_log(a), _log(b), _log(e), p, q, gamma], axis=-1)


def _gamma_from_theta(theta: Floats) -> Floats:
    a, b, e, p, q, gamma = np.moveaxis(theta, -1, 0)
    with np.errstate(over="ignore"):
        return np.stack([np.exp(a), np.exp(b), np.exp(e), p, q, gamma], axis=-1)


GAMMA = SumLaw(
    "gamma",
    "L = E + (A N^-p + B D^-q)^gamma",
    ND,
    (
        scale("A", "coefficient of the size term"),
        scale("B", "coefficient of the data term"),
        _E,
        exponent("p", "exponent of the size within the sum"),
        exponent("q", "exponent of the data within the sum"),
        exponent("gamma", "exponent of the sum"),
    ),
    source="xLSTM scaling laws, 2510.02228: contains chinchilla (gamma = 1) and kaplan_e (q = 1)",
    model=_BENT_MODEL,
    features=lambda v: [np.log(v["N"]), np.log(v["D"])],
    to_theta=_gamma_to_theta,
    from_theta=_gamma_from_theta,
    same={name: name for name in ("A", "B", "E", "p", "q", "gamma")},
    grid={"p": COARSE, "q": COARSE},
)

LAWS: tuple[SumLaw, ...] = (
    CHINCHILLA,
    CHINCHILLA_TIED,
    KAPLAN_E,
    GAMMA,
    OVER_TRAINING,
    SATURATION,
    KAPLAN_N,
    SHAPE,
    FINE_GRAINED_MOE,
    ENSEMBLE,
    FP_TRAINING,
)
