"""Quantizer = format + scaling + rounding + overflow: a frozen value, hashable, printable, parsed from its
print.

    Quantizer("mxfp4")                                               a preset
    Quantizer("mxfp4", rounding="stochastic", scale_rule="ceil")     a preset with overrides
    Quantizer(format="e3m2", block=64, scale_format="e8m0")          from parts
    Quantizer("mxfp4:rounding=stochastic,scale_rule=ceil")           the printed form of the second
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any

from dither import formats
from dither.errors import UserError, suggest
from dither.formats import Format
from dither.presets import PRESETS, presets_of
from dither.scaling import SCALE_FORMATS, Block, block_of, resolve_scaling, whole
from dither.scaling import one_of as _one_of

STOCHASTIC = ("stochastic_a", "stochastic", "stochastic_c")  # P3109's StochasticA, B and C
ROUNDINGS = ("nearest_even", "nearest_away", "toward_zero", "up", "down", "to_odd", *STOCHASTIC)
OVERFLOWS = ("saturate", "ieee", "propagate")


@dataclass(frozen=True, init=False, slots=True)
class Quantizer:
    """How an array is quantized.

    Args:
        preset: a preset name, or the printed form of any quantizer. Omit it to build from parts.
        format: element format (see `dither.formats`).
        block: elements that share a scale: a number along the axis (a ragged last block is allowed), `"row"`
            (the whole axis), `"column"` (everything else: one scale for each index along the axis), a tile
            `(rows, columns)` over the last two axes, `"tensor"`, or None for a plain cast.
        scale_format: `"e8m0"`, `"e4m3"`, `"ue5m3"` or `"fp32"`.
        scale_rule: for e8m0 `floor` (OCP), `ceil`, `rceil`, `even`; for the others `absmax` (nearest) or
            `rceil` (the smallest scale that does not clip); for all `mse` (the best of some candidates) and
            `static` (the number in `scale`).
        tensor_scale: a second-level fp32 scale over the whole tensor (NVFP4).
        rounding: of the elements; `stochastic` is StochasticB of IEEE P3109 with `bits` random bits.
        bits: random bits an element, 1..32 (default 16 for bf16, fp16 and tf32, else 8).
        overflow: `saturate` (default to 8 bits and under a scale), `ieee` (default for wider casts),
            `propagate`.
        scale: the scale of the rule `static`; under `tensor_scale` the tensor's.
        dialect: whose arithmetic order: `ocp` (default), `te` (default under `tensor_scale`), `torchao`,
            `p3109`, `microxcaling`, `cudnn`; it also gives the defaults of other fields (docs/dialects.md).
        nan: what NaN or infinity in a block does: `block` (all of it becomes NaN), `element`, `saturate`.
        zero_scale: what is stored for a block of zeros: `rule` (0; 2^-127 in e8m0), `smallest`, `one`.
        zero_point: asymmetric integers: unsigned codes that stand for `(code - zero point) * scale`.
        four_over_six: each block takes the better of two scales, by `mse` or `mae` (arXiv 2512.02010).
        prescale: 3/4 quantizes `3/4 x` and divides by 3/4 again (arXiv 2502.20586).
        guard: 17/16 raises 8-bit scales so that rounding them never clips (arXiv 2601.22813).

    Raises UserError for unknown names and combinations that mean nothing.
    """

    format: Format
    block: Block
    scale_format: str | None
    scale_rule: str | None
    tensor_scale: bool
    rounding: str
    bits: int
    overflow: str
    scale: float | None
    dialect: str
    nan: str
    zero_scale: str
    zero_point: bool
    four_over_six: str | None
    prescale: float
    guard: float

    def __init__(self, preset: str | Quantizer | None = None, **parts: Any) -> None:
        for name in parts:
            _check_field(name)
        if isinstance(preset, Quantizer) and "dialect" in parts:
            preset = str(preset)  # what is not printed is a default, and a dialect has its own
        for name, value in _resolve(_parts_of(preset) | parts).items():
            object.__setattr__(self, name, value)

    @staticmethod
    def presets() -> list[str]:
        """Names of the presets."""
        return list(PRESETS)

    @property
    def preset(self) -> str | None:
        """The preset that this quantizer is, or None."""
        name = str(self)
        return name if name in PRESETS else None

    @property
    def is_stochastic(self) -> bool:
        """Whether rounding reads random bits, `bits` of them an element.

        Dynamo cannot trace properties of frozen records: traced code compares `rounding` with STOCHASTIC.
        """
        return self.rounding in STOCHASTIC

    @property
    def clips(self) -> bool:
        """Whether the scale can leave |x| above the largest value: a plain cast, `floor`, `even`, and scales
        that are rounded to nearest in 8 bits. (An fp32 absmax scale is within rounding of exact.)

        Formats that reach less far below zero than above (unsigned ones, some codebooks) always clip.

        The end of the scale's own format does not count: a block too large for an e4m3 scale of 448 saturates
        under every rule.
        """
        if self.format.min > -self.format.max:
            return True
        if self.scale_rule in ("ceil", "rceil") or self.prescale != 1 or self.guard != 1:
            return False
        if self.dialect == "p3109":  # elements lie in [-1, 1], or below 2 where the scale was rounded down
            return self.format.max < 2
        if self.zero_point:
            return True
        return not (self.scale_rule == "absmax" and self.scale_format == "fp32")

    def replace(self, **parts: Any) -> Quantizer:
        """The same quantizer with some fields changed."""
        return Quantizer(self, **parts)

    def exact_in(self, dtype: str) -> bool:
        """Whether dequantized values are exact in `dtype` (such as "bf16"), within its normal range."""
        if self.block is None:
            return self.format.exact_in(dtype)
        if self.tensor_scale or self.scale_format == "fp32" or self.prescale != 1:
            return dtype == "fp64"
        significand = max(self.format.top_mbits, 0) + 1
        if self.scale_format != "e8m0":
            significand += formats.get(str(self.scale_format)).mbits + 1
        return significand <= formats.get(dtype).mbits + 1

    def __hash__(self) -> int:  # that of all fields would cost more than a kernel on a small array
        return hash((self.format, self.block, self.scale_format, self.scale_rule, self.rounding, self.bits))

    def __str__(self) -> str:
        return _print(self)

    def __repr__(self) -> str:
        return f"Quantizer({str(self)!r})"


_FIELDS = tuple(f.name for f in fields(Quantizer))


@lru_cache(maxsize=1024)
def parse(text: str) -> Quantizer:
    """The quantizer that a preset name or a print stands for: always the same object, since it is a value."""
    return Quantizer(text)


def _parts_of(preset: str | Quantizer | None) -> dict[str, Any]:
    """The fields that a preset name, a printed form or a quantizer fixes."""
    if preset is None:
        return {}
    if isinstance(preset, Quantizer):
        return {name: getattr(preset, name) for name in _FIELDS}
    if not isinstance(preset, str):
        wanted = "a preset name such as 'mxfp8_e4m3' or a dither.Quantizer"
        if isinstance(preset, Format):
            raise TypeError(f"{preset} is a format, not {wanted}: use dither.cast, or 'format={preset}'")
        raise TypeError(f"a quantizer is {wanted}, not {type(preset).__name__}")
    name, _, overrides = preset.partition(":") if "=" not in preset.partition(":")[0] else ("", "", preset)
    if name and name not in PRESETS and formats.is_name(name):
        near = ", ".join(presets_of(name)) or f"none, write 'format={name},block=32,scale_format=fp32'"
        raise UserError(
            f"{name!r} is a format, not a quantizer: dither.cast(x, {name!r}) rounds to it without a scale, "
            f"as the quantizer 'format={name}' does; presets with a scale: {near}"
        )
    if name and name not in PRESETS:
        raise UserError(f"unknown preset {name!r}{suggest(name, PRESETS)}. Presets: {', '.join(PRESETS)}")
    parts = dict(PRESETS[name]) if name else {}
    changed: dict[str, Any] = {}
    for item in filter(None, overrides.split(",")):
        key, _, value = item.partition("=")
        if not value:
            raise UserError(f"{item!r} in the quantizer {preset!r} is not field=value, such as rounding=up")
        _check_field(key)
        if key in changed:
            raise UserError(f"the quantizer {preset!r} gives {key}= twice")
        changed[key] = _parse_value(key, value)
    return parts | changed


def _check_field(name: str) -> None:
    if name not in _FIELDS:
        raise UserError(
            f"a quantizer has no field {name!r}{suggest(name, _FIELDS)}. Fields: {', '.join(_FIELDS)}"
        )


def format_of(given: Any) -> Format:
    """The format of that name, or the error that says where a quantizer belongs."""
    if isinstance(given, Quantizer):
        raise TypeError(
            f"{given} is a quantizer, where the format of one element is wanted: use dither.fake_quant or "
            f"dither.quantize, or its format {given.format.name!r}"
        )
    name = given.partition(":")[0] if isinstance(given, str) else ""
    if name in PRESETS and not formats.is_name(name):
        raise UserError(
            f"{given!r} is a quantizer, which has scales, not the format of one element: use "
            f"dither.fake_quant(x, {given!r}) or dither.quantize, or its format {PRESETS[name]['format']!r}"
        )
    return formats.get(given)


def _parse_value(key: str, value: str) -> Any:
    if value == "none":
        return None
    if key in ("tensor_scale", "zero_point") and value in ("true", "false"):
        return value == "true"
    try:
        if key in ("scale", "prescale", "guard"):
            return float(Fraction(value))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"{key}={value} is not a number") from None
    return int(value) if key in ("block", "bits") and value.isdecimal() else value


def _resolve(given: dict[str, Any]) -> dict[str, Any]:
    """All fields, defaults filled in and checked."""
    if given.get("format") is None:
        raise UserError(
            "a quantizer needs a preset name or at least format=, for example Quantizer('mxfp8_e4m3')"
        )
    fmt = format_of(given["format"])
    block = block_of(given.get("block"))
    parts = {"format": fmt, "block": block, **resolve_scaling(fmt, block, given)}
    microxcaling = parts["dialect"] == "microxcaling"
    rounding = given.get("rounding") or ("nearest_away" if microxcaling else "nearest_even")
    rounding = "stochastic" if rounding == "stochastic_b" else rounding
    _one_of("rounding", rounding, ROUNDINGS)
    if microxcaling and rounding not in ("nearest_away", "nearest_even", "toward_zero"):
        raise UserError(
            f"the microxcaling kernel rounds nearest_away, nearest_even or toward_zero, not {rounding}"
        )
    bits = whole(given.get("bits"))
    bits = (16 if fmt.name in ("bf16", "fp16", "tf32") else 8) if bits is None else bits
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 32:
        raise UserError(f"bits= is the number of random bits an element, 1 to 32, not {bits!r}")
    overflow = given.get("overflow") or (
        "ieee" if block is None and fmt.bits > 8 and fmt.has_inf else "saturate"
    )
    _one_of("overflow", overflow, OVERFLOWS)
    if overflow != "saturate" and block is not None:
        raise UserError(f"overflow={overflow!r} has no meaning under a block scale: elements saturate there")
    if overflow != "saturate" and not (fmt.has_inf or fmt.has_nan):
        raise UserError(
            f"{fmt.name} has neither infinity nor NaN, so it can only saturate: drop overflow={overflow!r}"
        )
    return parts | {"rounding": rounding, "bits": bits, "overflow": overflow}


@lru_cache(maxsize=1024)
def _print(q: Quantizer) -> str:
    """The nearest preset and what differs from it, else all that is not default."""
    for name, parts in PRESETS.items():
        plain = Quantizer(**parts)
        if all(getattr(plain, k) == getattr(q, k) for k in _SHAPE):
            return ":".join(filter(None, (name, _items(q, _changed(plain, q)))))
    # Scale formats that belong to one dialect cannot be had without it.
    needed = {"dialect": q.dialect} if q.scale_format not in (None, *SCALE_FORMATS) else {}
    plain = Quantizer(**{k: getattr(q, k) for k in _SHAPE}, **needed)
    named = [k for k in _SHAPE[:3] if getattr(q, k) is not None] + ["tensor_scale"] * q.tensor_scale
    return _items(q, [*named, *_changed(plain, q), *needed])


_SHAPE = ("format", "block", "scale_format", "tensor_scale")


def _changed(plain: Quantizer, q: Quantizer) -> list[str]:
    """Fields of `q` that are neither those of `plain` nor what q's dialect makes of them."""
    base = plain if plain.dialect == q.dialect else plain.replace(dialect=q.dialect)
    differ = [k for k in _FIELDS if getattr(base, k) != getattr(q, k)]
    if base is not plain:
        differ.append("dialect")
    return sorted(differ, key=_FIELDS.index)


def _items(q: Quantizer, keys: list[str]) -> str:
    def text(key: str) -> str:
        value = getattr(q, key)
        if key in ("prescale", "guard"):
            return str(Fraction(value))
        if isinstance(value, tuple):
            return "x".join(map(str, value))
        return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return ",".join(f"{key}={text(key)}" for key in keys)
