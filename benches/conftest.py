"""One thread and a SIMD level for the benches that ask for them, and the table of all rows at the end."""

from __future__ import annotations

import os

import pytest
import torch

import dither
import table
from dither import _core


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    dither.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    dither.set_num_threads(None)


@pytest.fixture(params=["best", "avx2"])
def level(request):
    """The machine's own level, then AVX2; what a job's name ends with."""
    own = _core.simd_level()
    if request.param == "best":
        yield ""
        return
    if own == "avx2" or _core.simd_level("avx2") != "avx2":
        pytest.skip("this machine's own level is AVX2 or less")
    yield ", AVX2"
    _core.simd_level(own)


def pytest_terminal_summary(terminalreporter):
    if table.ROWS:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        terminalreporter.write_line(f"\n{table.text(table.ROWS)}\nload {load:.1f} at the end")
