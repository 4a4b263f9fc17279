"""Where a recipe can apply: the products and weights of a model that are sites, and how they are named.

A site is one matrix product or one weight. Its name is that of its module; attentions have the two sites
"NAME.qk" and "NAME.pv", nn.MultiheadAttention also "NAME.in_proj".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parameter import UninitializedParameter

from dither.errors import UserError
from dither.nn.counterparts import OPT_IN, known
from dither.nn.layers import Quantized
from dither.nn.recipe import Recipe
from dither.nn.streams import OPERANDS

HEAD_NAMES = ("head", "lm_head", "output")

USED = {"embedding": ("fprop_w",), "norm": ("fprop_w",), "output": ("fprop_x", "dgrad_g"),
        "residual": ("fprop_x", "dgrad_g")}  # fmt: skip
"""Kinds that are no product, with the operands that they use."""


@dataclass(frozen=True)
class Site:
    """One product or weight of a model, and what it gets."""

    name: str
    kind: str
    recipe: Recipe
    index: int
    """Position among all that could be sites; enters the random streams."""
    seed: int = 0
    part: str = ""
    """Name of the product within its module, for modules that have several."""
    shape: tuple[int, ...] = ()
    """Of the weight; empty for products without one."""
    why: str = ""
    """Where the recipe comes from, or why there is none."""
    switch_step: int | None = None
    """The step from which the forward is in bf16 (Recipe.forward_bf16_from); None: never, or not known."""

    @property
    def owner(self) -> str:
        """Name of the module."""
        return _owner(self.name, self.part)

    @property
    def is_quantized(self) -> bool:
        others = () if self.kind in USED else (*self.recipe.rotations, self.recipe.accumulate)
        return any(value is not None for value in (*self.operands.values(), *others))

    @property
    def shared_weight(self) -> bool:
        """Whether the second factor is a weight, the same on all ranks, and not a share of the batch."""
        return self.kind not in ("attention", "product", "output", "residual")

    @property
    def operands(self) -> dict[str, Any]:
        """The operands that a site of this kind uses: Quantizer, Operand, "fprop" or None by name."""
        return {name: getattr(self.recipe, name) for name in USED.get(self.kind, OPERANDS)}


class Prepared(NamedTuple):
    """What a counterpart remembers."""

    sites: tuple[Site, ...]
    """One for each part of its class."""
    plain_class: type[nn.Module]
    quantized_class: type[nn.Module]
    plan: tuple[Site, ...]
    """All sites of the model that was prepared."""
    rank: int
    """Which of the batch's equal shares this process holds."""
    whole_blocks: bool
    """Whether an operand whose last block would be shorter is an error."""


class Candidate(NamedTuple):
    """What could be a site."""

    name: str
    module: nn.Module
    kind: str

    @property
    def part(self) -> str:
        """Name of the product within its module, "" where the module is one."""
        counterpart = type_of(self.module) or OPT_IN[self.kind]
        return "" if counterpart.parts[0][0] == "" else self.name.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """Name of the module."""
        return _owner(self.name, self.part)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight; empty for products without one, and for lazy layers that have none yet."""
        if self.kind == "attention":
            return ()
        weight = getattr(self.module, "in_proj_weight" if self.part == "in_proj" else "weight", None)
        return () if weight is None or isinstance(weight, UninitializedParameter) else tuple(weight.shape)

    def answers(self, glob: str) -> bool:
        """Whether a glob covers its name or that of its module."""
        return covers(glob, self.name) or covers(glob, self.owner)


def _owner(name: str, part: str) -> str:
    return name.removesuffix(part).removesuffix(".") if part else name


def candidates(model: nn.Module) -> list[Candidate]:
    """All that could be a site under some recipe, in the order of named_modules.

    A linear is a head if its name ends in head, lm_head or output, or if an embedding shares its weight.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    found = []
    for name, module in model.named_modules():
        counterpart = type_of(module)
        if counterpart is None or counterpart in OPT_IN.values():
            continue
        for part, kind in counterpart.parts:
            if kind == "norm" and module.weight is None:
                continue
            if kind == "linear" and not part and _is_head(name, module, embeddings):
                kind = "head"
            found.append(Candidate(f"{name}.{part}".strip("."), module, kind))
    return found


def type_of(module: nn.Module) -> type[Quantized] | None:
    """The counterpart of a module, plain or prepared; None where it has none."""
    if isinstance(module, Quantized):
        return next(c for c in type(module).__mro__ if "parts" in vars(c))
    return known(module)


def _is_head(name: str, module: nn.Module, embeddings: set[int]) -> bool:
    return name.rpartition(".")[2] in HEAD_NAMES or id(module._parameters.get("weight")) in embeddings


def covers(glob: str, name: str) -> bool:
    """Whether a glob covers a name; "*.head" also means a top-level "head"."""
    return fnmatchcase(name, glob) or fnmatchcase("." + name, glob)


def matching(found: Sequence[Candidate], globs: Iterable[str], what: str = "exempt pattern") -> set[str]:
    """Names of the sites that a glob covers, by their own name or that of their module. UserError for a glob
    that covers none."""
    covered: set[str] = set()
    for glob in globs:
        names = {candidate.name for candidate in found if candidate.answers(glob)}
        if not names:
            raise UserError(f"{what} {glob!r} matches no module.{listing(found)}")
        covered |= names
    return covered


def listing(found: Sequence[Candidate]) -> str:
    return " Modules that can be sites:\n  " + (
        "\n  ".join(f"{name or '(the model)'} ({kind})" for name, _, kind in found) or "none"
    )
