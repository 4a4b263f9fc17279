"""Laws of what follows the loss: task errors, coverage of repeated samples, reinforcement learning; and of
hyper-parameters.

Responses are positive numbers, named by each law; a metric with a floor or a ceiling has both as parameters.
"""

from __future__ import annotations

import numpy as np

from dither.laws.formulas import function_law
from dither.laws.law import Parameter
from dither.laws.straight import scale, straight

TASK_ERROR = function_law(
    "task_error",
    "error = eps - k exp(-gamma L)",
    {"L": "loss (nats/token)"},
    {
        "eps": ("error of a model that knows nothing", (0.7, 0.9)),
        "k": ("coefficient", (1.0, 3.0)),
        "gamma": ("rate", (0.5, 1.0)),
    },
    lambda eps, k, gamma, L: eps - k * np.exp(-gamma * L),
    "Gadre et al. 2024, 2403.08540, equation 5",
    linear=("eps", "k"),
    response="mean top-1 error",
    published={"2403.08540, RedPajama": dict(eps=0.8570, k=2.2065, gamma=0.7146)},
)

TASK_ACCURACY = function_law(
    "task_accuracy",
    "accuracy = low + (high - low) / (1 + exp(k (L - L0)))",
    {"L": "task loss (nats)"},
    {
        "low": ("accuracy of a guess", (0.25,)),
        "high": ("ceiling", (0.9,)),
        "k": ("steepness", (1.0, 3.0, 10.0)),
        "L0": ("loss half way", (0.6, 0.8, 1.0, 1.3)),
    },
    lambda low, high, k, L0, L: low + (high - low) / (1 + np.exp(k * (L - L0))),
    "the second step of task ladders (OLMo); Llama 3, 2407.21783, has it over the log-likelihood",
    placed={"L0": ("L", 1.0)},
    linear=("low", "high"),
    response="accuracy",
    unit=("low", "high"),
)

COVERAGE = function_law(
    "coverage",
    "c = exp(-a k^-b)",
    {"k": "samples a problem"},
    {"a": ("-ln of the coverage of one sample", (0.5, 3.0)), "b": ("exponent", (0.2, 0.7))},
    lambda a, b, k: np.exp(-a * k**-b),
    "Brown et al. 2024, 2407.21787. Points of one curve share their samples, so fit per-problem counts "
    "instead where there are any: dither.laws.beta_binomial",
    response="pass@k",
)

RARE_SUCCESS = function_law(
    "rare_success",
    "p = exp(-c N^-b): log(-log p) is linear in log N",
    {"N": "parameters"},
    {"c": ("coefficient", (0.3, 1.0, 3.0)), "b": ("exponent", (0.1, 0.4))},
    lambda c, b, N: np.exp(-c * N**-b),
    "Hu et al. 2023, 2310.03262 (PassUntil)",
    placed={"c": ("N", "b")},
    response="success rate, sampled until it passes",
)

RL_SIGMOID = function_law(
    "rl_sigmoid",
    "R = R0 + (A - R0) / (1 + (Cmid/C)^B)",
    {"C": "compute (GPU hours, or FLOPs)"},
    {
        "R0": ("reward at the start", (0.1, 0.3)),
        "A": ("reward that is approached", (0.6, 0.9)),
        "Cmid": ("compute half way", (0.3, 1.0, 3.0, 10.0)),
        "B": ("steepness", (0.7, 1.5)),
    },
    lambda R0, A, Cmid, B, C: R0 + (A - R0) / (1 + (Cmid / C) ** B),
    "2510.13786 (ScaleRL): leave out the early part of the curve",
    placed={"Cmid": ("C", 1.0)},
    linear=("R0", "A"),
    response="reward, or pass rate",
    unit=("R0", "A"),
)

HYPERPARAMETER = straight(
    "hyperparameter",
    "y = c N^a D^b",
    {"c": {"N": ("a", 1.0), "D": ("b", 1.0)}},
    (
        scale("c", "coefficient"),
        Parameter("a", "exponent of the size", -10.0, 10.0),
        Parameter("b", "exponent of the data", -10.0, 10.0),
    ),
    variables={"N": "parameters", "D": "training tokens"},
    floor=None,
    grid=np.linspace(-1.5, 1.5, 13),
    response="an optimal hyper-parameter",
    source="Li et al. 2025, 2503.04715 (step law; constants to be checked)",
    published={
        "2503.04715, learning rate": dict(c=1.79, a=-0.713, b=0.307),
        "2503.04715, batch in tokens": dict(c=0.58, a=0.0, b=0.571),
    },
)

COMPUTE_POWER = straight(
    "compute_power",
    "y = c C^a",
    {"c": {"C": ("a", 1.0)}},
    (scale("c", "coefficient"), Parameter("a", "exponent of compute", -10.0, 10.0)),
    variables={"C": "training FLOPs"},
    floor=None,
    grid=np.linspace(-1.5, 1.5, 31),
    response="an optimum: size, tokens, learning rate, batch",
    source="DeepSeek 2024, 2401.02954; Llama 3, 2407.21783; Porian et al. 2024, 2406.19146",
    published={
        "2401.02954, learning rate": dict(c=0.3118, a=-0.1250),
        "2401.02954, batch in tokens": dict(c=0.2920, a=0.3271),
        "2401.02954, FLOPs a token": dict(c=0.1715, a=0.5243),
        "2401.02954, tokens": dict(c=5.8316, a=0.4757),
        "2407.21783, tokens": dict(c=0.29, a=0.53),
    },
)

FORMULAS = (TASK_ERROR, TASK_ACCURACY, COVERAGE, RARE_SUCCESS, RL_SIGMOID)
SUMS = (HYPERPARAMETER, COMPUTE_POWER)
