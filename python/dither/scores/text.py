"""Importance of documents by hashed n-grams (DSIR: Xie et al., 2302.03169): which raw text looks like the
target.

    weight = sum over the 1- and 2-grams of a document of log p_target - log p_raw

Tokens are what `\\w+|[^\\w\\s]+` finds in lower case; buckets are ours (a 64-bit hash), not those of the
authors' SHA-256, so weights agree in distribution, not digit for digit; dialect="dsir" takes theirs, two
hundred times as slow.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dither.errors import UserError
from dither.scores.borrowed import Floats, Ints, floats
from dither.scores.engine import run_ngram_count, run_ngram_weigh

BUCKETS = 10_000
FLOOR = 1e-8
"""Added to each probability, as the authors' code does."""


def _several(texts: Iterable[str | bytes]) -> Iterable[str | bytes]:
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts are a list of documents, not one string")
    return texts


def _each(texts: Iterable[str | bytes]) -> Iterator[str | bytes]:
    """The documents, each looked at: `bytes(5)` would be five zeros."""
    for row, text in enumerate(texts):
        if not isinstance(text, (str, bytes, bytearray, memoryview)):
            raise UserError(f"document {row} is no text but {type(text).__name__}: leave it out, or give ''")
        yield text if isinstance(text, str) else bytes(text)


def _decoded(row: int, text: str | bytes) -> str:
    """As the authors' code takes it, which hashes UTF-8."""
    try:
        return text.encode().decode() if isinstance(text, str) else text.decode()
    except UnicodeError as error:
        raise UserError(
            f"document {row} is no UTF-8 text ({error}), which dialect='dsir' hashes; give it as "
            "bytes.decode(errors='replace'), or take n-grams of bytes, without a dialect"
        ) from None


def _documents(texts: Iterable[str | bytes]) -> tuple[NDArray[np.uint8], Ints]:
    given = list(_several(texts))
    if set(map(type, given)) == {str}:
        whole = "".join(cast("list[str]", given))
        if whole.isascii():  # a byte a character: nothing is encoded one by one
            return np.frombuffer(whole.encode(), np.uint8), _offsets(given)
    parts = [t.encode("utf-8", "replace") if isinstance(t, str) else t for t in _each(given)]
    return np.frombuffer(b"".join(parts), np.uint8), _offsets(parts)


def _offsets(parts: Sequence[str | bytes]) -> Ints:
    """Where each begins, and the end of all."""
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=offsets[1:])
    return offsets


def ngram_counts(
    texts: Iterable[str | bytes], buckets: int = BUCKETS, dialect: str | None = None
) -> NDArray[np.uint64]:
    """How often the 1- and 2-grams of all documents fall into each bucket.

    texts: str, or bytes of any encoding; under dialect="dsir" valid UTF-8, else UserError names the document.
    """
    if not 1 <= buckets <= 1 << 32:
        raise UserError(f"buckets= is a positive number up to 2^32, not {buckets}")
    if dialect is None:
        return run_ngram_count(*_documents(texts), buckets)
    _check(dialect)
    counts = np.zeros(buckets, np.uint64)
    for hits, _ in _by_sha(texts, buckets):
        np.add.at(counts, hits, 1)
    return counts


def _check(dialect: str | None) -> None:
    if dialect not in (None, "dsir"):
        raise UserError(f"n-grams know the dialect dsir, not {dialect!r}")


def _by_sha(texts: Iterable[str | bytes], buckets: int) -> Iterator[tuple[Ints, int]]:
    """Buckets of every document's 1- and 2-grams by the authors' hash, and its number of tokens."""
    known: dict[str, int] = {}
    for row, text in enumerate(_each(_several(texts))):
        words = re.findall(r"\w+|[^\w\s]+", _decoded(row, text).lower())
        hits = []
        for gram in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
            if gram not in known:
                known[gram] = int(hashlib.sha256(gram.encode()).hexdigest(), 16) % buckets
            hits.append(known[gram])
        yield np.array(hits, np.int64), len(words)


@dataclass(frozen=True)
class Importance:
    """log p_target - log p_raw of every bucket, and whose buckets they are."""

    weights: Floats
    dialect: str | None = None

    def __post_init__(self) -> None:
        """UserError for weights that are no vector of finite numbers."""
        if not (weights := floats(self.weights, "weights")).size or not np.isfinite(weights).all():
            raise UserError("weights are one finite number a bucket, of at least one bucket")
        object.__setattr__(self, "weights", weights)

    @classmethod
    def fit(
        cls,
        target: Iterable[str | bytes],
        raw: Iterable[str | bytes],
        buckets: int = BUCKETS,
        dialect: str | None = None,
    ) -> Importance:
        """From documents like those wanted, and documents like those to choose from."""
        logs = []
        for name, texts in (("target", target), ("raw", raw)):
            counts = ngram_counts(texts, buckets, dialect)
            if not counts.any():
                raise UserError(f"the {name} documents hold no token")
            logs.append(np.log(counts / counts.sum() + FLOOR))
        return cls(logs[0] - logs[1], dialect)

    def score(self, texts: Iterable[str | bytes]) -> tuple[Floats, Ints]:
        """Log importance weight and number of tokens of every document (the authors drop those under 100)."""
        if self.dialect is not None:
            _check(self.dialect)
            found = [(self.weights[hits].sum(), n) for hits, n in _by_sha(texts, len(self.weights))]
            return np.array([w for w, _ in found]), np.array([n for _, n in found], np.int64)
        return run_ngram_weigh(*_documents(texts), self.weights)


def resample(log_weights: Any, k: int, seed: int = 0) -> Ints:
    """k documents without replacement with probabilities that follow the weights (Gumbel top-k),
    ascending."""
    from dither.scores.selection import gumbel_top_k

    return gumbel_top_k(log_weights, k, seed)
