"""`--section.key value` options for every key of a run's configuration, typed and documented from its
dataclasses.

The configuration's own dataclasses cannot be parsed directly: their defaults would hide which keys the user
set, and an arm of a comparison must keep its own value of a key that was not set. So each gets a twin whose
fields are all optional, and `given` collects those that are not None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from dither.errors import UserError
from dither.train.config import RunConfig

OPTIONS = "--method.options."


def _metavar(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return f"{_metavar(get_args(hint)[0])} ..."
    return {bool: "True|False", int: "INT", float: "FLOAT"}.get(hint, "TEXT")


def _twin(kind: type, default: Any) -> type:
    hints, members = get_type_hints(kind), []
    for item in fields(kind):
        hint, value = hints[item.name], getattr(default, item.name)
        if is_dataclass(hint):
            twin = _twin(hint, value)  # type: ignore[arg-type]
            members.append((item.name, twin, field(default_factory=twin)))
        elif get_origin(hint) is not Mapping:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            note = tyro.conf.arg(
                metavar=_metavar(hint), help_behavior_hint=f"(default: {shown if shown != '' else 'none'})"
            )
            members.append((item.name, Annotated[hint | None, note], None))
    twin = make_dataclass(kind.__name__, members, frozen=True)
    twin.__doc__ = kind.__doc__
    return twin


Overrides = _twin(RunConfig, RunConfig())


def given(overrides: Any, prefix: str = "") -> dict[str, Any]:
    """The keys the user set, as {"train.steps": 100}."""
    found: dict[str, Any] = {}
    for item in fields(overrides):
        value = getattr(overrides, item.name)
        if is_dataclass(value):
            found |= given(value, f"{prefix}{item.name}.")
        elif value is not None:
            found[prefix + item.name] = list(value) if isinstance(value, tuple) else value
    return found


def split_method_options(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take `--method.options.KEY VALUE` out of the arguments: its keys belong to the method, not to a
    dataclass.
    """
    rest, options = [], {}
    words = iter(arguments)
    for word in words:
        if not word.startswith(OPTIONS):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals and (value := next(words, "--")).startswith("--"):
            raise UserError(f"{word} needs a value")
        options[key] = value
    return rest, options
