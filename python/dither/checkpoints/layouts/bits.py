"""Codes between the ways in which layouts store them.

A QuantizedTensor holds every row of codes as one run of bits, first element in the lowest bits, padded to a
byte. Its integers are two's complement; other layouts store them plus 2^(bits-1) ("offset binary"), which is
the same code with its highest bit turned.
"""

from __future__ import annotations

import numpy as np


def row_bytes(columns: int, bits: int) -> int:
    return -(-columns * bits // 8)


def turn_high_bits(codes: np.ndarray, columns: int, bits: int) -> np.ndarray:
    """Two's complement as offset binary and back. `codes`: (..., row_bytes(columns, bits)) uint8."""
    if bits in (2, 4, 8):
        mask = np.uint8({2: 0b10101010, 4: 0b10001000, 8: 0b10000000}[bits])
        turned = codes ^ mask
        if columns * bits % 8:  # the padding stays zero
            turned[..., -1] &= np.uint8((1 << columns * bits % 8) - 1)
        return turned
    flags = np.zeros(columns * bits, np.uint8)
    flags[bits - 1 :: bits] = 1
    return codes ^ np.packbits(flags, bitorder="little")


def to_words(rows: np.ndarray) -> np.ndarray:
    """Rows of bytes as rows of little-endian int32, the last padded with zeros."""
    padding = -rows.shape[-1] % 4
    if padding:
        rows = np.concatenate([rows, np.zeros((*rows.shape[:-1], padding), np.uint8)], -1)
    return np.ascontiguousarray(rows).view("<i4")


def unpack(codes: np.ndarray, columns: int, bits: int) -> np.ndarray:
    """One code a byte (bits <= 8): (..., columns) uint8."""
    if bits == 8:
        return codes[..., :columns]
    if bits == 4:
        both = np.empty((*codes.shape, 2), np.uint8)
        np.bitwise_and(codes, 15, out=both[..., 0])
        np.right_shift(codes, 4, out=both[..., 1])
        return both.reshape(*codes.shape[:-1], -1)[..., :columns]
    flags = np.unpackbits(codes, axis=-1, bitorder="little", count=columns * bits)
    flags = flags.reshape(*codes.shape[:-1], columns, bits)
    return np.packbits(flags, axis=-1, bitorder="little")[..., 0]


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `unpack`."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    flags = np.unpackbits(codes[..., None], axis=-1, bitorder="little", count=bits)
    return np.packbits(flags.reshape(*codes.shape[:-1], -1), axis=-1, bitorder="little")


def halves(nibbles: np.ndarray, block: int) -> np.ndarray:
    """Four-bit codes two a byte in order, (..., n / 2), as ggml stores them: byte j of a block of `block`
    elements holds element j in its low and element j + block / 2 in its high half. (..., n / block, block /
    2).
    """
    codes = unpack(nibbles, nibbles.shape[-1] * 2, 4).reshape(*nibbles.shape[:-1], -1, 2, block // 2)
    return codes[..., 0, :] | (codes[..., 1, :] << 4)


def from_halves(stored: np.ndarray) -> np.ndarray:
    """The inverse of `halves`, one code a byte: (..., n / block, block / 2) to (..., n / block, block)."""
    return np.concatenate([stored & 15, stored >> 4], -1)
