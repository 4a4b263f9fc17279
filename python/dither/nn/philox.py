"""Addressed random bits in pure torch: Philox4x32-10 (Salmon et al., SC 2011) in rust/numerics' layout.

Element i of an array (C-order logical index plus `offset`) owns N bits, found without drawing the others:

    P = 32 div N;  tile = i div 64P;  j = i mod 64P;  lane = j mod 16;  g = j div 16
    (words 0..3) = philox(key = seed, counter = (tile * 16 + lane, stream))
    R = (words[g div P] >> N (g mod P)) & (2^N - 1)

So a tile of 64P elements takes 16 counters, and the bits do not depend on the device, the thread count or the
call order. torch has no unsigned 64-bit multiplication everywhere, so a 32 x 32 bit product is built from two
48-bit ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_LANES = 16
_WORDS = 4


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b; a holds 32-bit values in int64, no intermediate exceeds 2^49."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16)
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> list[Tensor]:
    """Philox4x32-10 of four counter words and two key words: int64 tensors that hold 32-bit values."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return [c0, c1, c2, c3]


def random_bits(count: int, bits: int, rng: Tensor, offset: int = 0) -> Tensor:
    """The addressed bits of `count` consecutive elements from logical index `offset`.

    `rng` is the int64 tensor [seed, stream] (64-bit values, negative ones read as unsigned) on the device
    wanted. Returns int64 of shape (count,), each in [0, 2^bits).
    """
    per_word = 32 // bits
    tile = _LANES * _WORDS * per_word
    first, last = offset // tile, -(-(offset + count) // tile)
    counter = torch.arange(first * _LANES, last * _LANES, dtype=torch.int64, device=rng.device)
    seed, stream = rng[0], rng[1]
    words = philox([w.expand_as(counter) for w in (*_halves(counter), *_halves(stream))], _halves(seed))
    shifts = torch.arange(per_word, dtype=torch.int64, device=rng.device) * bits
    tiles = torch.stack([word.view(-1, _LANES) for word in words], dim=1)  # (tile, word, lane)
    values = (tiles.unsqueeze(2) >> shifts.view(1, 1, -1, 1)) & ((1 << bits) - 1)  # (tile, word, part, lane)
    skip = offset - first * tile
    return values.reshape(-1)[skip : skip + count]


def _halves(value: Tensor) -> tuple[Tensor, Tensor]:
    return value & _LOW, (value >> 32) & _LOW
