"""Laws of low precision: what bits leave of the size, quantizing afterwards, and QAT's share.

N: parameters, D: training tokens, bits as numbers (fractions are allowed); losses in nats a token.
"""

from __future__ import annotations

import numpy as np

from dither.laws.engine import Floats
from dither.laws.formulas import ND, function_law
from dither.laws.straight import exponent, log, scale, straight


def effective_size(
    gw: float, ga: float, gkv: float, N: Floats, Pw: Floats, Pa: Floats, Pkv: Floats
) -> Floats:
    """Parameters that weights, activations and cache of these bits are worth (2411.04330, section 4)."""
    return N * -np.expm1(-Pw / gw) * -np.expm1(-Pa / ga) * -np.expm1(-Pkv / gkv)


CITED = "2411.04330, as cited by others, not checked in the paper"

_BITS = {"Pw": "bits of weights", "Pa": "bits of activations", "Pkv": "bits of the key-value cache"}
_SENSITIVITIES = {
    "gw": ("bits that weights need", (1.3, 2.7)),
    "ga": ("bits that activations need", (1.1, 2.2)),
    "gkv": ("bits that the cache needs", (0.5, 1.0)),
}
_TRAINED = {
    "A": ("coefficient of the size term", (4299.0,)),
    "B": ("coefficient of the data term", (1.806e4,)),
    "E": ("irreducible loss", (2.76,)),
    "alpha": ("exponent of the size", (0.3, 0.5)),
    "beta": ("exponent of the data", (0.3, 0.5)),
}

PRECISION = function_law(
    "precision",
    "L = E + A Neff^-alpha + B D^-beta, Neff = N (1-e^(-Pw/gw)) (1-e^(-Pa/ga)) (1-e^(-Pkv/gkv))",
    {**ND, **_BITS},
    {**_TRAINED, **_SENSITIVITIES},
    lambda A, B, E, alpha, beta, gw, ga, gkv, N, D, Pw, Pa, Pkv: (
        E + A * effective_size(gw, ga, gkv, N, Pw, Pa, Pkv) ** -alpha + B * D**-beta
    ),
    "Kumar et al. 2024, 2411.04330, equation 3",
    linear=("A", "B", "E"),
    published={
        CITED: dict(
            A=4299.0, B=1.806e4, E=2.7648, alpha=0.4965, beta=0.4965, gw=2.6745, ga=2.2102, gkv=0.9578
        )
    },
)

POST_TRAINING = straight(
    "post_training",
    "gap = CT D^gD N^-gN exp(-P/g): what quantizing to P bits after training costs; rate is 1/g",
    {"CT": {"D": ("gD", 1.0), "N": "gN", "P": "rate"}},
    (
        scale("CT", "coefficient"),
        exponent("gD", "exponent of the data: longer training costs more"),
        exponent("gN", "exponent of the size"),
        exponent("rate", "1 / bits that weights need afterwards"),
    ),
    variables={**ND, "P": "bits after training"},
    features={"D": log("D"), "N": log("N"), "P": lambda v: v["P"]},
    floor=None,
    response="increase of the loss (nats/token)",
    source="Kumar et al. 2024, 2411.04330, equation 2",
    published={CITED: dict(CT=0.0598, gD=0.5068, gN=0.3439, rate=1 / 0.5907)},
)

QAT_SHARE = function_law(
    "qat_share",
    "f = exp(-a / ln S), S = D / (N bits / 8): the share of tokens that quantized training should get",
    {**ND, "bits": "bits of weights"},
    {"a": ("how late quantized training may start", (3.0, 7.0))},
    lambda a, N, D, bits: np.exp(-a / np.log(np.maximum(8 * D / (N * bits), 1 + 1e-9))),
    "2509.22935, compute-optimal QAT",
    published={"2509.22935": dict(a=6.7297)},
    studied={"2509.22935": {"N": (8.6e7, 2.2e9), "D": (2.3e9, 1.4e12), "bits": (1.0, 6.0)}},
    response="share of the tokens",
)

QAT_SHARE_ERROR = 0.091
"""Mean absolute error of the published rule's share, as the paper is cited."""

QAT_LOSS = function_law(
    "qat_loss",
    "L = E + A N^-alpha + B D^-beta + theta 2^(-k P) + phi 2^(-chi P) / (N^psi Sq^om) "
    "+ lam 2^(-mu P) / (N^nu Sf^xi Sq^rho), Sq = 8 Dq/(N P), Sf = 8 (D-Dq)/(N P)",
    {**ND, "Dq": "tokens of quantized training, fewer than D", "P": "bits of weights"},
    {
        "A": ("coefficient of the size term", (400.0,)),
        "B": ("coefficient of the data term", (2000.0,)),
        "E": ("irreducible loss", (1.7,)),
        "alpha": ("exponent of the size", (0.35,)),
        "beta": ("exponent of the data", (0.35,)),
        "theta": ("coefficient of what bits alone cost", (0.3,)),
        "k": ("decay of it by bit", (1.0,)),
        "phi": ("coefficient of what too little quantized training costs", (3.0,)),
        "chi": ("decay of it by bit", (0.8,)),
        "psi": ("exponent of the size in it", (0.1,)),
        "om": ("exponent of quantized training in it", (0.4,)),
        "lam": ("coefficient of the interaction", (3.0,)),
        "mu": ("decay of it by bit", (0.5,)),
        "nu": ("exponent of the size in it", (0.1,)),
        "xi": ("exponent of full-precision training in it", (0.2,)),
        "rho": ("exponent of quantized training in it", (0.3,)),
    },
    lambda A, B, E, alpha, beta, theta, k, phi, chi, psi, om, lam, mu, nu, xi, rho, N, D, Dq, P: (
        E
        + A * N**-alpha
        + B * D**-beta
        + theta * 2.0 ** (-k * P)
        + phi * 2.0 ** (-chi * P) * N**-psi * (8 * Dq / (N * P)) ** -om
        + lam
        * 2.0 ** (-mu * P)
        * N**-nu
        * (8 * np.maximum(D - Dq, 1.0) / (N * P)) ** -xi
        * (8 * Dq / (N * P)) ** -rho
    ),
    "2509.22935, compute-optimal QAT: 16 parameters, fitted there to 757 runs",
    linear=("A", "B", "E", "theta", "phi", "lam"),
)

FORMULAS = (PRECISION, QAT_SHARE, QAT_LOSS)
SUMS = (POST_TRAINING,)
