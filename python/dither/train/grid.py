"""The runs of a sweep, from one TOML file: shared sections, lists of values, and tables of runs.

[model] [data] [train] [eval] [recipe] [method]  # as for one run; shared by all

[grid]                                           # every combination of these
"train.lr" = [1e-3, 3e-3]
"train.seed" = [0, 1, 2]

[[run]]                                          # and each of it for every one of these
"recipe.name" = "mxfp8"

[[run]]
method = { name = "qat", quantizer = "int4_g32" }

A run is known by the hash of its resolved configuration, so a file may grow: runs that are done stay done.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dither.errors import UserError
from dither.train import config as configuration
from dither.train.config import RunConfig
from dither.train.rundir import FREE
from dither.train.toml import dump_toml, read_toml, set_keys, to_dict
from dither.train.wiring import check_names

KEY_DIGITS = 16


@dataclass(frozen=True)
class Entry:
    """One run: `key` names its folder, `changes` is what it sets beside the shared sections."""

    key: str
    config: RunConfig
    changes: Mapping[str, Any]

    @property
    def label(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.changes.items()) or "as the file says"

    @property
    def cost(self) -> float:
        """Relative: tokens times the parameters of the layers, for the time that is left."""
        model, train = self.config.model, self.config.train
        return float(train.steps * train.batch * model.context * model.layers * model.width**2)


def load_grid(
    path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None
) -> tuple[list[Entry], int]:
    """The runs of a file, each once, and how many more entries were copies of them.

    `overrides` ({"train.steps": 100}) change the shared sections. Runs take one thread unless train.threads
    says otherwise. Raises UserError for a wrong file, an empty grid, and for anything wrong in any run."""
    tree, where = read_toml(path), os.fspath(path)
    grid, tables = tree.pop("grid", {}), tree.pop("run", None)
    if "arm" in tree:
        raise UserError(f"{where} lists the arms of a comparison; run it with `dither compare`")
    axes = _axes(grid, where)
    if tables is None and not axes:
        raise UserError(f"{where} has no [grid] and no [[run]] table; for one run: dither train")
    if tables is not None and not (isinstance(tables, list) and tables):
        raise UserError(f"{where}: run must be a list of [[run]] tables, and not empty")
    shared = configuration.apply_overrides(tree, overrides or {})
    found: dict[str, Entry] = {}
    copies = 0
    for number, table in enumerate(tables or [{}], start=1):
        for changes in _combinations(_flat(table, f"{where}, run {number}"), axes, overrides or {}, where):
            name = f"{where} ({', '.join(f'{k}={v}' for k, v in changes.items())})"
            entry = _entry(shared, changes, name)
            copies += entry.key in found
            found.setdefault(entry.key, entry)
    return list(found.values()), copies


def run_key(config: RunConfig) -> str:
    """The hash of a resolved configuration, without the keys that change neither weights nor metrics."""
    tree = to_dict(config)
    for section, key in FREE:
        del tree[section][key]
    return hashlib.sha256(dump_toml(tree).encode()).hexdigest()[:KEY_DIGITS]


def _axes(grid: Any, where: str) -> dict[str, list[Any]]:
    axes = _flat(grid, f"{where}: [grid]")
    for name, values in axes.items():
        if not isinstance(values, list):
            raise UserError(f"{where}: [grid] {name} must be a list of values, not {values!r}")
        if not values:
            raise UserError(f"{where}: [grid] {name} is empty: there is nothing to run; list its values")
    return axes


def _flat(table: Any, where: str, parents: str = "") -> dict[str, Any]:
    """{"train.lr": ...} of a table with dotted keys, nested ones or both."""
    if not isinstance(table, Mapping):
        raise UserError(f"{where} must be a table, not {table!r}")
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = parents + key
        inner = _flat(value, where, f"{name}.") if isinstance(value, Mapping) else {name: value}
        if twice := flat.keys() & inner.keys():
            raise UserError(f"{where}: {min(twice)} is set twice")
        if "." not in name and name in inner:
            raise UserError(f'{where}: unknown key {key!r}; keys are "section.key", such as "train.lr"')
        flat |= inner
    return flat


def _combinations(
    table: Mapping[str, Any], axes: Mapping[str, list[Any]], overrides: Mapping[str, Any], where: str
) -> Iterator[dict[str, Any]]:
    if both := table.keys() & axes.keys():
        raise UserError(f"{where}: {min(both)} stands in [grid] and in a [[run]]; leave it in one of them")
    if both := (table.keys() | axes.keys()) & overrides.keys():
        raise UserError(f"{where} gives {min(both)} to each run; leave --{min(both)} out or change the file")
    for values in itertools.product(*axes.values()):
        yield {**table, **dict(zip(axes, values, strict=True))}


def _entry(shared: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> Entry:
    # apply_overrides changes [train] where steps or tokens are given: on a copy
    tree = configuration.apply_overrides(set_keys(shared, {}), changes)
    config = configuration.from_dict(tree, where)
    try:
        check_names(config)
        threads = config.train.threads or 1
        config = configuration.resolve(replace(config, train=replace(config.train, threads=threads)), threads)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Entry(run_key(config), config, changes)
