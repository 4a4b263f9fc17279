"""Shared by the tests of training: a tiny corpus, a tiny configuration, a private token cache, one thread."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _private(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DITHER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 small documents of words that repeat, so that a model learns something in a few steps."""
    folder = tmp_path_factory.mktemp("corpus")
    words = random.Random(0).choices("alpha beta gamma delta epsilon zeta eta theta".split(), k=8000)
    for i in range(20):
        (folder / f"{i}.txt").write_text(" ".join(words[400 * i : 400 * (i + 1)]))
    return folder


@pytest.fixture
def tiny(corpus_folder: Path) -> Callable[..., dict[str, Any]]:
    """`tiny(train={"steps": 5}, ...)`: a configuration that trains in well under a second, with changes."""
    base = {
        "model": {"layers": 1, "width": 32, "heads": 2, "context": 32},
        "data": {"sources": [str(corpus_folder)]},
        "train": {"steps": 12, "batch": 4, "lr": 1e-2, "warmup": 2, "threads": 1, "checkpoint_every": 4},
        "eval": {"tokens": 512, "draws": 2},
    }

    def make(**sections: Any) -> dict[str, Any]:
        tree = copy.deepcopy(base)
        for name, values in sections.items():
            tree[name] = {**tree.get(name, {}), **values}
        return tree

    return make
