"""Which scalings mean something: the fields of a quantizer that say how scales are found and used, with the
defaults of each dialect and an error for every combination that means nothing.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np

from dither import formats
from dither.errors import UserError, suggest
from dither.formats import Format

Block = int | tuple[int, int] | Literal["row", "column", "tensor"] | None
POWER_RULES = ("floor", "ceil", "rceil", "even", "mse", "static")
VALUE_RULES = ("absmax", "rceil", "mse", "static")
P3109_RULES = ("absmax", "floor", "ceil")
SCALE_FORMATS = ("e8m0", "e4m3", "ue5m3", "ue5m3_61440", "fp32")
DEFAULT_RULE = {"e8m0": "floor"}
DIALECTS = ("ocp", "torchao", "te", "p3109", "microxcaling", "cudnn")
NAN_POLICIES = ("block", "element", "saturate")
ZERO_SCALES = ("rule", "smallest", "one")
_MX_FLOATS = ("e4m3", "e5m2", "e3m2", "e2m3", "e2m1")

_PLAIN: dict[str, Any] = {
    "scale_format": None,
    "scale_rule": None,
    "tensor_scale": False,
    "scale": None,
    "dialect": "ocp",
    "nan": "block",
    "zero_scale": "rule",
    "zero_point": False,
    "four_over_six": None,
    "prescale": 1.0,
    "guard": 1.0,
}
"""The fields of a plain cast."""


def one_of(what: str, value: Any, known: tuple[str, ...]) -> None:
    """Raise UserError for a value that is none of the known ones."""
    if value not in known:
        raise UserError(f"unknown {what} {value!r}{suggest(str(value), known)}. Known: {', '.join(known)}")


def resolve_scaling(fmt: Format, block: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The scaling fields of a quantizer, defaults filled in. Raises UserError for what means nothing."""
    given = {k: given[k] for k in _PLAIN if given.get(k) is not None}
    if given.get("four_over_six") is False:
        del given["four_over_six"]
    _check_types(given)
    if block is None:
        return _cast(given)
    if fmt.exceeds_fp64:
        raise UserError(f"{fmt.name} goes beyond float64 and can be cast to, but has no use for a scale")
    tensor_scale = given.get("tensor_scale", False)
    dialect = given.get("dialect") or ("te" if tensor_scale else "ocp")
    one_of("dialect", dialect, DIALECTS)
    usual = {"microxcaling": "e8m0", "p3109": "binary8p1uf"}.get(dialect, "fp32")
    scale_format = given.get("scale_format") or usual
    if not (dialect == "p3109" and re.fullmatch(r"binary8p[1-8]u[ef]", scale_format)):
        one_of("scale_format", scale_format, SCALE_FORMATS)
    fields = _PLAIN | _dialect_defaults(dialect, scale_format, tensor_scale) | given
    fields |= {"dialect": dialect, "scale_format": scale_format}
    if fields["four_over_six"] is True:
        fields["four_over_six"] = "mse"
    _check_rule(fields)
    _check_dialect(fmt, fields)
    _check_extras(fmt, fields)
    return fields | {"scale": _static_scale(fields)}


def _check_types(given: dict[str, Any]) -> None:
    for name in ("tensor_scale", "zero_point"):
        if not isinstance(given.get(name, False), bool):
            raise UserError(f"{name}= is True or False, not {given[name]!r}")
    for name, value in (("prescale", 0.75), ("guard", 17 / 16)):
        if given.get(name, 1) not in (1, value):
            words = {"prescale": "3/4", "guard": "17/16"}[name]
            raise UserError(f"{name}= is 1 or {words}, not {given[name]!r}")
        if name in given:
            given[name] = float(given[name])
    if given.get("four_over_six", "mse") not in (True, "mse", "mae"):
        raise UserError(
            f"four_over_six= is 'mse', 'mae', True ('mse') or False, not {given['four_over_six']!r}"
        )
    one_of("nan policy", given.get("nan", "block"), NAN_POLICIES)
    one_of("zero_scale", given.get("zero_scale", "rule"), ZERO_SCALES)


