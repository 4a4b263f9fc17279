"""`dither.matmul` on tensors gives numpy's bits, on the memory of the tensors themselves."""

import numpy as np
import pytest
import torch

import dither


@pytest.mark.parametrize("how", ["fp32", "fp64", "bf16", dither.Accumulator(13)], ids=str)
def test_tensors_give_numpys_bits(how):
    a, w = torch.randn(5, 70), torch.randn(33, 70)
    for qa, qb in ((None, None), ("mxfp8_e4m3", "nvfp4")):
        got = dither.matmul(a, w.T, qa, qb, how)
        want = dither.matmul(a.numpy(), w.T.numpy(), qa, qb, how)
        assert got.dtype == (torch.float64 if how == "fp64" else torch.float32)
        assert np.array_equal(got.numpy(), want)
    packed = dither.quantize(w.numpy(), "mxfp4")
    got = dither.matmul(a, packed.T, accumulate=how)
    assert np.array_equal(got.numpy(), dither.matmul(a.numpy(), packed.T, accumulate=how))


def test_dtypes_batches_and_strides():
    a, b = torch.randn(3, 4, 32, dtype=torch.bfloat16), torch.randn(32, 6, dtype=torch.float16)
    got = dither.matmul(a, b)
    assert torch.equal(got, dither.matmul(a.float(), b.float())) and got.shape == (3, 4, 6)
    assert torch.equal(
        dither.matmul(a[0, :, ::2], b[::2]), dither.matmul(a[0, :, ::2].clone(), b[::2].clone())
    )
    assert torch.equal(dither.matmul(a[0, 0], b), got[0, 0])
    assert dither.matmul(a, b, out_dtype="bf16").dtype == torch.bfloat16
    assert torch.equal(
        dither.matmul(a[0].double(), b.double(), "mxfp4", "mxfp4"),
        dither.matmul(a[0].float(), b.float(), "mxfp4", "mxfp4"),
    )
    assert dither.matmul(torch.ones(0, 3), torch.ones(3, 2)).shape == (0, 2)
    x = torch.randn(2, 32, requires_grad=True)
    assert not dither.matmul(x, b).requires_grad


def test_packed_tensors():
    x, w = torch.randn(5, 64), torch.randn(64, 9)
    p, columns = dither.quantize(x, "mxfp4"), dither.quantize(w.T.contiguous(), "nvfp4")
    want = dither.matmul(x, w, "mxfp4", "nvfp4")
    assert torch.equal(dither.matmul(p, columns.T), want)
    assert torch.equal(dither.matmul(p, columns.quantized.T), want)  # unpacked a panel at a time
    assert torch.equal(dither.matmul(p, w, qb="nvfp4"), want)
    half = dither.quantize(x.half(), "int4_g32")
    assert torch.equal(dither.matmul(half, w), dither.matmul(half.dequantize(torch.float32), w))
    with pytest.raises(dither.UserError, match="already"):
        dither.matmul(p, w, "mxfp4")


def test_errors_say_what_to_do():
    a, b = torch.randn(2, 3), torch.randn(3, 2)
    for call, error, says in (
        (lambda: dither.matmul(a.double(), b), TypeError, "x.float"),
        (lambda: dither.matmul(a, b.numpy()), TypeError, "torch tensor is wanted"),
        (lambda: dither.matmul(a, b.to("meta")), dither.UserError, "different devices"),
        (lambda: dither.matmul(a, a), dither.UserError, "columns of a"),
        (lambda: dither.matmul(a, b, "mxfp4:rounding=stochastic"), dither.UserError, "beforehand"),
    ):
        with pytest.raises(error, match=says):
            call()
