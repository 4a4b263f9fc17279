"""Inputs on which implementations of block quantization are known to disagree, and a bit-for-bit
comparison."""

import math

import torch
from torch import Tensor

_INTEGERS = {
    torch.float32: torch.int32,
    torch.float64: torch.int64,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


def bits(x: Tensor) -> Tensor:
    """The bits of x, every NaN as one value (payloads are not part of the contract)."""
    view = x.contiguous().view(_INTEGERS[x.dtype])
    return torch.where(torch.isnan(x), -1, view)


def assert_same_bits(got: Tensor, expected: Tensor, what: object = "") -> None:
    assert got.shape == expected.shape and got.dtype == expected.dtype, (
        what,
        got.shape,
        expected.shape,
        got.dtype,
    )
    different = bits(got) != bits(expected)
    if different.any():
        where = different.nonzero()[0].tolist()
        pair = (got[tuple(where)].item(), expected[tuple(where)].item())
        raise AssertionError(
            f"{what}: {int(different.sum())} of {got.numel()} differ, first at {where}: {pair}"
        )


def any_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Uniform bit patterns: all exponents, subnormals, infinities and NaNs."""
    generator = torch.Generator().manual_seed(seed)
    integer = _INTEGERS[dtype]
    width = torch.iinfo(integer).bits
    halves = [
        torch.randint(0, 1 << 16, shape, generator=generator, dtype=torch.int64) for _ in range(width // 16)
    ]
    value = sum(half << (16 * k) for k, half in enumerate(halves))
    return torch.as_tensor(value).to(integer).view(dtype)


def gaussian(shape: tuple[int, ...], dtype: torch.dtype, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def ties(dtype: torch.dtype, significand_bits: int = 5) -> Tensor:
    """Numbers of few bits over many binades: grid points, ties and their neighbours in every small format."""
    m = torch.arange(0, 1 << significand_bits, dtype=torch.float64) / (1 << (significand_bits - 1))
    x = torch.cat([m * 2.0**e for e in (-20, -9, -7, -3, -1, 0, 1, 2, 5, 8, 9, 15)])
    x = torch.cat(
        [
            x,
            torch.nextafter(x.float(), torch.tensor(math.inf)).double(),
            torch.nextafter(x.float(), torch.tensor(-math.inf)).double(),
        ]
    )
    return torch.cat([x, -x]).to(dtype)


def edge_blocks(dtype: torch.dtype) -> Tensor:
    """Rows of 32 whose absmax sits at an edge: around 2^-126 and the subnormals, at powers of two and one ulp
    below, at the largest number, all zero, and rows with NaN or infinity."""
    info = torch.finfo(dtype)
    tiny, smallest = info.tiny, info.smallest_normal * info.eps
    tops = [
        info.max,
        info.max * (1 - info.eps),
        info.max / 2,
        2.0**-126,
        2.0**-127,
        2.0**-120,
        1.0,
        4.0,
        6.0,
        448.0,
        7.0,
    ]
    tops += [
        tiny,
        tiny / 2,
        tiny * 1.5,
        smallest,
        3 * smallest,
        7 * smallest,
        smallest * 2.0**9,
        tiny * 32,
        tiny * 448,
    ]
    exact = torch.tensor(tops, dtype=torch.float64).to(dtype)
    below = (
        torch.nextafter(exact.double().to(dtype).float(), torch.tensor(0.0)).to(dtype)
        if dtype == torch.float32
        else exact
    )
    generator = torch.Generator().manual_seed(5)
    shares = torch.rand(len(tops), 32, generator=generator, dtype=torch.float64) * 2 - 1
    shares[:, 3], shares[:, 4], shares[:, 5], shares[:, 6] = 1.0, -0.0, 0.5, -1.0
    rows = [(shares * top.double()[:, None]).to(dtype) for top in (exact, below)]
    special = torch.zeros(5, 32, dtype=dtype)
    special[1, 7], special[2, 8], special[3, 9], special[4, ::2] = math.nan, math.inf, -math.inf, -0.0
    special[1:4, 1] = 1.0
    return torch.cat([*rows, special])
