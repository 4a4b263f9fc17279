"""Options of an optimizer by the names of parameters: how the state of each is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from dither.errors import UserError
from dither.nn.sites import covers

Rule = tuple[str | Callable[[nn.Parameter, str], bool], Mapping[str, Any]]


def named_groups(model: nn.Module, rules: Sequence[Rule] = ()) -> list[dict[str, Any]]:
    """Groups of the parameters of `model` that take a gradient, for any optimizer.

        rules = [("*", {"state": "int8"}), ("*norm*", {"state": "fp32"})]
        optimizer = dither.optim.AdamW(dither.optim.named_groups(model, rules), lr=3e-4)
        print(dither.nn.describe(model, optimizer=optimizer))

    A rule is (where, options): `where` is a glob of names ("*.head" also means a top-level "head") or a
    function of (parameter, name); of the rules that match, later ones win option by option. A tied parameter
    has its first name. Raises UserError where a rule matches nothing.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    options: dict[str, dict[str, Any]] = {name: {} for name, _ in named}
    for number, (where, given) in enumerate(rules, start=1):
        matched = [name for name, p in named if _holds(where, p, name)]
        if not matched:
            listing = "\n  ".join(options) or "none"
            raise UserError(f"rule {number}: {where!r} matches no parameter. Parameters:\n  {listing}")
        for name in matched:
            options[name] |= given
    groups: list[dict[str, Any]] = []
    for name, p in named:
        group = next((g for g in groups if g == options[name] | {"params": g["params"]}), None)
        if group is None:
            groups.append(group := {"params": []} | options[name])
        group["params"].append((name, p))
    return groups


def _holds(where: str | Callable[[nn.Parameter, str], bool], parameter: nn.Parameter, name: str) -> bool:
    if isinstance(where, str):
        return covers(where, name)
    return bool(where(parameter, name))
