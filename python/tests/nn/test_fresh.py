"""Fresh results lie in memory that asks for huge pages, and are ordinary tensors all the same."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import dither

LARGE = (2048, 1024)  # 8 MiB of fp32
SMAPS = Path("/proc/self/smaps")


def flags(address: int) -> set[str]:
    """The kernel's flags of the mapping that holds an address."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            start, end = (int(part, 16) for part in head.split("-"))
            inside = start <= address < end
        elif inside and head == "VmFlags:":
            return set(line.split()[1:])
    raise AssertionError("the address is mapped nowhere")


def huge_pages_exist() -> bool:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return SMAPS.exists() and setting.exists() and "[never]" not in setting.read_text()


def result(shape=LARGE, **options) -> torch.Tensor:
    return dither.fake_quant(torch.randn(shape, **options), "mxfp8_e4m3")


@pytest.mark.skipif(not huge_pages_exist(), reason="the kernel offers no huge pages")
def test_large_results_ask_for_huge_pages():
    x = torch.randn(LARGE)
    lo, hi = dither.neighbours(x, "int4_g32")
    wide = [dither.fake_quant(x, "mxfp4"), lo, hi, dither.decode(dither.encode(x, "e4m3"), "e4m3")]
    for y in wide:
        assert "hg" in flags(y.data_ptr() + y.nbytes // 2)
    y = dither.fake_quant(x.numpy(), "mxfp4")  # numpy's own doing
    assert "hg" in flags(y.ctypes.data + y.nbytes // 2)


def test_the_default_device_does_not_matter():
    x = torch.randn(64)
    with torch.device("meta"):
        y = dither.fake_quant(x, "mxfp8_e4m3")
        product = dither.matmul(x[None], x[:, None])
    assert y.is_cpu and torch.equal(y, dither.fake_quant(x, "mxfp8_e4m3"))
    assert product.is_cpu and torch.equal(product, dither.matmul(x[None], x[:, None]))


@pytest.mark.parametrize("shape", [LARGE, (4, 32)])
def test_the_storage_is_an_ordinary_one(shape):
    y = result(shape)
    kept = y.clone()
    assert y.untyped_storage().resizable() and y.untyped_storage().nbytes() == y.nbytes
    y.resize_(2 * shape[0], shape[1])
    y[shape[0] :] = 1
    assert torch.equal(y[: shape[0]], kept)
    y.resize_(1, 32)
    assert torch.equal(y, kept[:1, :32])
    y.untyped_storage().resize_(0)
    assert y.untyped_storage().nbytes() == 0


def test_copies_and_files():
    y = result()
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    for other in (pickle.loads(pickle.dumps(y)), copy.deepcopy(y), y.clone(), torch.load(file)):
        assert torch.equal(other, y) and other.data_ptr() != y.data_ptr()
    assert torch.equal(y.to(torch.float64).to(torch.float32), y)
    assert np.shares_memory(y.numpy(), y.numpy())


def test_shared_memory():
    y = result()
    kept = y.clone()
    assert y.share_memory_().is_shared() and torch.equal(y, kept)


def test_autograd_and_in_place_use():
    x = torch.randn(LARGE, requires_grad=True)
    y = dither.fake_quant(x, "mxfp8_e4m3")
    (y * 2).sum().backward()
    assert x.grad is not None and bool((x.grad == 2).all())
    with torch.no_grad():
        z = result()
        kept = z.clone()
        assert torch.equal(z.add_(1), kept + 1)


def test_memory_returns_to_the_system():
    resource = pytest.importorskip("resource")
    result()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(32):
        result()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 8 * 4 * LARGE[0] * LARGE[1]
