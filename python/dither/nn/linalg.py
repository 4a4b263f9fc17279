"""`dither.matmul` on tensors: the same kernel on their memory. Tensors on other devices take the way over the
CPU, since no device adds in this order. The result is a constant to autograd; `dither.nn` trains with fake
quantization and ordinary products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dither import arrays
from dither.arrays import CodedRows, Rows
from dither.errors import UserError
from dither.linalg import Accumulator, check_accumulate, check_quantizer, memory_of, multiply
from dither.linalg import _rows as numpy_rows
from dither.nn import fresh, kernels
from dither.nn.checks import check_input, check_result, dtype_of, overlap
from dither.nn.differentiable import one_after_the_other
from dither.nn.kernels import WORDS
from dither.nn.packed import PackedTensor
from dither.quantizer import Quantizer
from dither.tensor import QuantizedTensor
from dither.transposed import Transposed


def matmul(
    a: Any,
    b: Any,
    qa: str | Quantizer | None = None,
    qb: str | Quantizer | None = None,
    accumulate: str | Accumulator = "fp32",
    *,
    out: Tensor | None = None,
    out_dtype: torch.dtype | str | None = None,
) -> Tensor:
    """`dither.matmul` where an operand is a tensor; the other one may be a QuantizedTensor. The result is on
    the tensors' device."""
    how = check_accumulate(accumulate)
    devices = {x.device for x in (a, b) if isinstance(x, Tensor)}
    if len(devices) > 1:
        raise UserError(f"operands lie on different devices: {', '.join(sorted(map(str, devices)))}")
    device = devices.pop() if devices else torch.device("cpu")
    read = (a, b)
    a, b = _operand(a, qa, -1), _operand(b, qb, -2)

    def product(a: Any, b: Any, c: Tensor) -> None:
        if c.numel():
            arrays.run_matmul(_rows(a), _rows(b.T), how, kernels.buffer(c))

    def target(shape: tuple[int, ...]) -> Tensor:
        if out is None:
            return fresh.empty(shape, dtype_of(out_dtype or ("fp64" if accumulate == "fp64" else "fp32")))
        check_result(shape, device, out, out_dtype)
        if out.requires_grad:
            raise UserError("out= takes no part in autograd: detach it")
        if any(_overlap(x, out) for x in read):
            raise UserError("out= overlaps an operand, which would be lost while it is read")
        return out if out.is_cpu else fresh.empty(shape, out.dtype)

    with torch.no_grad():
        c = multiply(a, b, product, target)
        return c.to(device) if out is None else out.copy_(c) if c is not out else out


def _overlap(x: Any, out: Tensor) -> bool:
    if isinstance(x, Tensor):
        return any(overlap(part, out) for part in (x.parts.values() if isinstance(x, PackedTensor) else [x]))
    memory = out.reshape(-1).view(torch.uint8).numpy() if out.is_cpu else None
    return memory is not None and any(np.shares_memory(part, memory) for part in memory_of(x))


def _operand(x: Any, q: str | Quantizer | None, k_axis: int) -> Any:
    """A packed operand as it is, or a plain CPU tensor of at most fp32, quantized."""
    if isinstance(x, PackedTensor):
        x = x.quantized  # its values in fp32, whatever the dtype in which the tensor shows them
    packed = isinstance(x, QuantizedTensor | Transposed)
    q = check_quantizer(q, packed)
    if packed:
        return x
    word = check_input(x)
    x = kernels.on_cpu(x.detach())
    if q is not None and x.dim():
        dtype = x.dtype if word != "fp64" and q.exact_in(word) else torch.float32
        axis = -1 if x.dim() == 1 else k_axis
        return torch.ops.dither.fake_quant.default(x, str(q), axis, None, 0, None, dtype)
    if word == "fp64":
        raise TypeError(
            "operands of matmul are fp32, bf16 or fp16 numbers: convert float64 with x.float(), or give a "
            "quantizer"
        )
    return x


def _rows(x: Any) -> Rows | CodedRows:
    """A matrix as rows along the last axis."""
    if not isinstance(x, Tensor):
        return numpy_rows(x)
    x = x if kernels.is_aligned(x) else x.clone()
    return Rows(x.data_ptr(), WORDS[x.dtype], x.shape[0], x.shape[1], x.stride(0), x.stride(1), x)


_LIBRARY = torch.library.Library("dither", "FRAGMENT")
_LIBRARY.define(
    "accumulated(Tensor a, Tensor b, int fraction_bits, int group, int promote_every) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
one_after_the_other("dither::accumulated", _LIBRARY)


def accumulated(a: Tensor, b: Tensor, fraction_bits: int, group: int, promote_every: int) -> Tensor:
    """a (..., M, K) @ b (..., K, N) added by that Accumulator (`promote_every` 0: never promoted), in the
    dtype of `a`."""
    return torch.ops.dither.accumulated.default(a, b, fraction_bits, group, promote_every)


@torch.library.impl(_LIBRARY, "accumulated", "CompositeExplicitAutograd")
def _accumulated(a: Tensor, b: Tensor, fraction_bits: int, group: int, promote_every: int) -> Tensor:
    how = Accumulator(fraction_bits, group, promote_every or None)
    if a.dtype == torch.float64:
        return matmul(a.float(), b.float(), accumulate=how).double()
    return matmul(a, b, accumulate=how, out_dtype=a.dtype)


@torch.library.register_fake("dither::accumulated", lib=_LIBRARY)
def _(a, b, fraction_bits, group, promote_every):
    return torch.matmul(a, b)
