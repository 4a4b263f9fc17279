"""docs/choosing.md: its table is what examples/choosing.py measures, and its pictures are what it draws."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "choosing.md"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("choosing", ROOT / "examples" / "choosing.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_page_is_measured(script):
    assert "\n".join(script.table()) in PAGE.read_text()


def test_the_script_draws_every_picture_of_the_page(script, tmp_path):
    pytest.importorskip("matplotlib")
    drawn = {path.name: path for path in script.pictures(tmp_path)}
    shown = re.findall(r"\]\(images/(.*?)\)", PAGE.read_text())
    assert sorted(shown) == sorted(drawn)
    for name, path in drawn.items():
        assert path.stat().st_size < 150_000
        sizes = [np.frombuffer(p.read_bytes()[16:24], ">u4") for p in (path, PAGE.parent / "images" / name)]
        assert (sizes[0] == sizes[1]).all(), name
