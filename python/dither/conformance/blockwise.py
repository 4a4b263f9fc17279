"""Vectors for blocks that share a scale, and the known ways in which block quantizers differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dither.conformance import inputs
from dither.conformance.case import Case, Explanation, same_value
from dither.functions import cast, fake_quant
from dither.quantizer import Quantizer

MX = ("mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "mxint8")
OTHERS = ("nvfp4", "fp4_g32", "int8_g32", "int4_g32")
PRESETS = (*MX, *OTHERS)
RULES = ("floor", "ceil", "rceil", "even")

MX_LAW = "OCP MX v1.0 section 6.3: scale 2^(floor(log2 max|v|) - emax), roundTiesToEven, clamped"
MX_OPEN = "OCP MX v1.0 section 6.3 leaves it to the implementation"


def clause(q: Quantizer) -> str:
    """What the values of a preset follow."""
    if q.scale_format == "e8m0":
        changed = (q.scale_rule, q.dialect, q.nan) != ("floor", "ocp", "block")
        return f"{MX_LAW}; here {q}" if changed else MX_LAW
    if q.tensor_scale:
        return "NVFP4 as in Transformer Engine's reference (no standard)"
    return "no standard: fp32 scale absmax / largest value, round(x / scale) * scale"


def _power_scaled(x: np.ndarray, q: Quantizer, shift: int, smallest: int = -127) -> np.ndarray:
    """MX by the floor rule with the scale `shift` powers of two off, in fp64, where every step is exact.

    Element scales below 2**smallest are raised to it, while the stored one ends at 2**-127.
    """
    amax = np.abs(x.astype(np.float64)).max(axis=-1, keepdims=True)
    exponent = np.frexp(np.where((amax > 0) & np.isfinite(amax), amax, 1.0))[1] - 1 - q.format.emax + shift
    stored, used = exponent.clip(-127, 127), exponent.clip(smallest, 127)
    y = cast(np.ldexp(x.astype(np.float64), -used), q.format, overflow="saturate")
    with np.errstate(over="ignore"):
        return np.ldexp(y, stored).astype(np.float32)


def _whole(other: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Blocks that equal `other` throughout, but for the sign of zeros."""
    return lambda got: np.broadcast_to(same_value(got, other).all(axis=-1, keepdims=True), got.shape)


def _just_below_a_power(x: np.ndarray) -> np.ndarray:
    """Blocks whose absmax is so near below a power of two that log2 in fp32 returns the power itself."""
    amax = np.abs(x).max(axis=-1, keepdims=True)
    return np.broadcast_to((amax.view(np.uint32) & np.uint32(0x7FFFFF)) >= np.uint32(0x7FFFC0), x.shape)


