"""From [method] of a configuration to the method of a run, its state with that of what it learns, and the
model as the method deploys it.

Every keyword of a method can be set in [method.options], but for those that are objects, which have words of
their own:

    curvature   "adam" (default; `n_eff`, by default the tokens of one step), "fisher" (sampled labels),
                "empirical" or "hutchinson" (these three: `every`, `decay`)
    lam         a number; with `silent`, the part of the run before a ramp of lambda, the end of the ramp

`seed` and `optimizer` are those of the run. A method whose grid is its own (LSQ, GPTQ, ...) is evaluated as
it deploys under the cast that names its quantizer; one that needs data gets training batches for it, on a
copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dither import methods
from dither.errors import UserError, suggest
from dither.models.gpt import GPT
from dither.train.batches import Batches
from dither.train.config import RunConfig
from dither.train.toml import convert

CALIBRATION = 16
"""Training microbatches, those of the first steps, that a method with `needs_data` sees."""

_TYPES: dict[str, Any] = {
    "activations": str, "start": int, "sites": tuple[str, ...], "exempt": tuple[str, ...], "mode": str,
    "scale_grad": bool, "clip": str, "act_order": bool, "damping": float, "iterations": int, "lr": float,
    "hadamard": int, "lam": float, "silent": float, "curvature": str, "n_eff": float, "every": int,
    "decay": float, "floor": float, "threshold": float, "probe": int, "most": int,
}  # fmt: skip
_CURVATURES = {
    "fisher": methods.SampledFisher,
    "empirical": methods.EmpiricalFisher,
    "hutchinson": methods.Hutchinson,
}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """UserError for an option that the method does not have, or of another type."""
    known = _known(name)
    for option, value in options.items():
        if option not in known:
            raise UserError(
                f"[method.options] unknown option {option!r} of {name}{suggest(option, known)}; "
                f"known: {', '.join(known) or 'none'}"
            )
        convert(_type_of(name, option), value, f"[method.options] {option}")


def _type_of(name: str, option: str) -> Any:
    """As annotated, where that is a plain type: all that an option of a method of one's own can have."""
    parameter = methods.options(name).get(option)
    annotation = "" if parameter is None else getattr(parameter.annotation, "__name__", parameter.annotation)
    plain = {"int": int, "float": float, "bool": bool, "str": str}.get(annotation)
    if plain is None and option not in _TYPES:
        raise UserError(
            f"[method.options] {option}: {name} must annotate it as int, float, bool or str, so that it can "
            "be read from a file"
        )
    return plain or _TYPES[option]


def _known(name: str) -> list[str]:
    own = [option for option in methods.options(name) if option not in ("seed", "optimizer")]
    if "curvature" in own:
        own += ["n_eff", "every", "decay"]
    return [*own, "silent"] if _has_schedule(name) else own


def _has_schedule(name: str) -> bool:
    """Whether lambda may be a function of the step."""
    parameter = methods.options(name).get("lam")
    return parameter is not None and "Callable" in str(parameter.annotation)


def acts_after_training(name: str) -> bool:
    """Whether a run with the method of that name trains as one without."""
    return name != "none" and issubclass(methods.get(name), methods.Calibrated)


def make_method(config: RunConfig, model: GPT, optimizer: torch.optim.Optimizer) -> methods.Method | None:
    """The method attached to the model, what it learns in the optimizer; None for "none"."""
    name = config.method.name
    if name == "none":
        return None
    known, options = methods.options(name), dict(config.method.options)
    try:
        if "curvature" in known:
            options["curvature"] = _curvature(options, config, optimizer)
        if "silent" in options:
            options["lam"] = methods.Ramp(
                float(options.get("lam", 1.0)), config.train.steps, silent=float(options.pop("silent"))
            )
        given = {"seed": config.train.seed, "optimizer": optimizer}
        options |= {key: value for key, value in given.items() if key in known}
        method = methods.get(name)(model, config.method.quantizer, **options)
    except (ValueError, TypeError) as error:
        raise UserError(f"[method] {error}") from None
    if learned := list(method.parameters()):
        optimizer.add_param_group({"params": learned, "weight_decay": 0.0})
    return method


def _curvature(
    options: dict[str, Any], config: RunConfig, optimizer: torch.optim.Optimizer
) -> methods.Curvature:
    """What the option names; its own options are taken out of `options`."""
    kind = options.pop("curvature", "adam")
    own = {key: options.pop(key) for key in ("n_eff", "every", "decay") if key in options}
    if kind == "adam":
        if wrong := [key for key in own if key != "n_eff"]:
            raise ValueError(f"{wrong[0]} belongs to curvature 'fisher', 'empirical' or 'hutchinson'")
        n_eff = own.get("n_eff", config.train.batch * config.model.context)
        return methods.AdamSecondMoment(optimizer, n_eff=n_eff)
    if kind not in _CURVATURES:
        known = ("adam", *_CURVATURES)
        raise ValueError(f"unknown curvature {kind!r}{suggest(str(kind), known)}; known: {', '.join(known)}")
    if "n_eff" in own:
        raise ValueError("n_eff belongs to curvature 'adam'")
    return _CURVATURES[kind](seed=config.train.seed, **own)


def state_of(method: methods.Method, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The method's state, and the optimizer's for the parameters that the method learns."""
    state = method.state_dict()
    for number, parameter in enumerate(method.parameters()):
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"optimizer.{number}.{key}"] = value
    return state


def load_state_(method: methods.Method, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take back what `state_of` gave."""
    method.load_state_dict(state)
    for number, parameter in enumerate(method.parameters()):
        prefix = f"optimizer.{number}."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if own:
            optimizer.state[parameter] = {key: value.clone() for key, value in own.items()}


def calibrated(method: methods.Method, config: RunConfig, twin: GPT, batches: Batches) -> methods.Method:
    """The method on a copy of the plain `twin`, its weights placed by data of the training set."""
    copy = GPT(twin.config, twin.vocab, torch.Generator())
    copy.load_state_dict(twin.state_dict())
    again = type(method)(copy, method.quantizer, **config.method.options)
    again.calibrate_([batches.at(step, 0)[0] for step in range(CALIBRATION)])
    return again
