"""Hashed n-grams against the regular expression, and DSIR's weights against their definition."""

import functools
import re
import time
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dither
from dither.errors import UserError
from dither.scores import Importance, ngram_counts
from dither.scores.text import resample

WORDS = re.compile(r"\w+|[^\w\s]+")


def total(text: str) -> int:
    n = len(WORDS.findall(text.lower()))
    return max(2 * n - 1, 0)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
def test_ascii_tokens_are_the_regular_expressions(text):
    assert int(ngram_counts([text]).sum()) == total(text)


@pytest.mark.parametrize(
    "text",
    [
        "naïve CAFÉ, déjà-vu", "日本語 テスト。", "Ελλάδα ΣΣ", "x\u2003y\xa0z", "a\u0301b",
        "हिन्दी भाषा", "ภาษาไทย", "İstanbul", "x²½ a_b", "ⒶⒷ a", "\u200bfoo", "ß ẞ", "\x1ca\x1fb\x85c",
    ],
)  # fmt: skip
def test_other_scripts(text):
    """Marks are no letters for Python's expression, nor here: not even that of a capital in lower case."""
    assert int(ngram_counts([text]).sum()) == total(text)


def test_every_character_is_of_its_kind():
    """Between letters it parts nothing, one token, or two. Characters that this Python does not know yet are
    left out."""
    known = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    texts = [f"a{c}b" for c in known]
    _, tokens = Importance(np.zeros(10)).score(texts)
    expected = [len(WORDS.findall(text.lower())) for text in texts]
    wrong = [f"U+{ord(known[k]):04X}" for k in np.flatnonzero(tokens != expected)]
    assert len(known) > 140_000 and wrong == []


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ΑΣσς'\u0301 .aB\u00b7कि", max_size=14))
def test_lower_case_is_pythons(text):
    """A capital sigma at the end of a word becomes another letter than inside."""
    np.testing.assert_array_equal(ngram_counts([text]), ngram_counts([text.lower()]))


def test_many_buckets_cost_what_few_do():
    """They were zeroed and added up for every 256 documents."""
    texts = ["the quick brown fox jumps over the lazy dog and runs away far"] * 20_000
    start = time.process_time()
    counts = ngram_counts(texts, 1 << 20)
    seconds = time.process_time() - start
    assert counts.sum() == 20_000 * 25 and np.count_nonzero(counts) <= 25
    assert seconds < 0.15  # 79 times a million of them took more than .25 s
    dither.set_num_threads(3)
    try:
        np.testing.assert_array_equal(ngram_counts(texts, 1 << 20), counts)
    finally:
        dither.set_num_threads(None)


def test_texts_of_any_kind_lie_where_they_should():
    """Plain ASCII strings are joined at once, others one by one."""
    plain, mixed = ["ab c", "", "d"], ["ab c", "", "d", b"e f", "é", bytearray(b"g")]
    model = Importance(np.arange(100.0))
    for texts in (plain, tuple(mixed), iter(mixed), ["é"], [""], []):
        texts = list(texts)
        each = [model.score([text]) for text in texts]
        scores, tokens = model.score(iter(texts))
        assert scores.tolist() == [float(s[0]) for s, _ in each] and tokens.tolist() == [
            int(n[0]) for _, n in each
        ]
    with pytest.raises(UserError, match="document 1 is no text but int"):
        ngram_counts(["a", 5])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="not one string"):
        ngram_counts("a b")


def test_same_features_same_buckets():
    np.testing.assert_array_equal(ngram_counts(["The  CAT sat"]), ngram_counts(["the cat\nSAT"]))
    assert (ngram_counts(["the cat sat"]) != ngram_counts(["sat cat the"])).any()
    a = ngram_counts(["one two", "three"])
    np.testing.assert_array_equal(a, ngram_counts(["three"]) + ngram_counts([b"one two"]))
    assert ngram_counts([]).sum() == 0 and ngram_counts(["", "  "]).sum() == 0


def test_buckets_are_used_evenly():
    """10,000 different words in 100 buckets: chi-squared with 99 degrees of freedom, bound at 5 sigma."""
    counts = ngram_counts([f"w{i}" for i in range(10_000)], 100).astype(float)
    assert ((counts - 100) ** 2 / 100).sum() < 99 + 5 * np.sqrt(2 * 99)


def test_weights_are_their_definition():
    target, raw = ["alpha beta gamma", "alpha alpha"], ["delta beta", "epsilon zeta eta", "alpha"]
    model = Importance.fit(target, raw, 500)
    counts = [ngram_counts(texts, 500).astype(float) for texts in (target, raw)]
    logs = [np.log(c / c.sum() + 1e-8) for c in counts]
    scores, tokens = model.score([*target, *raw, ""])
    for text, score, n in zip([*target, *raw, ""], scores, tokens, strict=True):
        expected = (ngram_counts([text], 500) * (logs[0] - logs[1])).sum()
        np.testing.assert_allclose(score, expected, rtol=1e-12, atol=1e-12)
        assert n == len(text.split())
    dither.set_num_threads(3)
    try:
        many = [f"alpha {i} beta" for i in range(2000)]
        np.testing.assert_array_equal(
            model.score(many)[0], np.concatenate([model.score([t])[0] for t in many])
        )
    finally:
        dither.set_num_threads(None)
    assert scores[1] > scores[2]


def test_it_finds_the_domain():
    code = [f"def f{i}(x): return x + {i}" for i in range(200)]
    prose = [f"the old man walked to house number {i} and slept" for i in range(200)]
    model = Importance.fit(code[:100], code[:100] + prose[:100])
    scores, _ = model.score(code[100:] + prose[100:])
    kept = resample(scores, 100, seed=1)
    assert (kept < 100).mean() > 0.95


def test_refusals():
    with pytest.raises(TypeError, match="list of documents"):
        ngram_counts("one string")
    with pytest.raises(UserError, match="no token"):
        Importance.fit(["..."], [""])
    with pytest.raises(UserError, match="positive"):
        ngram_counts(["a"], 0)


def test_documents_that_are_no_text_are_named():
    for dialect in (None, "dsir"):
        for texts in (["a", None], ["a", 5], ["a", ["b"]], ["a", np.zeros(3)]):
            with pytest.raises(UserError, match="document 1 is no text but"):
                ngram_counts(texts, dialect=dialect)
        with pytest.raises(TypeError, match="list of documents"):
            ngram_counts("one string", dialect=dialect)
        same = ngram_counts(["Ab c"], 50, dialect)
        raw: Any
        for raw in (b"Ab c", bytearray(b"Ab c"), memoryview(b"Ab c")):
            np.testing.assert_array_equal(ngram_counts([raw], 50, dialect), same)


def test_bytes_that_are_no_utf8():
    latin, surrogate = "café au lait".encode("latin-1"), "caf\udce9 au lait"
    assert ngram_counts([latin]).sum() > 0 and ngram_counts([surrogate]).sum() > 0
    model = Importance.fit(["a b"], ["c d"], 50, "dsir")
    for broken in (latin, surrogate):
        texts = ["fine", broken]
        for call in (
            functools.partial(ngram_counts, texts, dialect="dsir"),
            functools.partial(Importance.fit, ["fine"], texts, dialect="dsir"),
            functools.partial(model.score, texts),
        ):
            with pytest.raises(UserError, match=r"document 1 is no UTF-8 text .*errors='replace'"):
                call()
    fixed = latin.decode(errors="replace")
    assert ngram_counts([fixed], dialect="dsir").sum() == total(fixed)
