"""The scale from the deviation: the kernel against its definition, along any axis."""

import numpy as np
import pytest
import torch

import dither
from dither.nn import scale_rules


def reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in blocks of 32, the last filled up with zeros; the deviation in fp64, rounded to fp32."""
    rows, length = x.shape
    blocks = np.pad(x, ((0, 0), (0, -length % 32))).reshape(rows, -1, 32)
    deviation = blocks.astype(np.float64).std(axis=-1, keepdims=True).astype(np.float32)
    wanted = deviation * np.float32(scale_rules.QUEST_CLIP / 6) + np.float32(1e-8)
    scale = np.ldexp(np.float32(1), np.frexp(wanted)[1] - 1)
    y = dither.cast(blocks / scale, "e2m1") * scale
    return y.reshape(rows, -1)[:, :length], (np.abs(blocks) < 6 * scale).reshape(rows, -1)[:, :length]


@pytest.mark.parametrize("shape", [(3, 64), (5, 70), (40, 33), (1, 7)])
def test_values_and_masks_are_the_definition(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x *= np.float32(2.0) ** (np.arange(shape[0], dtype=np.float32)[:, None] - 3)
    x[0, :5] = 0
    y, mask = reference(x)
    for axis, array in ((-1, x), (0, np.ascontiguousarray(x.T))):
        tensor = torch.from_numpy(array)
        got, trusted = scale_rules.quest(tensor, axis)
        assert np.array_equal(got.numpy(), y if axis else y.T)
        assert np.array_equal(trusted.numpy(), mask if axis else mask.T)


def test_what_is_not_finite_stays_in_its_block():
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    x[0, 3], x[1, 40] = float("nan"), float("inf")
    y, trusted = scale_rules.quest(x, -1)
    lost = torch.zeros(2, 64, dtype=torch.bool)
    lost[0, :32], lost[1, 32:] = True, True
    assert torch.equal(y.isnan(), lost) and not trusted[lost].any() and trusted[~lost].any()
