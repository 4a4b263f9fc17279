"""A recipe: which quantizer each operand of a layer's three matrix products gets, and which layers take part.

A linear y = x W^T has three products, each with two operands, quantized in blocks along that product's
contraction axis:

    product              operands            blocks along
    fprop  y  = x W^T    fprop_x, fprop_w    K, the input features
    dgrad  dx = g W      dgrad_g, dgrad_w    N, the output features
    wgrad  dW = g^T x    wgrad_g, wgrad_x    the tokens: all leading axes flattened, as hardware does

An operand that is None stays as it is and costs nothing. `dgrad_w = "fprop"` reuses the forward's quantized
weight (blocks along K): the straight-through estimator of weight-only training. Gradients are those of the
unquantized operands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from dither.errors import UserError, suggest
from dither.nn.streams import OPERANDS
from dither.quantizer import Quantizer

SITES = ("linear", "head", "embedding", "norm", "attention")

Operand = Quantizer | str | None
"""A preset name stands for its quantizer; a Recipe holds quantizers only (and "fprop", for dgrad_w)."""


@dataclass(frozen=True)
class Recipe:
    """The six operands and the kinds of sites they apply to: a frozen value.

    `sites` is a subset of linear (every linear but the head), head, embedding, norm (the weight of LayerNorm
    and RMSNorm) and attention (the two products). Linears, heads and attention products use the six operands;
    embedding and norm weights are fake-quantized with `fprop_w`, straight-through. Raises UserError for an
    unknown quantizer, operand or site.
    """

    fprop_x: Operand = None
    fprop_w: Operand = None
    dgrad_g: Operand = None
    dgrad_w: Operand = None
    wgrad_g: Operand = None
    wgrad_x: Operand = None
    sites: tuple[str, ...] = ("linear",)
    name: str = "custom"

    PRESETS: ClassVar[dict[str, dict[str, str]]] = {
        "fp32": {},
        "bf16": dict.fromkeys(OPERANDS, "bf16"),
        "mxfp8": dict.fromkeys(OPERANDS, "mxfp8_e4m3"),
        "mxfp6": dict.fromkeys(OPERANDS, "mxfp6_e2m3"),
        "mxfp4": dict.fromkeys(OPERANDS, "mxfp4"),
        "nvfp4": dict.fromkeys(OPERANDS, "nvfp4"),
        "int8": {"fprop_w": "int8", "dgrad_w": "fprop"},
        "int4": {"fprop_w": "int4", "dgrad_w": "fprop"},
    }

    def __post_init__(self) -> None:
        for operand in OPERANDS:
            object.__setattr__(self, operand, _operand(operand, getattr(self, operand)))
        sites = (self.sites,) if isinstance(self.sites, str) else tuple(self.sites)
        for site in sites:
            if site not in SITES:
                raise UserError(f"unknown site {site!r}{suggest(site, SITES)}; sites are {', '.join(SITES)}")
        object.__setattr__(self, "sites", tuple(site for site in SITES if site in sites))
        if self.dgrad_w == "fprop" and self.fprop_w is None:
            object.__setattr__(self, "dgrad_w", None)

    @classmethod
    def get(cls, name: str | Recipe, **overrides: Any) -> Recipe:
        """The recipe of that name (a Recipe is taken as it is), with fields overridden.

        An operand's override is a Quantizer, a preset name, or None or "none" for no quantization.
        """
        if isinstance(name, cls):
            recipe = name
        elif isinstance(name, str):
            if name not in cls.PRESETS:
                raise UserError(
                    f"unknown recipe {name!r}{suggest(name, cls.PRESETS)}; "
                    f"recipes are {', '.join(cls.PRESETS)}"
                )
            recipe = cls(name=name, **cls.PRESETS[name])  # pyright: ignore[reportArgumentType]
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

    @classmethod
    def presets(cls) -> list[str]:
        return list(cls.PRESETS)

    def replace(self, **fields: Any) -> Recipe:
        """A copy with some fields changed; unless named anew, another operand adds a '*' to its name."""
        unknown = [field for field in fields if field not in (*OPERANDS, "sites", "name")]
        if unknown:
            known = (*OPERANDS, "sites", "name")
            raise UserError(
                f"a recipe has no field {unknown[0]!r}{suggest(unknown[0], known)}; "
                f"its fields are {', '.join(known)}"
            )
        changed = replace(self, **fields)
        if "name" not in fields and changed.operands != self.operands:
            changed = replace(changed, name=self.name.rstrip("*") + "*")
        return changed

    @property
    def operands(self) -> tuple[Operand, ...]:
        """The six operands in the order of dither.nn.streams.OPERANDS."""
        return tuple(getattr(self, operand) for operand in OPERANDS)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is quantized, so that a model stays exactly as it is."""
        return all(operand is None for operand in self.operands) or not self.sites

    @property
    def is_stochastic(self) -> bool:
        return any(isinstance(q, Quantizer) and q.is_stochastic for q in self.operands)

    def __str__(self) -> str:
        parts = [f"{name}={q}" for name, q in zip(OPERANDS, self.operands, strict=True) if q is not None]
        what, where = ", ".join(parts) or "nothing quantized", ", ".join(self.sites) or "none"
        return f"{self.name} ({what}; sites {where})"


def _operand(name: str, value: object) -> Operand:
    if value is None or value == "none":
        return None
    if value == "fprop":
        if name != "dgrad_w":
            raise UserError(
                f"{name} = 'fprop' has no meaning: only dgrad_w can reuse the forward's quantized weight"
            )
        return "fprop"
    if isinstance(value, (str, Quantizer)):
        q = value if isinstance(value, Quantizer) else Quantizer(value)
        return None if q == Quantizer("fp32") else q
    raise TypeError(f"{name} must be a Quantizer, a preset name or None, not {type(value).__name__}")
