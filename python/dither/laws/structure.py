"""Laws of what a model is made of and learns from: experts, vocabulary, a teacher; broken curves; batches.

Fitted through scipy. N: parameters, D: training tokens; losses in nats a token where nothing else is said.
"""

from __future__ import annotations

from dither.laws.engine import Floats
from dither.laws.formulas import ND, function_law

MOE_SPARSITY = function_law(
    "moe_sparsity",
    "L = e + a N^-alpha + b D^-beta + c (1-S)^-l + d (1-S)^-m N^-g",
    {**ND, "S": "share of experts that a token does not use"},
    {
        "a": ("coefficient of the size term", (100.0, 1000.0)),
        "b": ("coefficient of the data term", (1000.0,)),
        "c": ("coefficient of the sparsity term", (0.03,)),
        "d": ("coefficient of the term of sparsity and size", (100.0,)),
        "e": ("irreducible loss", (1.5,)),
        "alpha": ("exponent of the size", (0.25, 0.4)),
        "beta": ("exponent of the data", (0.25, 0.4)),
        "l": ("exponent of the density", (0.5,)),
        "m": ("exponent of the density in the term with the size", (-0.5, 0.5)),
        "g": ("exponent of the size in it", (0.2,)),
    },
    lambda a, b, c, d, e, alpha, beta, l, m, g, N, D, S: (  # noqa: E741  the paper's names
        e + a * N**-alpha + b * D**-beta + c * (1 - S) ** -l + d * (1 - S) ** -m * N**-g
    ),
    "Abnar et al. 2025, 2501.12370 (form to be checked)",
    signed=("m",),
    linear=("a", "b", "c", "d", "e"),
    zero={"S": lambda s: 1 - s},
)

VOCABULARY = function_law(
    "vocabulary",
    "-Lu = E - A1 Nnv^-a - A2 Nv^-b - B H^-a: the gain over a unigram model, one exponent for Nnv and H",
    {
        "Nnv": "parameters outside the vocabulary",
        "Nv": "parameters of the vocabulary",
        "H": "training characters",
    },
    {
        "A1": ("coefficient of the size term", (10.0, 300.0)),
        "A2": ("coefficient of the vocabulary term", (10.0,)),
        "B": ("coefficient of the data term", (300.0,)),
        "E": ("gain that is approached", (5.0,)),
        "a": ("exponent of the size and the data", (0.3, 0.45)),
        "b": ("exponent of the vocabulary", (0.3, 0.6)),
    },
    lambda A1, A2, B, E, a, b, Nnv, Nv, H: E - A1 * Nnv**-a - A2 * Nv**-b - B * H**-a,
    "Tao et al. 2024, 2407.13623",
    linear=("A1", "A2", "B", "E"),
    response="loss of a unigram model less the loss (nats/token)",
)


def _distillation(
    c0: float,
    c1: float,
    d1: float,
    f1: float,
    A: float,
    B: float,
    alpha: float,
    beta: float,
    gamma: float,
    N: Floats,
    D: Floats,
    LT: Floats,
    LS: Floats,
) -> Floats:
    teacher = LT**-c0 * (1 + (LT / (LS * d1)) ** (1 / f1)) ** (-c1 * f1)
    return LT + teacher * (A * N**-alpha + B * D**-beta) ** gamma


DISTILLATION = function_law(
    "distillation",
    "L = LT + LT^-c0 (1 + (LT/(LS d1))^(1/f1))^(-c1 f1) (A N^-alpha + B D^-beta)^gamma",
    {
        "N": "parameters of the student",
        "D": "tokens of distillation",
        "LT": "loss of the teacher (nats/token)",
        "LS": "loss of the student without a teacher (nats/token)",
    },
    {
        "c0": ("exponent of the teacher's loss", (1.0,)),
        "c1": ("change of it where the student is as good", (0.5,)),
        "d1": ("loss ratio where it breaks", (1.0,)),
        "f1": ("width of the break", (0.3,)),
        "A": ("coefficient of the size term", (0.1, 1.0)),
        "B": ("coefficient of the data term", (0.1, 1.0)),
        "alpha": ("exponent of the size", (0.4,)),
        "beta": ("exponent of the data", (0.4,)),
        "gamma": ("exponent of both terms", (0.8,)),
    },
    _distillation,
    "Busbridge et al. 2025, 2502.08606",
    signed=("c0", "c1"),
    placed={"A": ("N", "alpha"), "B": ("D", "beta")},
)


def _two_breaks(
    a: float,
    b: float,
    c0: float,
    c1: float,
    d1: float,
    f1: float,
    c2: float,
    d2: float,
    f2: float,
    x: Floats,
) -> Floats:
    first = (1 + (x / d1) ** (1 / f1)) ** (-c1 * f1)
    return a + b * x**-c0 * first * (1 + (x / d2) ** (1 / f2)) ** (-c2 * f2)


BNSL_2 = function_law(
    "bnsl_2",
    "y = a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1) (1 + (x/d2)^(1/f2))^(-c2 f2)",
    {"x": "what is scaled"},
    {
        "a": ("limit", (0.1,)),
        "b": ("coefficient", (3.0, 30.0)),
        "c0": ("slope before the breaks", (0.2,)),
        "c1": ("change of the slope at the first break", (-0.1, 0.2)),
        "d1": ("where it breaks first", (0.03, 3.0)),
        "f1": ("width of the first break", (0.3,)),
        "c2": ("change of the slope at the second break", (-0.1, 0.2)),
        "d2": ("where it breaks again", (30.0,)),
        "f2": ("width of the second break", (0.3,)),
    },
    _two_breaks,
    "Caballero et al. 2022, 2210.14891, two breaks",
    placed={"d1": ("x", 1.0), "d2": ("x", 1.0)},
    linear=("a", "b"),
    signed=("c0", "c1", "c2"),
    response="any positive metric",
)

CRITICAL_BATCH = function_law(
    "critical_batch",
    "tokens = Dmin (1 + batch/Bcrit): what one loss costs at each batch",
    {"batch": "tokens a step"},
    {
        "Dmin": ("tokens at a small batch", (1e9, 1e11)),
        "Bcrit": ("batch that costs twice as many", (0.1, 1.0, 10.0)),
    },
    lambda Dmin, Bcrit, batch: Dmin * (1 + batch / Bcrit),
    "McCandlish et al. 2018, 1812.06162; Bergsma et al. 2025, 2505.13738",
    placed={"Bcrit": ("batch", 1.0)},
    linear=("Dmin",),
    response="tokens to the loss",
)

TIMESCALE = function_law(
    "timescale",
    "tau = c (D/N)^m: AdamW's best timescale batch/(learning rate * weight decay * D), in epochs of D",
    ND,
    {"c": ("coefficient", (0.5, 2.0)), "m": ("exponent of the tokens a parameter", (-0.5,))},
    lambda c, m, N, D: c * (D / N) ** m,
    "Bergsma et al. 2025, 2505.13738 (constants to be checked)",
    signed=("m",),
    published={"2505.13738": dict(c=1.084, m=-0.527)},
    linear=("c",),
    response="timescale (epochs)",
)

LAWS = (MOE_SPARSITY, VOCABULARY, DISTILLATION, BNSL_2, CRITICAL_BATCH, TIMESCALE)
