"""The data of studies: images and texts that packages of a distribution bring, read where they lie.

Nothing is downloaded. `DITHER_FASHION_MNIST` and `DITHER_WORDNET` name other folders.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from dither.errors import UserError, require

FASHION = Path(os.environ.get("DITHER_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
WORDNET = Path(os.environ.get("DITHER_WORDNET", "/usr/share/wordnet"))


@dataclass(frozen=True)
class Data:
    """x: (n, d) fp32, y: (n,) int64; the rest is for testing. name says which data and how many."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    classes: int
    name: str


def image_source() -> str:
    """What `images` reads: "fashion" where the package lies, else "digits"."""
    return "fashion" if (FASHION / "train-images-idx3-ubyte.gz").is_file() else "digits"


@lru_cache(maxsize=4)
def images(source: str, train: int, test: int, seed: int = 0) -> Data:
    """Images in [0, 1], `train` and `test` of them drawn by `seed`: Fashion-MNIST (Debian's
    dataset-fashion-mnist; 28 x 28, averaged to 14 x 14), or scikit-learn's digits (1,797 of 8 x 8; two thirds
    at most for training)."""
    noise = np.random.Generator(np.random.Philox(seed))
    if source == "fashion":
        x, y = _idx("train-images-idx3", 16), _idx("train-labels-idx1", 8)
        tx, ty = _idx("t10k-images-idx3", 16), _idx("t10k-labels-idx1", 8)
        pick, test_pick = noise.permutation(60_000)[:train], noise.permutation(10_000)[:test]
        halves = [a.reshape(-1, 14, 2, 14, 2)[p] for a, p in ((x, pick), (tx, test_pick))]
        x, tx = ((a.mean(axis=(2, 4)) / 255).reshape(len(a), -1).astype(np.float32) for a in halves)
        y, ty = y[pick].astype(np.int64), ty[test_pick].astype(np.int64)
    else:
        bunch = require("sklearn.datasets", "scores").load_digits()
        order = noise.permutation(len(bunch.target))
        cut = min(train, len(order) * 2 // 3)
        x, y = (bunch.data / 16).astype(np.float32)[order], bunch.target[order].astype(np.int64)
        x, tx, y, ty = x[:cut], x[cut : cut + test], y[:cut], y[cut : cut + test]
    name = {"fashion": "Fashion-MNIST at 14 x 14", "digits": "scikit-learn's digits"}[source]
    return Data(x, y, tx, ty, 10, f"{name}, {len(y):,} for training and {len(ty):,} for testing")


def _idx(name: str, header: int) -> np.ndarray:
    with gzip.open(FASHION / f"{name}-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


@lru_cache(maxsize=4)
def glosses(train: int, test: int, buckets: int = 2048, seed: int = 0) -> Data:
    """WordNet's glosses (Debian's wordnet-base) by lexicographer class (45), words hashed into `buckets`.

    UserError where the package is not installed. Repeated glosses are left out.
    """
    found: dict[str, int] = {}
    for part in ("noun", "verb", "adj", "adv"):
        for line in wordnet(part):
            found.setdefault(line.split("|", 1)[1].strip(), int(line.split(" ", 2)[1]))
    texts = list(found)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(texts))[: train + test]
    x = _hashed([texts[i] for i in order], buckets)
    y = np.array([found[texts[i]] for i in order], np.int64)
    name = f"WordNet glosses, {train:,} for training and {test:,} for testing"
    return Data(x[:train], y[:train], x[train:], y[train:], 45, name)


def wordnet(part: str) -> list[str]:
    """The lines of WordNet's data file of `part`: noun, verb, adj or adv. UserError where there is none."""
    if not (WORDNET / "data.noun").is_file():
        raise UserError(
            f"there is no WordNet in {WORDNET}; install Debian's wordnet-base or set DITHER_WORDNET"
        )
    lines = (WORDNET / f"data.{part}").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("  ")]  # the licence


def _hashed(texts: list[str], buckets: int) -> np.ndarray:
    """Square roots of the counts of hashed 1- and 2-grams, each row of length 1."""
    from dither.scores import ngram_counts

    x = np.sqrt(np.stack([ngram_counts([text], buckets) for text in texts]).astype(np.float32))
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
