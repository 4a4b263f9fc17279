"""The addressed random bits in torch: published vectors and the formula, element by element."""

import pytest
import torch

from dither.nn.philox import philox, random_bits

# Random123, file kat_vectors, philox4x32 with 10 rounds: key, counter, result.
KNOWN = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 2, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(counter, key):
    return [int(w) for w in philox(*(tuple(torch.tensor([v]) for v in part) for part in (counter, key)))]


@pytest.mark.parametrize(("key", "counter", "expected"), KNOWN)
def test_published_vectors(key, counter, expected):
    assert words(counter, key) == list(expected)


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 16, 32])
def test_layout_is_the_formula(bits):
    seed, stream, offset = 2**63 + 11, 2**40 + 3, 2**37 + 77
    got = random_bits(300, bits, torch.tensor([seed - 2**64, stream]), offset).tolist()
    per_word = 32 // bits
    for i in (0, 1, 15, 16, 63, 64, 255, 256, 299):
        tile, j = divmod(i + offset, 64 * per_word)
        lane, g = j % 16, j // 16
        counter = tile * 16 + lane
        four = words(
            (counter % 2**32, counter >> 32, stream % 2**32, stream >> 32), (seed % 2**32, seed >> 32)
        )
        assert got[i] == (four[g // per_word] >> (bits * (g % per_word))) % 2**bits, i


def test_a_part_of_an_array_has_the_bits_of_its_place():
    rng = torch.tensor([5, 6])
    whole = random_bits(5000, 8, rng)
    assert torch.equal(random_bits(1234, 8, rng, 777), whole[777 : 777 + 1234])
