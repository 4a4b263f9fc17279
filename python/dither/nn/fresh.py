"""New CPU tensors without the tax on their first touch.

They are ordinary tensors of torch's allocator (resizable, shareable, picklable). From 4 MiB on their memory
is asked to come in huge pages before it is touched, as numpy does for its arrays: 64 MiB then cost about 8 ms
more than memory that is there, instead of 37 (benches/test_bench_fresh.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dither import arrays


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised contiguous CPU tensor."""
    tensor = torch.empty(shape, dtype=dtype, device="cpu")  # whatever torch.set_default_device says
    arrays.prefer_huge_pages(tensor.data_ptr(), tensor.numel() * tensor.element_size())
    return tensor
