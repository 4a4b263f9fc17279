"""The Hadamard transform on tensors: numpy's bits from the kernel and from the twin, and its gradient."""

import numpy as np
import pytest
import torch
from patterns import any_bits, assert_same_bits

import dither
from dither.nn import ops, transforms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("along_axis", [False, True])
def test_kernel_and_twin_give_the_same_bits(dtype, inverse, along_axis):
    rng = torch.tensor([-3, 2**40])
    for shape, axis, block in (((3, 64), -1, 32), ((5, 48, 3), 1, 16), ((256,), 0, 256), ((2, 8), 1, 8)):
        for x in (any_bits(shape, dtype, 1), torch.randn(shape, dtype=torch.float64).to(dtype)):
            for out_dtype in (None, torch.float32, torch.bfloat16):
                options = (block, rng, along_axis, axis, inverse, out_dtype)
                assert_same_bits(transforms.rotate(x, *options), transforms.twin(x, *options), (shape, axis))
    plain = (16, None, False, -1, inverse)
    assert_same_bits(transforms.rotate(x.view(1, 16), *plain), transforms.twin(x.view(1, 16), *plain))


def test_public_face_is_numpys():
    x = torch.randn(6, 64)
    y = dither.hadamard(x, 32, seed=2**63 + 5, stream=7)
    want = dither.hadamard(x.numpy(), 32, seed=2**63 + 5, stream=7)
    assert isinstance(y, torch.Tensor) and np.array_equal(y.numpy(), want)
    assert torch.equal(ops.hadamard(x, 32, rng=torch.tensor([2**63 + 5 - 2**64, 7])), y)
    out = torch.empty_like(x)
    assert dither.hadamard(x, 32, seed=2**63 + 5, stream=7, out=out) is out and torch.equal(out, y)
    back = dither.hadamard(y, 32, seed=2**63 + 5, stream=7, inverse=True)
    torch.testing.assert_close(back, x)
    assert dither.hadamard(torch.ones(0, 32)).shape == (0, 32)
    for call, error in (
        (lambda: dither.hadamard(x, 5), dither.UserError),
        (lambda: ops.hadamard(x, rng=torch.tensor([1])), dither.UserError),
        (lambda: dither.hadamard(x.int()), TypeError),
    ):
        with pytest.raises(error):
            call()


def test_gradient_is_the_inverse_rotation():
    x = torch.randn(4, 32, dtype=torch.float64, requires_grad=True)
    rng = torch.tensor([1, 2])
    for f in (transforms.rotate, transforms._Rotation.apply):
        for inverse in (False, True):
            assert torch.autograd.gradcheck(lambda x, f=f, i=inverse: f(x, 16, rng, False, -1, i, None), x)
    torch.library.opcheck(torch.ops.dither.hadamard.default, (x, 16, rng, True, -1, False))
