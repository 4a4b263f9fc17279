"""The arithmetic of the recipes' papers in a few lines of numpy each, from their formulas; no kernel of ours
but the addressed random bits and the stochastic rounding of an element, which tests/numbers check.

Every function takes a matrix whose blocks run along its last axis.
"""

import numpy as np
import torch

import dither
from dither.nn.philox import random_bits

ELEMENTS = {  # mantissa bits, exponent of the smallest normal, largest value, exponent of the largest
    "e4m3": (3, -6, 448.0, 8),
    "e5m2": (2, -14, 57344.0, 15),
    "e3m2": (2, -2, 28.0, 4),
    "e2m3": (3, 0, 7.5, 2),
    "e2m1": (1, 0, 6.0, 2),
    "ue5m3": (3, -14, 114688.0, 16),
    "bf16": (7, -126, 3.3895313892515355e38, 127),
}


def to_grid(x, name):
    """To nearest, ties to even, saturating: exact in fp64 for fp32 numbers."""
    mantissa, least, largest, _ = ELEMENTS[name]
    x = np.asarray(x, np.float64)
    _, exponent = np.frexp(x)
    quantum = 2.0 ** (np.maximum(exponent - 1, least) - mantissa)
    return np.clip(np.rint(x / quantum) * quantum, -largest, largest)


def blocks(x, size):
    """(..., n) as (..., n / size, size), the last block filled with zeros."""
    missing = -x.shape[-1] % size
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    return x.reshape(*x.shape[:-1], -1, size)


def join(b, like):
    return b.reshape(*b.shape[:-2], -1)[..., : like.shape[-1]].astype(np.float32)


def power(x):
    return 2.0 ** np.floor(np.log2(x))


def mx(x, name, rule="floor"):
    """OCP MX v1.0, 6.3: a power of two a block of 32."""
    b = blocks(x.astype(np.float64), 32)
    amax = np.abs(b).max(-1, keepdims=True)
    _, _, largest, exponent = ELEMENTS[name]
    amax = np.where(amax == 0, 1, amax)
    scale = power(amax) / 2.0**exponent if rule == "floor" else 2.0 ** np.ceil(np.log2(amax / largest))
    return join(to_grid(b / scale, name) * scale, x)


def stochastic(z, bits):
    return dither.cast(z, "e2m1", rounding="stochastic", random=bits).astype(np.float64)


def draw(shape, address):
    """The eight random bits of every element at [seed, stream]."""
    return random_bits(int(np.prod(shape)), 8, address).view(shape).numpy().astype(np.uint32)


def mx_stochastic(x, bits, rule="floor", before=1.0):
    """MXFP4 with stochastic rounding; `before` 3/4 keeps the floor rule from clipping (arXiv 2502.20586)."""
    b, r = blocks(x.astype(np.float64), 32), blocks(bits, 32)
    amax = np.abs(b).max(-1, keepdims=True)
    amax = np.where(amax == 0, 1, amax)
    scale = power(amax) / 4 if rule == "floor" else 2.0 ** np.ceil(np.log2(amax / 6))
    return join(stochastic(before * b / scale, r) * scale / before, x)


def nvfp4(x, tile=None, bits=None, scale="e4m3", size=16):
    """arXiv 2509.25149, appendix C, in fp32: a tensor scale, a scale a block, elements."""
    f = np.float32
    encode = f(f(ELEMENTS[scale][2] * 6) / np.abs(x).max())
    b = blocks(x, size)
    amax = np.abs(b).max(-1, keepdims=True)
    if tile is not None:  # one maximum for `tile` rows
        rows = np.pad(amax, [(0, -len(amax) % tile), (0, 0), (0, 0)]).reshape(-1, tile, *amax.shape[1:])
        amax = np.repeat(rows.max(1), tile, axis=0)[: len(amax)]
    stored = to_grid(amax / f(6) * encode, scale).astype(f)
    decode = f(1) / encode
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(stored > 0, b * (encode / stored), 0)
    codes = to_grid(z, "e2m1") if bits is None else stochastic(z, blocks(bits, size))
    return join(codes.astype(f) * (stored * decode), x)


def absmax(x, largest, size, grid, least=0.0):
    """One fp32 scale a block of `size` elements (a tensor where None): max(amax, least) / largest."""
    b = blocks(x, size or x.shape[-1])
    amax = np.abs(b).max(-1, keepdims=True) if size else np.abs(x).max()
    scale = np.maximum(amax, np.float32(least)) / np.float32(largest)
    scale = np.where(scale == 0, 1, scale).astype(np.float32)
    return join(grid(b / scale).astype(np.float32) * scale, x)


def tiles(x, largest, size, grid, least=0.0):
    out = np.empty_like(x)
    for i in range(0, x.shape[0], size):
        for j in range(0, x.shape[1], size):
            part = x[i : i + size, j : j + size]
            scale = np.maximum(np.abs(part).max(), np.float32(least)) / np.float32(largest)
            out[i : i + size, j : j + size] = grid(part / scale).astype(np.float32) * scale
    return out


def hadamard(size):
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(size)


def rotate(x, size, address=None):
    """Blocks times diag(signs) and the Hadamard matrix; the last block is filled with zeros, which stay."""
    signs = np.ones(size)
    if address is not None:
        signs = 1 - 2 * random_bits(size, 1, address).numpy().astype(np.float64)
    b = blocks(x.astype(np.float64), size)
    return ((b * signs) @ hadamard(size).T).reshape(*x.shape[:-1], -1).astype(np.float32)


def rotate_back(x, size, length):
    b = blocks(x.astype(np.float64), size)
    return (b @ hadamard(size)).reshape(*x.shape[:-1], -1)[..., :length]


def quest(x):
    """arXiv 2505.14669: a power of two from the deviation of a block; where the gradient passes."""
    b = blocks(x.astype(np.float64), 32)
    deviation = b.astype(np.float32).std(-1, keepdims=True)
    scale = power(deviation * (2.92247856 / 6) + 1e-8)
    return join(to_grid(b / scale, "e2m1") * scale, x), join(np.abs(b / scale) < 6, x) > 0


def as_address(seed, stream):
    return torch.tensor([v - (1 << 64) if v >= 1 << 63 else v for v in (seed, stream)])
