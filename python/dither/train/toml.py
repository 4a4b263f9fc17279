"""Frozen dataclasses from TOML and back: conversion, overrides, and errors that name the nearest key."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from dither.errors import UserError, suggest


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse a TOML file. Raises UserError for a missing file and, with line and column, for a syntax
    error."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; examples lie in the folder examples/ of the repository"
        ) from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory; name a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None


def set_keys(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `tree` with "section.key" set to each value; the keys are checked when the dataclasses are
    built."""
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    for name, value in changes.items():
        *parents, key = name.split(".")
        node = result
        for parent in parents:
            child = node.get(parent, {})
            if not isinstance(child, Mapping):
                raise UserError(f"{name}: {parent!r} is not a section")
            node[parent] = dict(child)
            node = node[parent]
        node[key] = value
    return result


def build(kind: type, tree: Any, where: str, section: str = "") -> Any:
    """The dataclass `kind` from nested dicts. `where` (a file) and `section` stand in the error messages."""
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: {section} must be a table, not {tree!r}")
    hints = get_type_hints(kind)
    label = f"[{section}] " if section else ""
    values = {}
    for key, value in tree.items():
        if key not in hints:
            known = ", ".join(hints)
            raise UserError(f"{where}: {label}unknown key {key!r}{suggest(key, hints)}; known: {known}")
        name = f"{section}.{key}" if section else key
        if is_dataclass(hints[key]):
            values[key] = build(hints[key], value, where, name)  # type: ignore[arg-type]
        else:
            values[key] = convert(hints[key], value, f"{where}: {name}")
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def convert(kind: Any, value: Any, name: str) -> Any:
    """`value` as the annotated type; a string for another type (command line) is read as a TOML value."""
    if isinstance(value, str) and kind is not str:
        value = _parse(value)
    if isinstance(value, str) and get_origin(kind) is tuple and get_args(kind)[0] is str:
        value = value.split(",") if "=" not in value else [value]  # quantizer parts contain commas
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            value = [value]
        return tuple(convert(get_args(kind)[0], item, name) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 1e6 tokens
    if get_origin(kind) is not None:
        if not isinstance(value, Mapping):
            raise UserError(f"{name} must be a table, not {value!r}")
        return {key: _parse(item) if isinstance(item, str) else item for key, item in value.items()}
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise UserError(f"{name} must be {words[kind]}, not {value!r}")
    return value


def _parse(text: str) -> Any:
    """The TOML value that `text` spells, or `text` itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_dict(value: Any) -> Any:
    """Nested plain dicts and lists, as the TOML file has them."""
    if is_dataclass(value):
        return {item.name: to_dict(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(item) for key, item in value.items()}
    return [to_dict(item) for item in value] if isinstance(value, tuple) else value


def dump_toml(tree: Mapping[str, Any], section: str = "") -> str:
    """Canonical TOML of nested dicts (scalars, lists of scalars, tables)."""
    lines = [
        f"{_key(key)} = {_value(value)}" for key, value in tree.items() if not isinstance(value, Mapping)
    ]
    text = (f"[{section}]\n" if section and lines else "") + "".join(f"{line}\n" for line in lines)
    for key, value in tree.items():
        if isinstance(value, Mapping):
            inner = dump_toml(value, f"{section}.{_key(key)}" if section else _key(key))
            text += ("\n" if text and inner else "") + inner
    return text


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
