"""Block quantization in exact rational arithmetic, written from the standards' text alone."""

from fractions import Fraction

import numpy as np

Number = Fraction | float  # a float is NaN or infinite

_FLOATS = {  # fraction bits, bias, codes that are numbers
    "e4m3": (3, 7, 127),
    "e5m2": (2, 15, 124),
    "e3m2": (2, 3, 32),
    "e2m3": (3, 1, 32),
    "e2m1": (1, 1, 8),
}
_STEPS = {"mxint8": (Fraction(1, 64), 127), "int8": (Fraction(1), 127), "int4": (Fraction(1), 7)}


def magnitudes(fmt: str) -> list[Fraction]:
    """The non-negative numbers of a format by code."""
    if fmt in _STEPS:
        step, top = _STEPS[fmt]
        return [k * step for k in range(top + 1)]
    mbits, bias, count = _FLOATS[fmt]
    values = []
    for code in range(count):
        field, fraction = code >> mbits, code & ((1 << mbits) - 1)
        hidden = 1 if field else 0
        significand = Fraction(hidden * (1 << mbits) + fraction, 1 << mbits)
        values.append(significand * Fraction(2) ** (max(field, 1) - bias))
    return values


def signed_zero(fmt: str) -> bool:
    return fmt in _FLOATS


def nearest_even(x: Fraction, table: list[Fraction]) -> Fraction:
    """The number of the table nearest to |x|, of two the one with the even code; saturating."""
    x = abs(x)
    best = min(range(len(table)), key=lambda c: (abs(table[c] - x), c & 1))
    return table[best]


def floor_log2(x: Fraction) -> int:
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def fp32(x: Number) -> Number:
    """Rounded to fp32, ties to even; infinite above its range."""
    if isinstance(x, float) or x == 0:
        return x
    x = Fraction(x)
    quantum = Fraction(2) ** (max(floor_log2(abs(x)), -126) - 23)
    steps = round(x / quantum)  # Python rounds ties to even
    if abs(steps * quantum) >= Fraction(2) ** 128:
        return float("inf") if x > 0 else -float("inf")
    return steps * quantum


def exact(x: np.floating | float) -> Number:
    x = float(x)
    return Fraction(x) if np.isfinite(x) else x


def to_float32(value: Number, negative: bool) -> np.float32:
    """A number that fp32 holds, a negative zero where asked for."""
    if value == 0:
        return np.float32(-0.0 if negative else 0.0)
    return np.float32(float(value))


def result(fmt: str, x: float, value: Number) -> np.float32:
    """`value` >= 0 with the sign of x, as fp32; zeros keep it where the format has a negative zero."""
    negative = bool(np.signbit(np.float32(x)))
    rounded = fp32(value)
    return to_float32(-rounded if negative else rounded, negative and signed_zero(fmt))


def special(fmt: str, x: float, top: Fraction, policy: str) -> Number | None:
    """What NaN and infinity become under a NaN policy, as a magnitude; None for numbers."""
    if np.isfinite(x):
        return None
    if policy == "saturate":
        return float("nan") if np.isnan(x) and fmt in ("e4m3", "e5m2") else top
    return float("inf") if np.isinf(x) and fmt == "e5m2" else float("nan")


def mx(block: np.ndarray, fmt: str, policy: str = "block") -> np.ndarray:
    """OCP MX v1.0 section 6.3 on one block of fp32, with a policy for NaN and infinity."""
    table = magnitudes(fmt)
    numbers = [abs(Fraction(float(x))) for x in block if np.isfinite(x)]
    if policy == "block" and len(numbers) < len(block):
        return np.full(len(block), np.nan, np.float32)
    peak = max(numbers, default=Fraction(0))
    exponent = -127 if peak == 0 else floor_log2(peak) - floor_log2(table[-1])
    scale = Fraction(2) ** min(max(exponent, -127), 127)
    out = []
    for x in block:
        odd = special(fmt, float(x), table[-1] * scale, policy)
        if odd is None:
            odd = nearest_even(Fraction(float(x)) / scale, table) * scale
        # The largest value replaces a NaN without a sign.
        out.append(to_float32(fp32(odd), False) if np.isnan(x) else result(fmt, float(x), odd))
    return np.array(out, np.float32)


def integers(block: np.ndarray, fmt: str) -> np.ndarray:
    """Symmetric integers under an fp32 scale absmax / max; every operation rounded to fp32."""
    table = magnitudes(fmt)
    if not np.isfinite(block).all():
        return np.full(len(block), np.nan, np.float32)
    numbers = [Fraction(float(x)) for x in block]
    scale = fp32(max(map(abs, numbers)) / table[-1])
    if scale == 0:
        return np.zeros(len(block), np.float32)
    codes = [nearest_even(Fraction(fp32(x / scale)), table) for x in numbers]
    return np.array([result(fmt, float(x), c * scale) for x, c in zip(block, codes, strict=True)])


_LARGEST = Fraction(2) ** 128 - Fraction(2) ** 104


def _finite(x: Number) -> Fraction:
    return x if isinstance(x, Fraction) else _LARGEST


def nvfp4(block: np.ndarray, peak: Fraction) -> np.ndarray:
    """Transformer Engine's order on a block of a tensor with this absmax; operations rounded to fp32."""
    table, scales = magnitudes("e2m1"), magnitudes("e4m3")
    numbers = [Fraction(float(x)) for x in block]
    encode = Fraction(1) if peak == 0 else _finite(fp32(2688 / peak))
    decode, sixth = fp32(1 / encode), fp32(Fraction(1, 6))
    wanted = _finite(fp32(max(map(abs, numbers)) * fp32(encode * sixth)))
    step = fp32(nearest_even(wanted, scales) * decode)
    factor = _LARGEST if step == 0 else _finite(fp32(1 / step))
    codes = [nearest_even(_finite(abs(fp32(x * factor))), table) for x in numbers]
    return np.array([result("e2m1", float(x), c * step) for x, c in zip(block, codes, strict=True)])
