"""One thread for the benches that ask for it, and the table of all rows at the end."""

from __future__ import annotations

import os

import pytest
import torch

import dither
import table


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    dither.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    dither.set_num_threads(None)


def pytest_terminal_summary(terminalreporter):
    if table.ROWS:
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        terminalreporter.write_line(f"\n{table.text(table.ROWS)}\nload {load:.1f} at the end")
