"""The plan of a comparison, from one TOML file: shared sections, and an [[arm]] table for each arm.

seeds = [0, 1, 2]                                # optional: every arm once for each seed
differences = [["lotion", "ptq"]]                # optional: paired differences, first minus second

[model] [data] [train] [eval] [recipe] [method]  # as for one run; shared by the arms

[[arm]]
name = "fp32"

[[arm]]
name = "ptq"
same_as = "fp32"                                 # the same training: its run is used, not repeated
method = { name = "ptq", quantizer = "int4_g32" } # or another method after training, or another [eval]

[[arm]]
name = "lotion"
method = { name = "lotion", quantizer = "int4_g32", options = { lam = 1.0 } }
train = { lr = 2e-3 }                            # any key of a section may differ, but for model, data
and seed
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dither.errors import UserError, suggest
from dither.train import config as configuration
from dither.train.config import EvalConfig, MethodConfig, RunConfig
from dither.train.method import acts_after_training
from dither.train.toml import convert, read_toml, to_dict
from dither.train.wiring import check_names

_OWN = ("seeds", "differences", "arm")


@dataclass(frozen=True)
class Arm:
    name: str
    config: RunConfig
    same_as: str | None = None


@dataclass(frozen=True)
class Plan:
    """`seeds` is empty where the file names none: each arm then runs once with its train.seed."""

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = ()
    differences: tuple[tuple[str, str], ...] = ()

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def to_dict(self) -> dict[str, Any]:
        arms = [{"name": a.name, "same_as": a.same_as, "config": to_dict(a.config)} for a in self.arms]
        return {
            "seeds": list(self.seeds),
            "differences": [list(pair) for pair in self.differences],
            "arms": arms,
        }


def load_plan(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Plan:
    """Read and check a comparison. `overrides` win over the shared sections and over every arm."""
    tree, where = read_toml(path), os.fspath(path)
    own = {key: tree.pop(key) for key in _OWN if key in tree}
    shared_overrides = {}
    for key, value in (overrides or {}).items():
        if key in ("seeds", "differences"):
            own[key] = value
        else:
            shared_overrides[key] = value
    tables = own.get("arm")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, Mapping) for table in tables):
        raise UserError(
            f"{where} has no [[arm]] table; a comparison needs at least one (for one run: dither train)"
        )
    arms: list[Arm] = []
    for number, table in enumerate(tables, start=1):
        arms.append(_arm(dict(table), tree, shared_overrides, f"{where}, arm {number}", arms))
    for arm in arms:
        for key in ("model", "data"):
            if getattr(arm.config, key) != getattr(arms[0].config, key):
                raise UserError(
                    f"{where}: arm {arm.name!r} has another [{key}] than {arms[0].name!r}; arms are "
                    "compared from the same "
                    "data and the same initial weights"
                )
        if arm.config.train.seed != arms[0].config.train.seed:
            raise UserError(
                f"{where}: arm {arm.name!r} has its own train.seed; list seeds = [...] for all arms instead"
            )
        check_names(arm.config)
    seeds = _seeds(own.get("seeds", []), where)
    return Plan(tuple(arms), seeds, _pairs(own.get("differences", []), arms, where))


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds = convert(tuple[int, ...], value, f"{where}: seeds")
    if len(set(seeds)) < len(seeds) or any(seed < 0 for seed in seeds):
        raise UserError(f"{where}: seeds must be different whole numbers from 0, not {list(seeds)}")
    return seeds


def _pairs(value: Any, arms: list[Arm], where: str) -> tuple[tuple[str, str], ...]:
    names = [arm.name for arm in arms]
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise UserError(
            f'{where}: differences must be a list of pairs of arms such as [["lotion", "ptq"]], not {value!r}'
        )
    for name in (name for pair in value for name in pair):
        if name not in names:
            near = suggest(str(name), names)
            raise UserError(f"{where}: differences name the unknown arm {name!r}{near}")
    return tuple((first, second) for first, second in value)


def _arm(
    table: dict[str, Any],
    shared: Mapping[str, Any],
    overrides: Mapping[str, Any],
    where: str,
    before: list[Arm],
) -> Arm:
    name, same_as = table.pop("name", None), table.pop("same_as", None)
    if (
        not isinstance(name, str)
        or not name
        or not all(c.isalnum() or c in "-_.+" for c in name)
        or name[0] == "."
    ):
        raise UserError(
            f"{where}: an arm needs a name of letters, digits, '-', '_', '+' and '.', not {name!r}"
        )
    if name in [arm.name for arm in before]:
        raise UserError(f"{where}: the name {name!r} is taken by an earlier arm")
    merged: dict[str, Any] = {key: value for key, value in shared.items()}
    for key, value in table.items():
        inherited = merged.get(key, {})
        if isinstance(value, Mapping) and isinstance(inherited, Mapping):
            merged[key] = {**inherited, **value}
            # steps and tokens exclude each other: the arm's own wins
            for given, other in (("steps", "tokens"), ("tokens", "steps")):
                if key == "train" and given in value and other not in value:
                    merged[key].pop(other, None)
        else:
            merged[key] = value
    config = configuration.from_dict(configuration.apply_overrides(merged, overrides), f"{where} ({name})")
    if same_as is None:
        return Arm(name, config)
    base = next((arm for arm in before if arm.name == same_as and arm.same_as is None), None)
    if base is None:
        known = [arm.name for arm in before if arm.same_as is None]
        raise UserError(
            f"{where}: same_as = {same_as!r} names no earlier arm that is "
            f"trained{suggest(str(same_as), known)}"
        )
    if _training(config) != _training(base.config):
        raise UserError(
            f"{where}: {name!r} says same_as = {same_as!r}, but its sections differ in more than [eval] and "
            "a method after training; remove same_as or the differences"
        )
    return Arm(name, config, same_as)


def _training(config: RunConfig) -> RunConfig:
    """The configuration as far as training goes: methods after training train like no method."""
    method = MethodConfig() if acts_after_training(config.method.name) else config.method
    return replace(config, eval=EvalConfig(scores=config.eval.scores), method=method)


def evaluated_alike(arm: Arm, base: Arm) -> bool:
    """Whether the record of the run that `arm` shares serves it too: the same casts, and rounding to nearest
    as the method of both."""
    return arm.config.eval == base.config.eval and all(_rounds(a.config.method) for a in (arm, base))


def _rounds(method: MethodConfig) -> bool:
    """Whether the weights are rounded to nearest, by no method's own grid."""
    return method.name == "none" or (method.name == "ptq" and method.options.get("clip", "none") == "none")
