"""What a recipe says, ready for layers: prints of quantizers, flags, positions of state.

torch.compile can guard on these values, and passing them costs nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from dither.nn.operand import Operand as Value
from dither.nn.recipe import Recipe
from dither.nn.streams import OPERANDS
from dither.quantizer import Quantizer

FPROP_X, FPROP_W, DGRAD_G, DGRAD_W, WGRAD_G, WGRAD_X = range(len(OPERANDS))
FPROP = 0


class Operand(NamedTuple):
    """One operand's quantizer as its print: cheap to pass, and torch.compile can guard on it."""

    spec: str
    stochastic: bool
    rule: str = "own"
    """`own`, `quest`, `ms_eden`, `least` or `delayed`: who finds the scale."""
    least: float = 0.0
    again: bool = False
    state: int = 0
    """`delayed`: the row of the layer's history that holds the scale."""
    share: int = 0
    """Which of the batch's equal shares this process holds: the index of an element is its index in the whole
    batch, so that the random bits do not depend on the number of ranks. 0 for weights."""
    start: int = 0
    """Index of the first element, where the operand is a part of a larger one."""
    whole: int = 0
    """The length of the blocks where a shorter one is an error (prepare_'s `ragged`); 0 where it is not."""

    def offset(self, x: Tensor) -> int:
        """Index of the first element of `x` in its random stream."""
        return self.start + self.share * x.numel() if self.stochastic else 0


class Rotation(NamedTuple):
    block: int
    signs: bool


class Operands(NamedTuple):
    """What a layer needs of its recipe."""

    six: tuple[Operand | str | None, ...]
    """In the order of OPERANDS; dgrad_w and wgrad_x may be "fprop"."""
    rotations: tuple[Rotation | None, ...]
    """Of fprop, dgrad and wgrad."""
    accumulate: tuple[int, int, int] | None
    """Of an Accumulator: fraction bits, group, and after how many products it is promoted (0: never)."""
    one_gradient: bool
    """Whether dgrad and wgrad take the same quantized gradient."""

    @property
    def weight_alone(self) -> bool:
        """Whether the products are those of torch with another weight."""
        x, w, *others = self.six
        once = isinstance(w, Operand) and not has_mask(w) and others == [None, "fprop", None, None]
        return x is None and once and not any(self.rotations) and self.accumulate is None


def operands_of(recipe: Recipe) -> Operands:
    six = tuple(_ready(recipe, row) for row in range(len(OPERANDS)))
    rotations = tuple(h and Rotation(h.block, h.signs != "none") for h in recipe.rotations)
    how = recipe.accumulate
    accumulate = how and (how.fraction_bits, how.group, how.promote_every or 0)
    one = recipe.dgrad_g == recipe.wgrad_g and not any(rotations[1:]) and _is_shared(recipe.dgrad_g)
    return Operands(six, rotations, accumulate, one)


def _ready(recipe: Recipe, row: int) -> Operand | str | None:
    value = recipe.operands[row]
    if isinstance(value, Quantizer):
        return Operand(str(value), value.is_stochastic)
    if not isinstance(value, Value):
        return value
    rule = "delayed" if value.delayed else "least" if value.least else value.rule
    # activations are seen by the forward, which keeps their history for the backward too
    same = row == WGRAD_X and recipe.fprop_x == value
    return Operand(
        str(value.quantizer),
        value.is_stochastic,
        rule,
        value.least,
        value.again,
        FPROP_X if same else row,
    )


def _is_shared(value: Any) -> bool:
    """Whether a value looks the same to both products: nothing depends on the axis or on random bits."""
    q = value.quantizer if isinstance(value, Value) else value
    return isinstance(q, Quantizer) and q.block in (None, "tensor") and not q.is_stochastic


def from_forward(operand: Operand | str | None) -> bool:
    """Whether an operand is made of what the forward quantized."""
    return operand == "fprop" or (isinstance(operand, Operand) and operand.again)


def has_mask(operand: Operand | str | None) -> bool:
    """Whether the operand's gradient passes only where the forward did not clip."""
    return isinstance(operand, Operand) and operand.rule == "quest"
