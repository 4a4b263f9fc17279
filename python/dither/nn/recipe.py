"""A recipe: what each operand of a layer's three matrix products goes through, and which layers take part.

A linear y = x W^T has three products, each with two operands, quantized in blocks along that product's
contraction axis:

    product              operands            blocks along
    fprop  y  = x W^T    fprop_x, fprop_w    K, the input features
    dgrad  dx = g W      dgrad_g, dgrad_w    N, the output features
    wgrad  dW = g^T x    wgrad_g, wgrad_x    the tokens: all leading axes flattened, as hardware does

An operand that is None stays as it is and costs nothing. `dgrad_w = "fprop"` and `wgrad_x = "fprop"` reuse
the forward's quantized operand (blocks along K): the straight-through estimator of quantization-aware
training. Gradients are those of the unquantized operands.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from dither.errors import UserError, suggest
from dither.linalg import Accumulator
from dither.nn.operand import Hadamard, Operand
from dither.nn.presets import PRESETS, Preset
from dither.nn.streams import OPERANDS, PRODUCTS
from dither.quantizer import Quantizer

SITES = (
    "linear", "head", "conv", "grouped", "embedding", "norm", "attention", "product", "output", "residual",
)  # fmt: skip

Value = Quantizer | Operand | str | None
"""A preset name stands for its quantizer; a Recipe holds no other string than "fprop"."""


@dataclass(frozen=True)
class Recipe:
    """Six operands, three rotations and the kinds of sites they apply to: a frozen value.

    `sites` is a subset of linear (every linear but the head), head, conv, grouped (the linears of experts),
    embedding, norm (the affine weight), attention (its two products), product (dither.nn.MatrixProduct),
    output (what a module returns) and residual (the sums x + f(x) in it). Products use the six operands;
    embedding and norm weights are fake-quantized with `fprop_w`, straight-through; outputs and residual sums
    with `fprop_x`, their gradient with `dgrad_g`.
    Raises UserError for an unknown quantizer, operand or site.
    """

    fprop_x: Value = None
    fprop_w: Value = None
    dgrad_g: Value = None
    dgrad_w: Value = None
    wgrad_g: Value = None
    wgrad_x: Value = None
    fprop_hadamard: Hadamard | None = None
    """Rotation of both factors of the product along its contraction axis, before they are quantized."""
    dgrad_hadamard: Hadamard | None = None
    wgrad_hadamard: Hadamard | None = None
    accumulate: Accumulator | None = None
    """None multiplies in torch. An Accumulator adds as it says (`dither.matmul`): exact, and slow."""
    forward_bf16_from: float | None = None
    """From this part of the run on (0.82) fprop_x and fprop_w are bf16; the backward stays."""
    keep_blocks: tuple[float, float] = (0, 0)
    """Blocks at the start and the end of the model that stay unquantized: numbers, or parts below 1."""
    sites: tuple[str, ...] = ("linear", "conv", "grouped")
    name: str = "custom"

    def __post_init__(self) -> None:
        for operand in OPERANDS:
            object.__setattr__(self, operand, _operand(operand, getattr(self, operand)))
        sites = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites)
        for site in sites:
            if site not in SITES:
                raise UserError(f"unknown site {site!r}{suggest(site, SITES)}; sites are {', '.join(SITES)}")
        object.__setattr__(self, "sites", tuple(site for site in SITES if site in sites))
        if self.dgrad_w == "fprop" and self.fprop_w is None and self.fprop_hadamard is None:
            object.__setattr__(self, "dgrad_w", None)
        if self.wgrad_x == "fprop" and self.fprop_x is None and self.fprop_hadamard is None:
            object.__setattr__(self, "wgrad_x", None)
        self._check()

    def _check(self) -> None:
        for product in PRODUCTS:
            rotation = getattr(self, f"{product}_hadamard")
            if rotation is not None and not isinstance(rotation, Hadamard):
                raise TypeError(f"{product}_hadamard is a Hadamard or None, not {type(rotation).__name__}")
        if self.accumulate is not None and not isinstance(self.accumulate, Accumulator):
            raise TypeError(f"accumulate is an Accumulator or None, not {type(self.accumulate).__name__}")
        if self.forward_bf16_from is not None and not 0 < self.forward_bf16_from < 1:
            raise UserError(
                f"forward_bf16_from is a part of the run between 0 and 1, not {self.forward_bf16_from!r}"
            )
        if len(self.keep_blocks) != 2 or any(kept < 0 for kept in self.keep_blocks):
            raise UserError(f"keep_blocks is (at the start, at the end), not {self.keep_blocks!r}")
        for name in ("fprop_x", "fprop_w"):
            operand = getattr(self, name)
            if not isinstance(operand, Operand) or operand.rule != "quest" or self.fprop_hadamard is None:
                continue
            if not (_from_forward(self.dgrad_w) and _from_forward(self.wgrad_x)):
                raise UserError(
                    f"{name} masks gradients in the rotated basis: dgrad_w and wgrad_x must come from the "
                    'forward ("fprop" or again=True)'
                )

    @classmethod
    def get(cls, name: str | Recipe, **overrides: Any) -> Recipe:
        """The recipe of that name (a Recipe is taken as it is), with fields overridden.

        An operand's override is a Quantizer, an Operand, a preset name, or None or "none" for no
        quantization.
        """
        if isinstance(name, cls):
            recipe = name
        elif isinstance(name, str):
            recipe = cls(name=name, **_preset(name).fields)  # pyright: ignore[reportArgumentType]
        else:
            raise TypeError(
                f"a recipe is a Recipe or a preset name such as 'mxfp8', not {type(name).__name__}"
            )
        return recipe.replace(**overrides) if overrides else recipe

    @classmethod
    def weights(cls, quantizer: Quantizer | str) -> Recipe:
        """Weights only: the forward and the backward multiply by the quantized weight, straight-through."""
        q = quantizer if isinstance(quantizer, Quantizer) else Quantizer(quantizer)
        return cls(fprop_w=q, dgrad_w="fprop", name=f"weights {q}")

    @staticmethod
    def presets() -> list[str]:
        """The names that `get` knows."""
        return list(PRESETS)

    @staticmethod
    def source(name: str) -> str:
        """Where the recipe of that name comes from, and what it is in a few words."""
        return _preset(name).source

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed; unless named anew, one that computes otherwise gets a '*'."""
        known = tuple(field.name for field in fields(self))
        unknown = [field for field in changes if field not in known]
        if unknown:
            raise UserError(
                f"a recipe has no field {unknown[0]!r}{suggest(unknown[0], known)}; "
                f"its fields are {', '.join(known)}"
            )
        changed = replace(self, **changes)
        if "name" not in changes and replace(changed, sites=self.sites) != self:
            changed = replace(changed, name=self.name.rstrip("*") + "*")
        return changed

    @property
    def operands(self) -> tuple[Value, ...]:
        """The six operands in the order of dither.nn.streams.OPERANDS."""
        return tuple(getattr(self, operand) for operand in OPERANDS)

    @property
    def rotations(self) -> tuple[Hadamard | None, ...]:
        """Those of fprop, dgrad and wgrad."""
        return tuple(getattr(self, f"{product}_hadamard") for product in PRODUCTS)

    @property
    def quantizers(self) -> list[Quantizer]:
        """The quantizers among the operands."""
        found = [q.quantizer if isinstance(q, Operand) else q for q in self.operands]
        return [q for q in found if isinstance(q, Quantizer)]

    @property
    def is_plain(self) -> bool:
        """Whether nothing is computed otherwise, so that a model stays exactly as it is."""
        nothing = all(value is None for value in (*self.operands, *self.rotations, self.accumulate))
        return nothing or not self.sites

    @property
    def is_addressed(self) -> bool:
        """Whether it reads random bits: a stochastic rounding, or a rotation with signs."""
        stochastic = any(isinstance(q, Quantizer | Operand) and q.is_stochastic for q in self.operands)
        return stochastic or any(rotation and rotation.signs != "none" for rotation in self.rotations)

    @property
    def history(self) -> int:
        """Steps that delayed scaling remembers at most; 0 without it."""
        delayed = [q.delayed for q in self.operands if isinstance(q, Operand) and q.delayed]
        return max((one.history for one in delayed), default=0)

    def with_bf16_forward(self) -> Recipe:
        """What the recipe is after `forward_bf16_from`: only the forward's operands differ."""
        changes: dict[str, Any] = {"fprop_x": "bf16", "fprop_w": "bf16", "fprop_hadamard": None}
        for name, forward in (("dgrad_w", self.fprop_w), ("wgrad_x", self.fprop_x)):
            if getattr(self, name) == "fprop":
                changes[name] = forward
        return replace(self, **changes)

    def __str__(self) -> str:
        parts = [f"{name}={q}" for name, q in zip(OPERANDS, self.operands, strict=True) if q is not None]
        parts += [f"{product}: {h}" for product, h in zip(PRODUCTS, self.rotations, strict=True) if h]
        parts += [str(self.accumulate)] if self.accumulate else []
        if self.forward_bf16_from:
            parts.append(f"forward in bf16 from {self.forward_bf16_from:g} of the run")
        if any(self.keep_blocks):
            parts.append("blocks kept {:g} first, {:g} last".format(*self.keep_blocks))
        what, where = ", ".join(parts) or "nothing quantized", ", ".join(self.sites) or "none"
        return f"{self.name} ({what}; sites {where})"


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise UserError(f"unknown recipe {name!r}{suggest(name, PRESETS)}; recipes are {', '.join(PRESETS)}")
    return PRESETS[name]


def _from_forward(value: Value) -> bool:
    return value == "fprop" or (isinstance(value, Operand) and value.again)


def _operand(name: str, value: object) -> Value:
    if value is None or value == "none":
        return None
    if value == "fprop" or (isinstance(value, Operand) and value.again):
        if name not in ("dgrad_w", "wgrad_x"):
            raise UserError(
                f"{name} = 'fprop' or again=True has no meaning: only dgrad_w and wgrad_x can use what the "
                "forward quantized"
            )
    if isinstance(value, Operand):
        if value.rule == "quest" and name not in ("fprop_x", "fprop_w"):
            raise UserError(f"{name}: rule 'quest' belongs to the forward")
        return value.quantizer if value.is_plain else value
    if value == "fprop":
        return "fprop"
    if isinstance(value, (str, Quantizer)):
        q = value if isinstance(value, Quantizer) else Quantizer(value)
        return None if q == Quantizer("fp32") else q
    raise TypeError(
        f"{name} must be a Quantizer, an Operand, a preset name or None, not {type(value).__name__}"
    )
