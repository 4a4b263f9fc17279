"""What can happen to an operand before it is multiplied, beyond what a quantizer says: frozen values.

Quantizer("mxfp4")                                            a scale from the values at hand
Operand("fp8_e4m3", delayed=Delayed(history=1024))            a scale from the maxima of earlier steps
Operand("fp8_1x128", least=1e-4)                              a bound below for the absmax
Operand("mxfp4", rule="quest")                                a scale from the standard deviation
Operand("nvfp4", rule="ms_eden")                              unbiased by its scales
Operand("mxfp4:rounding=stochastic", again=True)              of the forward's quantized operand
Hadamard(16, signs="fixed")                                   a rotation of both factors of a product
"""

from __future__ import annotations

from dataclasses import dataclass

from dither.errors import UserError, suggest
from dither.quantizer import Quantizer

SIGNS = ("none", "fixed", "fresh")
PICKS = ("max", "most_recent")
RULES = ("own", "quest", "ms_eden")


@dataclass(frozen=True)
class Hadamard:
    """A block-wise Hadamard rotation of both factors of a product along the axis that it contracts.

    Args:
        block: a power of two. An axis that is no multiple of it is padded with zeros, which the product does
            not see.
        signs: `none` (the plain transform), `fixed` (one sign vector for the whole run and all layers, as in
            arXiv 2509.25149) or `fresh` (addressed by site, product, step and microbatch).
    """

    block: int = 32
    signs: str = "fresh"

    def __post_init__(self) -> None:
        if isinstance(self.block, bool) or not isinstance(self.block, int):
            raise TypeError(f"block= of a Hadamard is an integer, not {self.block!r}")
        if self.block < 2 or self.block & (self.block - 1):
            raise UserError(f"a Hadamard block is a power of two, at least 2, not {self.block}")
        _one_of("signs", self.signs, SIGNS)

    def __str__(self) -> str:
        return (
            f"hadamard {self.block} {self.signs} signs" if self.signs != "none" else f"hadamard {self.block}"
        )


@dataclass(frozen=True)
class Delayed:
    """Delayed scaling: the scale of a step comes from the absolute maxima of the steps before it.

        scale = max of the format / pick(history) / 2^margin

    Args:
        history: steps that are remembered (Transformer Engine's default is 1024).
        margin: powers of two that are left free above the maximum.
        pick: `max` of the history, or its `most_recent` entry.
        reduce: take the maximum over all ranks of torch.distributed where it is initialised.

    Until something was recorded the scale is 1. A history whose maximum is 0 or not finite leaves the scale
    as it is.
    """

    history: int = 1024
    margin: int = 0
    pick: str = "max"
    reduce: bool = True

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("history", self.history, 1, 1 << 16),
            ("margin", self.margin, 0, 32),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise UserError(
                    f"{name}= of delayed scaling is an integer from {least} to {most}, not {value!r}"
                )
        _one_of("pick", self.pick, PICKS)

    def __str__(self) -> str:
        return f"delayed {self.pick} of {self.history} margin {self.margin}"


@dataclass(frozen=True)
class Operand:
    """A quantizer with more around it.

    Args:
        quantizer: or the name of one.
        delayed: delayed scaling, for quantizers with one fp32 scale a tensor.
        least: the absmax of a block counts as at least this (arXiv 2412.19437 uses 1e-4 in its released
            kernels), for fp32 absmax scales.
        rule: `own` (the quantizer's), `quest` (mxfp4 whose scale minimises the error of normal values,
            with a trust mask for the gradient; arXiv 2505.14669) or `ms_eden` (nvfp4; arXiv 2601.22813).
        again: dgrad_w and wgrad_x alone: quantize the forward's quantized operand again, as recipes do that
            keep nothing else.

    Raises UserError for a combination that means nothing.
    """

    quantizer: Quantizer
    delayed: Delayed | None = None
    least: float = 0.0
    rule: str = "own"
    again: bool = False

    def __init__(
        self,
        quantizer: Quantizer | str,
        *,
        delayed: Delayed | None = None,
        least: float = 0.0,
        rule: str = "own",
        again: bool = False,
    ) -> None:
        q = quantizer if isinstance(quantizer, Quantizer) else Quantizer(quantizer)
        for name, value in (("quantizer", q), ("delayed", delayed), ("least", float(least)), ("rule", rule)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "again", bool(again))
        _one_of("rule", rule, RULES)
        absmax = q.scale_format == "fp32" and q.scale_rule == "absmax" and not q.zero_point
        if delayed is not None and not (absmax and q.block == "tensor"):
            raise UserError(f"delayed scaling needs one fp32 absmax scale a tensor, as fp8_e4m3 has, not {q}")
        if least and not (absmax and least > 0 and not q.is_stochastic):
            raise UserError(f"least= is a positive number for fp32 absmax scales rounded to nearest, not {q}")
        wanted = {"quest": "mxfp4", "ms_eden": "nvfp4"}.get(rule)
        if wanted and q != Quantizer(wanted):
            raise UserError(f"rule {rule!r} is about {wanted}, not {q}")
        if sum((delayed is not None, bool(least), rule != "own")) > 1:
            raise UserError("delayed=, least= and rule= each choose the scale: give one of them")

    @property
    def is_plain(self) -> bool:
        """Whether the quantizer says it all."""
        return self == Operand(self.quantizer)

    @property
    def is_stochastic(self) -> bool:
        return self.quantizer.is_stochastic or self.rule == "ms_eden"

    def __str__(self) -> str:
        words = [
            str(self.quantizer),
            str(self.delayed) if self.delayed else "",
            f"absmax >= {self.least:g}" if self.least else "",
            self.rule if self.rule != "own" else "",
            "of the forward's" if self.again else "",
        ]
        return " ".join(filter(None, words))


def _one_of(what: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"unknown {what} {value!r}{suggest(str(value), known)}; known: {', '.join(known)}")
