"""Inputs that break quantizers: every family names what it is for."""

import numpy as np


def adversarial(n: int = 4096) -> dict[str, np.ndarray]:
    """fp32 arrays of n elements, fixed by their addresses."""
    rng = np.random.default_rng(20250925)
    patterns = rng.integers(0, 1 << 32, n, dtype=np.uint64).astype(np.uint32).view(np.float32)
    normal = rng.standard_normal(n).astype(np.float32)
    exponents = rng.integers(-20, 21, n)
    return {
        "normal": normal,
        "wide": (normal * 2.0**exponents).astype(np.float32),
        "patterns": np.where(np.isfinite(patterns), patterns, np.float32(1)),
        "ties": (rng.integers(-256, 257, n) / 16).astype(np.float32),
        "below powers of two": np.nextafter(
            (2.0 ** rng.integers(-90, 90, n)).astype(np.float32), np.float32(0)
        ),
        "near 2^-126": (normal * 2.0**-125).astype(np.float32),
        "subnormal": rng.integers(0, 1 << 16, n).astype(np.uint32).view(np.float32),
        "huge": (rng.uniform(-1, 1, n) * np.finfo(np.float32).max).astype(np.float32),
        "zeros": np.where(rng.random(n) < 0.5, np.float32(0), np.float32(-0.0)),
    }


def bits(x: np.ndarray) -> np.ndarray:
    """Bit patterns, with every NaN the same."""
    unsigned = {2: np.uint16, 4: np.uint32, 8: np.uint64}[x.dtype.itemsize]
    return np.where(np.isnan(x), unsigned(7), x.view(unsigned))
