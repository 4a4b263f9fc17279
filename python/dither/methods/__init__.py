"""What to do about the quantizer in the objective: PTQ, QAT, RAT and LOTION under one interface.

    curvature = AdamSecondMoment(optimizer, n_eff=tokens)
    lotion = dither.methods.Lotion(model, "int4_g32", curvature=curvature, lam=Ramp(1.0, steps))
    loss = task_loss + lotion.penalty(step)

    with dither.methods.cast_weights(model, "int4_g32"):  # what the model is worth with its weights cast
        evaluate(model)

On any `nn.Module`; `dither.methods.base` lists the calls a training loop makes.
"""

from __future__ import annotations

import importlib
import inspect

import dither.nn  # noqa: F401 - says what to install where torch is missing
from dither.errors import UserError, suggest
from dither.methods.adaround import AdaRound
from dither.methods.base import Method
from dither.methods.cage import Cage
from dither.methods.calibration import Calibrated
from dither.methods.casting import cast_weights, randomized
from dither.methods.cooldown import FusedCooldown, fused_cooldown, qat_part
from dither.methods.curvature import AdamSecondMoment, Curvature
from dither.methods.dampen import Dampen
from dither.methods.eco import Eco
from dither.methods.fisher import EmpiricalFisher, Hutchinson, SampledFisher
from dither.methods.forward import Forward
from dither.methods.freeze import Freeze
from dither.methods.gptq import Gptq
from dither.methods.grid import Grid
from dither.methods.lotion import Lotion
from dither.methods.lsq import Lsq
from dither.methods.ptq import Ptq
from dither.methods.qat import Qat
from dither.methods.qema import Qema
from dither.methods.qramping import Qramping
from dither.methods.quest import Quest
from dither.methods.ramp import CosineRamp, Ramp
from dither.methods.random_scaling import RandomScaling
from dither.methods.rat import Rat
from dither.methods.statsq import StatsQ
from dither.methods.targets import WEIGHT_SITES, Target, find_targets

__all__ = [
    "WEIGHT_SITES",
    "AdaRound",
    "AdamSecondMoment",
    "Cage",
    "Calibrated",
    "CosineRamp",
    "Curvature",
    "Dampen",
    "Eco",
    "EmpiricalFisher",
    "Forward",
    "Freeze",
    "FusedCooldown",
    "Gptq",
    "Grid",
    "Hutchinson",
    "Lotion",
    "Lsq",
    "Method",
    "Ptq",
    "Qat",
    "Qema",
    "Qramping",
    "Quest",
    "Ramp",
    "RandomScaling",
    "Rat",
    "SampledFisher",
    "StatsQ",
    "Target",
    "cast_weights",
    "find_targets",
    "fused_cooldown",
    "get",
    "names",
    "options",
    "qat_part",
    "randomized",
]

_FIRST = (Ptq, Gptq, AdaRound, Qat, Lsq, Rat, Lotion, Cage, Quest)
_SECOND = (StatsQ, Qema, Qramping, Dampen, Freeze, Eco, RandomScaling)
_METHODS: dict[str, type[Method]] = {method.name: method for method in (*_FIRST, *_SECOND)}


def names() -> list[str]:
    """The names that `get` knows."""
    return list(_METHODS)


def get(name: str) -> type[Method]:
    """The method of that name, to be called as `get(name)(model, quantizer, **options)`; "MODULE:CLASS" is
    one of your own. UserError for an unknown name.
    """
    if ":" in name:
        return _imported(*name.split(":", 1))
    if name not in _METHODS:
        raise UserError(
            f"unknown method {name!r}{suggest(name, _METHODS)}; methods are {', '.join(_METHODS)}"
        )
    return _METHODS[name]


def _imported(module: str, name: str) -> type[Method]:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"no method {module}:{name}: {error}; the module must lie where Python looks for one "
            "(PYTHONPATH=. for the current folder)"
        ) from None
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"{module}:{name} is no subclass of dither.methods.Method")
    return found


def options(name: str) -> dict[str, inspect.Parameter]:
    """The keywords of the method of that name, those of the classes it builds on among them."""
    found: dict[str, inspect.Parameter] = {}
    for kind in get(name).__mro__:
        if "__init__" in vars(kind):
            parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            found = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY} | found
    return found