def _cast(given: dict[str, Any]) -> dict[str, Any]:
    changed = [k for k, v in given.items() if v != _PLAIN[k]]
    if any(k in changed for k in ("scale_format", "scale_rule", "tensor_scale")):
        raise UserError("a scale needs a block: give block=32, block='row' or block='tensor'")
    if changed:
        raise UserError(f"{changed[0]}= belongs to a block scale, and a plain cast has none: give block=")
    return dict(_PLAIN)


def _dialect_defaults(dialect: str, scale_format: str, tensor_scale: bool) -> dict[str, Any]:
    """What the dialect says about fields that are not given."""
    rule = DEFAULT_RULE.get(scale_format, "absmax")
    if dialect == "te" and not tensor_scale:
        return {"scale_rule": "rceil", "nan": "element"}
    if dialect == "p3109":
        return {"scale_rule": "absmax", "nan": "element"}
    return {"scale_rule": "rceil" if dialect == "cudnn" else rule}


def _check_rule(fields: dict[str, Any]) -> None:
    rule, scale_format = fields["scale_rule"], fields["scale_format"]
    known = POWER_RULES if scale_format == "e8m0" else VALUE_RULES
    if fields["dialect"] == "p3109":
        known = ("absmax",) if scale_format == "fp32" else P3109_RULES
    if rule not in known and rule in POWER_RULES + VALUE_RULES:
        where = "in the p3109 dialect" if fields["dialect"] == "p3109" else f"to {scale_format} scales"
        raise UserError(f"scale_rule={rule!r} does not apply {where}; use one of {', '.join(known)}")
    one_of("scale_rule", rule, known)
    if fields["tensor_scale"] and scale_format in ("e8m0", "fp32"):
        raise UserError(
            f"tensor_scale=True needs an 8-bit float scale_format (e4m3 or ue5m3), not {scale_format}"
        )


def _check_dialect(fmt: Format, fields: dict[str, Any]) -> None:
    """What the library or standard of the dialect has no rule for."""
    dialect, rule, power = fields["dialect"], fields["scale_rule"], fields["scale_format"] == "e8m0"
    second = fields["tensor_scale"]
    mx = power and fmt.name in _MX_FLOATS
    nvfp4 = fmt.name == "e2m1" and fields["scale_format"] == "e4m3"
    why = None
    if dialect == "ocp" and second:
        why = "has no second-level scale: use dialect='te', 'torchao' or 'cudnn'"
    elif dialect == "cudnn" and not second:
        why = "is about two-level scales: give tensor_scale=True, or use dialect='te'"
    elif dialect == "te" and not second and not (mx and rule == "rceil"):
        why = f"has MX floats with scale_format='e8m0', scale_rule='rceil', and two-level scales, not {rule}"
    elif dialect == "torchao" and not (mx or nvfp4 or fields["zero_point"]):
        why = "has MX floats (e8m0 scales), NVFP4 (e2m1 elements, e4m3 scales) and zero points, nothing else"
    elif dialect == "torchao" and rule in (("mse", "static") if mx else ("mse", "rceil")):
        why = f"has no scale_rule={rule!r}"
    elif dialect == "microxcaling" and not (power and rule == "floor"):
        why = "has scale_format='e8m0' and scale_rule='floor' alone"
    elif dialect == "microxcaling" and not (mx or fmt.name == "mxint8"):
        why = f"has no {fmt.name}; its formats are {', '.join(_MX_FLOATS)} and mxint8"
    elif dialect == "p3109" and second:
        why = "has no second-level scale"
    if why:
        raise UserError(f"dialect {dialect!r} {why}")
    if dialect in ("torchao", "microxcaling") and not fields["zero_point"]:
        for name in ("nan", "zero_scale"):
            if fields[name] != _PLAIN[name]:
                raise UserError(f"dialect {dialect!r} has its own answer: drop {name}={fields[name]!r}")
    if dialect == "p3109" and fields["zero_scale"] != "rule":
        raise UserError("dialect 'p3109' has its own answer: drop zero_scale=")