def _everywhere(
    x: np.ndarray, test: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Blocks for which `test` holds at every element."""
    return lambda got: np.broadcast_to(test(got).all(axis=-1, keepdims=True), x.shape)


def _open_blocks(q: Quantizer, x: np.ndarray, special: str) -> list[Explanation]:
    """NaN or infinity in a block: what libraries return, all of it allowed."""
    with np.errstate(invalid="ignore"):
        calm = fake_quant(np.where(np.isfinite(x), x, np.float32(0)), q)
        bounded = fake_quant(np.clip(np.nan_to_num(x, nan=0.0), -q.format.max, q.format.max), q)
    odd = ~np.isfinite(x)
    own = f"{special}: only its own element is special"
    options: list[tuple[str, Callable]] = [
        (own, lambda got: np.where(odd, ~np.isfinite(got), same_value(got, calm))),
        (
            f"{special}: it stays and the others become 0",
            lambda got: np.where(odd, ~np.isfinite(got), got == 0),
        ),
        (f"{special}: the block becomes 0", lambda got: got == 0),
        (
            f"{special}: replaced by a finite number",
            lambda got: same_value(got, bounded) | odd & np.isfinite(got),
        ),
    ]
    seen: list[tuple[str, Callable]] = [
        (f"{special}: finite numbers", np.isfinite),
        (f"{special}: another mixture", lambda got: np.ones(x.shape, bool)),
    ]
    return [
        *(Explanation(name, "choice", MX_OPEN, _everywhere(x, test)) for name, test in options),
        *(
            Explanation(name, "choice", MX_OPEN, _everywhere(x, test), i + 1)
            for i, (name, test) in enumerate(seen)
        ),
    ]


def explanations(q: Quantizer, family: str, x: np.ndarray, expected: np.ndarray) -> tuple[Explanation, ...]:
    """Known ways to differ, in the order in which they are tried."""
    law = clause(q)
    broken = "violation" if q.scale_format == "e8m0" else "choice"
    if family in ("one_nan", "one_inf"):
        return tuple(
            _open_blocks(q, x, "a NaN in the block" if family == "one_nan" else "an infinity in the block")
        )
    sign = Explanation(
        "the sign of zero is lost", broken, f"{law}; IEEE 754-2019 section 6.3",
        lambda got: (expected == 0) & (got == 0),
    )  # fmt: skip
    found = [sign]

    def add(name: str, other: np.ndarray) -> None:
        found.append(Explanation(name, broken, law, _whole(other)))

    if q.scale_format == "e8m0":
        add("ties go away from zero", fake_quant(x, q.replace(rounding="nearest_away")))
        if q.scale_rule == "floor":
            raised, larger = "the scale is one power of two too large", _power_scaled(x, q, 1)
            below = _just_below_a_power(x)
            rounded = Explanation(f"{raised} (floor of a rounded log2)", broken, law,
                                  lambda got: below & _whole(larger)(got))  # fmt: skip
            found.append(rounded)
            add(raised, larger)
            add("the scale is one power of two too small", _power_scaled(x, q, -1))
            add("scale used at 2^-126 but stored as 2^-127", _power_scaled(x, q, 0, smallest=-126))
        add("truncated instead of rounded", fake_quant(x, q.replace(rounding="toward_zero")))
    tiny = np.abs(x).max(axis=-1, keepdims=True) < 2.0**-120
    found.append(
        Explanation("small blocks are flushed to zero", broken, law,
                    lambda got: np.broadcast_to(tiny, x.shape) & (got == 0))
    )  # fmt: skip
    found.append(
        Explanation("a number becomes NaN or infinity", broken, law, lambda got: ~np.isfinite(got), 1)
    )
    return tuple(found)


def families(q: Quantizer) -> dict[str, np.ndarray]:
    """The blocks that a quantizer is asked for: [rows, block] by family."""
    assert isinstance(q.block, int)
    found = inputs.blocks(q.format, q.block)
    if q.tensor_scale:  # the second-level scale would leave fp32's range
        found = {k: x for k, x in found.items() if k not in ("near_2^-126", "fp32_subnormal", "largest")}
    return found


def cases(q: Quantizer, what: str) -> Iterator[Case]:
    """The cases of a quantizer, called `what`."""
    for family, x in families(q).items():
        expected = fake_quant(x, q)
        yield Case(
            id=f"block/{what}/{family}",
            kind="block",
            what=what,
            family=family,
            clause=clause(q),
            standard=q.scale_format == "e8m0",
            x=x,
            expected=expected,
            explanations=explanations(q, family, x, expected),
        )


def profiles(preset: str) -> list[Quantizer]:
    """What a library may mean by a preset: the preset itself, other scale rules, other arithmetic orders."""
    q = Quantizer(preset)
    if preset in MX:
        return [q, *(q.replace(scale_rule=rule) for rule in RULES[1:])]
    if q.tensor_scale:
        return [q, *(Quantizer(preset, dialect=dialect) for dialect in ("torchao", "cudnn"))]
    return [q, q.replace(scale_rule="rceil")]


def described(q: Quantizer) -> tuple[str, str]:
    """How a profile other than the preset's own is called, and why it may be followed."""
    if q.tensor_scale:
        return (
            f"arithmetic order of the dialect {q.dialect}",
            "NVFP4 has no standard; the preset has Transformer Engine's order",
        )
    if q.scale_format == "e8m0":
        return f"scale rule {q.scale_rule}", "OCP MX v1.0 section 6.3 allows other algorithms"
    return f"scale rule {q.scale_rule}", clause(q)


def written() -> Iterator[Quantizer]:
    """The quantizers of the written vectors: the presets, their scale rules, dialects and NaN policies."""
    for preset in PRESETS:
        yield Quantizer(preset)
        yield from profiles(preset)[1:]
        if preset in MX:
            yield Quantizer(preset, scale_rule="mse")
            floats_only = () if preset == "mxint8" else ("torchao", "te")
            yield from (Quantizer(preset, dialect=d) for d in (*floats_only, "microxcaling", "p3109"))
            yield from (Quantizer(preset, nan=policy) for policy in ("element", "saturate"))
    yield Quantizer("nvfp4", four_over_six=True)
