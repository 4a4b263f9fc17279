"""Laws of the loss that are no sum of power terms: repetition of data, breaks, experts, copies.

Fitted through scipy. N: parameters, D: training tokens; losses in nats a token where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dither.laws.engine import Floats
from dither.laws.law import FunctionLaw, Parameter

ND = {"N": "parameters", "D": "training tokens"}


def function_law(
    name: str,
    formula: str,
    variables: Mapping[str, str],
    parameters: Mapping[str, tuple[str, tuple[float, ...]]],
    function: Callable[..., Any],
    source: str,
    *,
    signed: tuple[str, ...] = (),
    unit: tuple[str, ...] = (),
    **more: Any,
) -> FunctionLaw:
    """A law as a function. parameters: name -> (meaning, starts); positive and searched by their logarithm,
    except those in `signed` (any sign) and in `unit` (0 to 1).
    """
    built = tuple(
        Parameter(key, meaning)
        if key in signed
        else Parameter(key, meaning, 0.0, 1.0)
        if key in unit
        else Parameter(key, meaning, low=0.0, logarithmic=True)
        for key, (meaning, _) in parameters.items()
    )
    starts = {key: values for key, (_, values) in parameters.items()}
    return FunctionLaw(
        name, formula, dict(variables), built, source, function=function, starts=starts, **more
    )


def saturating(value: Floats, unique: Floats, worth: float) -> Floats:
    """What `value` is worth when only `unique` of it is new: U + U R* (1 - exp(-R / R*)), R = value/U - 1."""
    repeats = np.maximum(value / unique - 1, 0.0)
    return unique + unique * worth * -np.expm1(-repeats / worth)


def _data_constrained(
    A: float,
    B: float,
    E: float,
    alpha: float,
    beta: float,
    R_D: float,
    R_N: float,
    N: Floats,
    D: Floats,
    U: Floats,
) -> Floats:
    unique = np.minimum(U, D)
    g = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    optimal = g * (unique * g) ** (beta / alpha)  # the size that unique tokens are worth
    size = saturating(N, np.minimum(N, optimal), R_N)
    return E + A * size**-alpha + B * saturating(D, unique, R_D) ** -beta


DATA_CONSTRAINED = function_law(
    "data_constrained",
    "L = E + A N'^-alpha + B D'^-beta, D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)), N' likewise, its U the "
    "smaller of N and the size that is optimal for U tokens",
    {**ND, "U": "unique tokens"},
    {
        "A": ("coefficient of the size term", (0.1, 0.5)),
        "B": ("coefficient of the data term", (0.1, 0.5)),
        "E": ("irreducible loss", (1.87,)),
        "alpha": ("exponent of the size", (0.25, 0.4)),
        "beta": ("exponent of the data", (0.25, 0.4)),
        "R_D": ("repetitions after which data is worth 1 - 1/e of its limit", (4.0, 15.0, 47.0, 100.0)),
        "R_N": ("the same for parameters in excess", (1.5, 2.3, 5.0, 12.0)),
    },
    _data_constrained,
    "Muennighoff et al. 2023, 2305.16264",
    placed={"A": ("N", "alpha"), "B": ("D", "beta")},
    linear=("E",),
    published={
        "2305.16264": dict(A=521.0, B=1488.0, E=1.87, alpha=0.353, beta=0.353, R_D=15.387756, R_N=5.309743)
    },
)

KAPLAN = function_law(
    "kaplan",
    "L = [(Nc/N)^(aN/aD) + Dc/D]^aD",
    {"N": "parameters without embeddings", "D": "training tokens"},
    {
        "Nc": ("size scale", (10.0, 1e3, 1e5)),
        "Dc": ("data scale", (10.0, 1e3, 1e5)),
        "aN": ("exponent of the size", (0.08, 0.15, 0.3)),
        "aD": ("exponent of the data", (0.103, 0.3)),
    },
    lambda Nc, Dc, aN, aD, N, D: ((Nc / N) ** (aN / aD) + Dc / D) ** aD,
    "Kaplan et al. 2020, 2001.08361, equation 1.5",
    placed={"Nc": ("N", 1.0), "Dc": ("D", 1.0)},
    published={"2001.08361": dict(Nc=6.4e13, Dc=1.8e13, aN=0.076, aD=0.103)},
)

KAPLAN_STEPS = function_law(
    "kaplan_steps",
    "L = (Nc/N)^aN + (Sc/S)^aS, S = steps / (1 + Bcrit/B): steps at a batch far above the critical one",
    {"N": "parameters without embeddings", "S": "smallest number of steps"},
    {
        "Nc": ("size scale", (10.0, 1e3, 1e5)),
        "Sc": ("step scale", (0.03, 0.3)),
        "aN": ("exponent of the size", (0.08, 0.2)),
        "aS": ("exponent of the steps", (0.35, 0.75)),
    },
    lambda Nc, Sc, aN, aS, N, S: (Nc / N) ** aN + (Sc / S) ** aS,
    "Kaplan et al. 2020, 2001.08361, equation 1.6",
    placed={"Nc": ("N", 1.0), "Sc": ("S", 1.0)},
    published={"2001.08361": dict(Nc=6.5e13, Sc=2100.0, aN=0.077, aS=0.76)},
)

FARSEER = function_law(
    "farseer",
    "L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
    ND,
    {
        "a1": ("of the data exponent", (-0.1, 0.1)),
        "b1": ("of the data exponent", (-1.0,)),
        "alpha": ("of the data exponent", (0.1,)),
        "a2": ("of the data coefficient", (1.0,)),
        "b2": ("of the data coefficient", (3.0,)),
        "beta": ("of the data coefficient", (0.05,)),
        "a3": ("of the floor at a size", (-0.5, 1.0)),
        "b3": ("of the floor at a size", (1.0,)),
        "gamma": ("of the floor at a size", (-0.1, 0.05)),
    },
    lambda a1, b1, alpha, a2, b2, beta, a3, b3, gamma, N, D: (
        np.exp(a3 * N**gamma + b3) + np.exp(a2 * N**beta + b2) * D ** -np.exp(a1 * N**alpha + b1)
    ),
    "Farseer 2025, 2506.10972 (id to be checked): the data exponent depends on the size",
    signed=("a1", "b1", "alpha", "a2", "b2", "beta", "a3", "b3", "gamma"),
)

BNSL = function_law(
    "bnsl",
    "y = a + b x^-c0 (1 + (x/d)^(1/f))^(-c1 f)",
    {"x": "what is scaled"},
    {
        "a": ("limit", (0.1, 1.0)),
        "b": ("coefficient", (1.0, 30.0)),
        "c0": ("slope before the break", (0.1, 0.4)),
        "c1": ("change of the slope at the break", (-0.1, 0.2)),
        "d": ("where it breaks", (0.03, 1.0, 30.0)),
        "f": ("width of the break", (0.3, 1.0)),
    },
    lambda a, b, c0, c1, d, f, x: a + b * x**-c0 * (1 + (x / d) ** (1 / f)) ** (-c1 * f),
    "Caballero et al. 2022, 2210.14891, one break",
    placed={"d": ("x", 1.0)},
    linear=("a", "b"),
    signed=("c0", "c1"),
    response="any positive metric",
)

M3 = function_law(
    "m3",
    "y = b (1/x + g)^c + e",
    {"x": "what is scaled"},
    {
        "b": ("coefficient", (1.0, 100.0)),
        "g": ("1/x where it bends", (1e-3, 0.1, 10.0)),
        "c": ("exponent", (0.2, 0.5)),
        "e": ("floor", (0.1, 1.0)),
    },
    lambda b, g, c, e, x: b * (1 / x + g) ** c + e,
    "Alabdulmohsin et al. 2022, 2209.06640 (M1 is kaplan_n, M2 saturation)",
    placed={"g": ("x", -1.0)},
    linear=("b", "e"),
    response="any positive metric",
)


def _m4(a: float, b: float, c: float, e: float, e0: float, x: Floats) -> Floats:
    """The left side grows from 0 to infinity as y goes from e to e0, so y is found by halving."""
    right = np.log(b) - c * np.log(x)
    low, high = np.zeros_like(right), np.ones_like(right)
    for _ in range(60):
        middle = 0.5 * (low + high)
        y = e + (e0 - e) * middle
        above = np.log(y - e) - a * np.log(e0 - y) > right
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return e + (e0 - e) * 0.5 * (low + high)


M4 = function_law(
    "m4",
    "(y - e) / (e0 - y)^a = b x^-c",
    {"x": "what is scaled"},
    {
        "a": ("how it leaves the random guess", (0.5, 2.0)),
        "b": ("coefficient", (10.0, 200.0)),
        "c": ("exponent", (0.3,)),
        "e": ("floor", (0.1,)),
        "e0": ("value of a random guess", (1.0,)),
    },
    _m4,
    "Alabdulmohsin et al. 2022, 2209.06640, the form they recommend",
    response="any positive metric",
)

PARSCALE = function_law(
    "parscale",
    "L = E + (A / (N (k ln P + 1)))^alpha",
    {"N": "parameters without embeddings", "P": "parallel copies"},
    {
        "A": ("size scale", (1e-4, 0.01, 0.3)),
        "k": ("worth of a copy", (0.1, 0.4)),
        "E": ("irreducible loss", (0.7, 1.3)),
        "alpha": ("exponent of the size", (0.1, 0.2, 0.4)),
    },
    lambda A, k, E, alpha, N, P: E + (A / (N * (k * np.log(P) + 1))) ** alpha,
    "Chen et al. 2025, 2505.10475",
    placed={"A": ("N", 1.0)},
    linear=("E",),
)

SPARSE = function_law(
    "sparse",
    "L = (aS (1-S)^bS + cS) N^-bN + (aD/D)^bD + c",
    {**ND, "S": "share of weights that are zero"},
    {
        "aS": ("worth of sparsity", (10.0,)),
        "bS": ("exponent of density", (0.5, 1.5)),
        "cS": ("coefficient of the size term", (10.0,)),
        "bN": ("exponent of the size", (0.15, 0.35)),
        "aD": ("data scale", (1e-4, 0.01, 0.1)),
        "bD": ("exponent of the data", (0.2, 0.4)),
        "c": ("irreducible loss", (1.5,)),
    },
    lambda aS, bS, cS, bN, aD, bD, c, N, D, S: (aS * (1 - S) ** bS + cS) * N**-bN + (aD / D) ** bD + c,
    "Frantar et al. 2023, 2309.08520",
    placed={"aD": ("D", 1.0)},
    linear=("aS", "cS", "c"),
    zero={"S": lambda s: 1 - s},
)


def _routed(
    a: float, b: float, c: float, d: float, start: float, most: float, N: Floats, experts: Floats
) -> Floats:
    bounded = 1 / (1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most)
    n, e = np.log10(N), np.log10(bounded)
    return 10.0 ** (a * n + b * e + c * n * e + d)


ROUTED = function_law(
    "routed",
    "log L = a log N + b log F + c log N log F + d, 1/F = 1/(experts - 1 + 1/(1/start - 1/most)) + 1/most",
    {"N": "dense parameters", "experts": "experts"},
    {
        "a": ("exponent of the size", (-0.08,)),
        "b": ("exponent of the experts", (-0.11,)),
        "c": ("how experts lose their worth with size", (0.01,)),
        "d": ("base-10 logarithm of the coefficient", (1.1,)),
        "start": ("experts that one counts as", (1.2, 1.8, 4.0)),
        "most": ("experts beyond which nothing is gained", (50.0, 300.0, 2000.0)),
    },
    _routed,
    "Clark et al. 2022, 2202.01169",
    signed=("a", "b", "c", "d"),
    log_linear=("a", "b", "c", "d"),
    published={
        "2202.01169, S-Base": dict(a=-0.082, b=-0.108, c=0.009, d=1.104, start=1.847, most=314.478),
        "2202.01169, RL-R": dict(a=-0.083, b=-0.126, c=0.012, d=1.111, start=1.880, most=469.982),
        "2202.01169, Hash": dict(a=-0.087, b=-0.136, c=0.012, d=1.157, start=4.175, most=477.741),
    },
)

LAWS: tuple[FunctionLaw, ...] = (
    DATA_CONSTRAINED,
    KAPLAN,
    KAPLAN_STEPS,
    FARSEER,
    BNSL,
    M3,
    M4,
    PARSCALE,
    SPARSE,
    ROUTED,
)