def _check_extras(fmt: Format, fields: dict[str, Any]) -> None:
    rule, dialect, scale_format = fields["scale_rule"], fields["dialect"], fields["scale_format"]
    small = scale_format not in ("e8m0", "fp32")
    ordinary = dialect in ("ocp", "te") and rule == "absmax" and small
    unsigned = fmt.name.startswith("uint")
    if fields["zero_point"] and not (
        unsigned and scale_format == "fp32" and rule == "absmax" and dialect in ("ocp", "torchao")
    ):
        raise UserError(
            "zero_point=True needs an unsigned integer format (such as uint4), scale_format='fp32' and "
            "scale_rule='absmax', in the dialect 'ocp' or 'torchao'"
        )
    if fields["zero_point"] and fields["zero_scale"] != "rule":
        raise UserError("zero_scale= does not apply to scales with a zero point")
    if fields["four_over_six"] and not (ordinary and fmt.name == "e2m1"):
        raise UserError(
            "four_over_six needs e2m1 elements under an 8-bit float scale with scale_rule='absmax', in the "
            "dialect 'ocp' or 'te'"
        )
    if fields["guard"] != 1 and not ordinary:
        raise UserError(
            "guard=17/16 is about 8-bit float scales with scale_rule='absmax', in the dialect 'ocp' or 'te'; "
            "power-of-two scales that never clip are scale_rule='ceil' and 'rceil'"
        )
    if fields["prescale"] != 1:
        if not (scale_format == "e8m0" and rule == "floor" and dialect == "ocp"):
            raise UserError("prescale=3/4 goes with scale_format='e8m0' and scale_rule='floor'")
        if fmt.max < 1.5 * 2.0**fmt.emax:
            raise UserError(f"prescale=3/4 is not enough to keep {fmt.name} from clipping: use 'ceil'")
    if rule == "mse" and dialect == "cudnn":
        raise UserError("dialect 'cudnn' has no scale_rule='mse'")


def _static_scale(fields: dict[str, Any]) -> float | None:
    """The given scale, as it is stored."""
    scale, scale_format = fields["scale"], fields["scale_format"]
    if fields["scale_rule"] != "static":
        if scale is not None:
            raise UserError("scale= goes with scale_rule='static'")
        return None
    if isinstance(scale, bool) or not isinstance(scale, int | float | np.floating):
        raise UserError(f"scale_rule='static' needs scale=, a positive number, not {scale!r}")
    with np.errstate(over="ignore", under="ignore"):
        stored = float(np.float32(scale))
    if not (stored > 0 and math.isfinite(stored)):
        raise UserError(f"scale= is a positive number that fp32 can hold, not {scale!r}")
    if fields["tensor_scale"] or scale_format == "fp32":
        return stored
    if scale_format == "e8m0":
        if math.frexp(scale)[0] != 0.5 or not 2.0**-127 <= scale <= 2.0**127:
            raise UserError(f"an e8m0 scale is a power of two from 2^-127 to 2^127, not {scale!r}")
        return float(scale)
    limits = formats.get(scale_format)
    quantum = 2.0 ** (max(math.frexp(scale)[1] - 1, limits.emin) - limits.mbits)
    if scale > limits.max or scale % quantum:
        raise UserError(f"{scale!r} is not a number of {scale_format}, in which the scales are stored")
    return float(scale)


def block_of(block: Any) -> Block:
    """`block` after its checks; a tile may be given as text (`16x16`)."""
    if isinstance(block, str) and (tile := re.fullmatch(r"(\d+)x(\d+)", block)):
        block = (int(tile[1]), int(tile[2]))
    if isinstance(block, list):
        block = tuple(block)
    block = tuple(map(whole, block)) if isinstance(block, tuple) else whole(block)
    names = ("row", "column", "tensor")
    if isinstance(block, str) and block in names:
        return block  # type: ignore[return-value]
    sizes = block if isinstance(block, tuple) and len(block) == 2 else (block,)
    if block is not None and not all(
        isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**63 for n in sizes
    ):
        raise UserError(
            "block= is a positive number of elements, a tile (rows, columns), 'row', 'column', 'tensor' or "
            f"None, not {block!r}{suggest(block, names) if isinstance(block, str) else ''}"
        )
    return block  # type: ignore[return-value]


def whole(value: Any) -> Any:
    """An integer of any library (numpy's too) as a plain int; everything else unchanged."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    try:
        return value.__index__()
    except TypeError:  # an array, or numpy's bool
        return value
