"""Scores of logits against their formulas in fp64, at every width, dtype and layout."""

import itertools
import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_reference import reference

import dither
from dither.errors import UserError
from dither.scores import SCORES, logit_scores, sequence_scores
from dither.scores.borrowed import borrow
from dither.scores.pointwise import LABEL_FREE, NAMES

WIDTHS = (1, 2, 3, 4, 5, 7, 8, 10, 16, 33, 64, 100, 255, 256, 257, 1000, 1023, 1024, 1025, 2049)
SMALL = 3e-5
"""Scores are right to a relative 1e-6 down to here."""


def logits(n: int, classes: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n, classes])
    z = (rng.standard_normal((n, classes)) * scale).astype(np.float32)
    y = rng.integers(0, classes, n)
    y[::2] = z[::2].argmax(axis=1)
    return z, y


def assert_close(found: dict, expected: dict, names=NAMES) -> None:
    for name in names:
        a, b = found[name], expected[name]
        # A logit margin is one subtraction; a probability's difference is right to fp32 of its parts.
        absolute = {"margin": 0.0, "correct": 0.0}.get(name, 3e-7 if "margin" in name else 1e-6 * SMALL)
        finite = np.isfinite(b)
        np.testing.assert_array_equal(a[~finite], b[~finite], err_msg=name)
        np.testing.assert_allclose(a[finite], b[finite], rtol=1e-6, atol=absolute, err_msg=name)


@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_formulas(classes, scale):
    z, y = logits(37, classes, scale)
    assert_close(logit_scores(z, y, NAMES), reference(z, y))


@pytest.mark.parametrize("classes", [2, 10, 300])
def test_small_scores_keep_their_digits(classes):
    """One class far above the others: EL2N, loss and entropy down to 1e-12, where 1 - p is nothing in
    fp32."""
    gaps = np.linspace(0, 28, 57)
    z = np.zeros((len(gaps), classes), np.float32)
    # Differences that fp32 holds exactly, so that the formula is all that is tested.
    z[:, 1] = np.round(gaps * 64) / 64
    y = np.ones(len(gaps), np.int64)
    found, expected = logit_scores(z, y, NAMES), reference(z, y)
    for name in ("loss", "entropy", "el2n"):
        np.testing.assert_allclose(found[name], expected[name], rtol=5e-7, atol=0, err_msg=name)
    assert expected["el2n"].min() < 1e-8 * classes


def test_textbook_el2n_would_fail_this():
    """The form sqrt(sum p^2 - 2 p_y + 1) in fp32 is noise where ours is right: the test above can fail."""
    z = np.array([[11.0, 0.0]], np.float32)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    textbook = math.sqrt(max(float(np.float32((p**2).sum()) - 2 * p[0, 0] + np.float32(1)), 0.0))
    right = logit_scores(z, np.array([0]), ["el2n"])["el2n"][0]
    assert abs(textbook / right - 1) > 0.01


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("classes", [10, 700])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_dtypes_are_read_exactly(dtype, classes, library):
    z, y = logits(50, classes, 3.0)
    narrow = z.astype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    given = torch.from_numpy(z).to(getattr(torch, dtype)) if library == "torch" else narrow
    found = logit_scores(given, torch.from_numpy(y) if library == "torch" else y, NAMES)
    again = logit_scores(narrow.astype(np.float32), y, NAMES)
    for name in NAMES:
        np.testing.assert_array_equal(found[name], again[name], err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_logits_are_not_copied(dtype):
    wide = torch.zeros(9, 12).to(getattr(torch, dtype)).requires_grad_(True)
    plain = np.zeros((9, 12), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for x, address in ((wide, wide.data_ptr()), (plain, plain.ctypes.data)):
        for part in (x, x[:, :7], x[2:, :7]):  # rows may lie apart
            start = 2 * 12 * plain.itemsize if len(part) == 7 else 0
            assert borrow(part, 2, "logits").ptr == address + start
            assert borrow(part, 2, "logits").stride == 12


def test_all_of_fp16_is_read():
    """Every finite fp16 as the logit of a class against 0."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    z = np.stack([bits[np.isfinite(bits)], np.zeros(int(np.isfinite(bits).sum()), np.float16)], axis=1)
    found = logit_scores(z, np.zeros(len(z), int), ["margin"])["margin"]
    np.testing.assert_array_equal(found, z[:, 0].astype(np.float64))


def test_layouts_threads_and_batches_give_the_same_bits():
    for classes in (10, 300):
        z, y = logits(2000, classes, 2.0)
        whole = logit_scores(z, y, NAMES)
        wide = np.zeros((2000, classes + 5), np.float32)
        wide[:, :classes] = z
        pieces = [logit_scores(z[i : i + 7], y[i : i + 7], NAMES) for i in range(0, 2000, 7)]
        dither.set_num_threads(3)
        try:
            threaded = logit_scores(z, y, NAMES)
        finally:
            dither.set_num_threads(None)
        for name in NAMES:
            np.testing.assert_array_equal(logit_scores(wide[:, :classes], y, NAMES)[name], whole[name])
            np.testing.assert_array_equal(logit_scores(np.asfortranarray(z), y, NAMES)[name], whole[name])
            np.testing.assert_array_equal(np.concatenate([p[name] for p in pieces]), whole[name])
            np.testing.assert_array_equal(threaded[name], whole[name])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=12),
    st.integers(0, 11),
    st.sampled_from([-64.0, -8.0, 8.0, 64.0]),
)
def test_invariances(row, label, shift):
    z = np.array([row], np.float32)
    y = np.array([label % len(row)])
    base = logit_scores(z, y, NAMES)
    shifted = z + np.float32(shift)
    if np.array_equal(shifted - np.float32(shift), z) and np.array_equal(
        shifted.astype(np.float64) - shift, z.astype(np.float64)
    ):
        for name in NAMES:
            np.testing.assert_array_equal(logit_scores(shifted, y, NAMES)[name], base[name], err_msg=name)
    others = np.delete(np.arange(len(row)), y[0])
    order = np.arange(len(row))
    order[others] = others[::-1]
    permuted = logit_scores(z[:, order], y, NAMES)
    for name in ("loss", "confidence", "margin", "el2n", "entropy"):
        np.testing.assert_allclose(permuted[name], base[name], rtol=1e-6, atol=1e-12, err_msg=name)
    assert 0 <= base["el2n"][0] <= math.sqrt(2) * (1 + 1e-6) and 0 <= base["confidence"][0] <= 1
    assert -1e-12 <= base["entropy"][0] <= math.log(len(row)) * (1 + 1e-6)


def test_ties_and_masked_classes():
    inf = math.inf
    z = np.array([[2, 2, -inf, 1], [-inf, 5, -inf, -inf], [0, 0, 0, 0], [3, -inf, 3, 3]], np.float32)
    for y in itertools.product(range(4), repeat=4):
        labels = np.array(y)
        found = logit_scores(z, labels, NAMES)
        reachable = np.isfinite(z[np.arange(4), labels])
        expected = reference(np.where(np.isfinite(z), z, -1e4), labels)
        for name in ("confidence", "entropy", "el2n", "correct", "probability_margin"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-12, err_msg=name)
        assert (found["loss"][~reachable] == inf).all() and (found["margin"][~reachable] == -inf).all()


@pytest.mark.parametrize("places", [(5, 1900), (1023, 1024), (0, 2999), (70, 71), (2990, 2995)])
def test_long_rows_with_ties_between_their_pieces(places):
    """Rows are worked on in pieces of 1024 logits; the greatest may come late, twice, or after nothing."""
    rng = np.random.default_rng(places[0])
    z = rng.standard_normal((6, 3000)).astype(np.float32)
    z[:3, places[0]] = z[:3, places[1]] = 9.0
    z[1, :1024] = -math.inf
    z[1, places[1]] = 9.0
    z[3] = np.sort(z[3])
    z[4] = -z[3]
    labels = np.array([places[0], places[1], places[1], 2999, 0, 7])
    expected = reference(np.where(np.isfinite(z), z, -1e4), labels)
    assert_close(logit_scores(z, labels, NAMES), expected)


def test_nan_is_found_wherever_it_stands():
    z, y = logits(2, 2100, 1.0)
    for place in (0, 31, 32, 1000, 1023, 1024, 2047, 2048, 2099):
        for before in (0, 1024):
            row = z.copy()
            row[1, :before] = -math.inf
            row[1, place] = math.nan
            found = logit_scores(row, y, NAMES, nan="propagate")
            for name in NAMES:
                assert np.isnan(found[name][1]) and np.isfinite(found[name][0]), (name, place)


@pytest.mark.parametrize("classes", [3, 500])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_without_probabilities(classes, bad):
    z, y = logits(40, classes, 1.0)
    z[17, classes // 2] = bad
    with pytest.raises(UserError, match="row 17"):
        logit_scores(z, y)
    found = logit_scores(z, y, NAMES, nan="propagate")
    for name in NAMES:
        assert np.isnan(found[name][17]) and np.isfinite(np.delete(found[name], 17)).all(), name
    z[17] = -math.inf
    assert np.isnan(logit_scores(z, y, nan="propagate")["entropy"][17])


def test_unlabelled_rows():
    z, y = logits(20, 5, 1.0)
    y[3] = -100
    with pytest.raises(UserError, match="label -100 of row 3"):
        logit_scores(z, y)
    found = logit_scores(z, y, NAMES, ignore_index=-100)
    for name in NAMES:
        assert np.isnan(found[name][3]) == (name not in LABEL_FREE), name
    free = logit_scores(z)
    assert set(free) == set(LABEL_FREE)
    np.testing.assert_array_equal(free["entropy"], found["entropy"])


def test_refusals():
    z, y = logits(6, 4, 1.0)
    with pytest.raises(UserError, match="label 4 of row 2 lies outside the 4 classes"):
        logit_scores(z, np.array([0, 1, 4, 0, 0, 0]))
    with pytest.raises(UserError, match="6 are needed"):
        logit_scores(z, y[:5])
    with pytest.raises(UserError, match="did you mean 'el2n'"):
        logit_scores(z, y, ["el2m"])
    with pytest.raises(UserError, match="needs labels"):
        logit_scores(z, scores=["loss"])
    with pytest.raises(UserError, match="2 axes"):
        logit_scores(z[0], y)
    with pytest.raises(UserError, match="no classes"):
        logit_scores(np.empty((3, 0), np.float32), np.zeros(3, int))
    with pytest.raises(TypeError):
        logit_scores(z, y.astype(float))
    with pytest.raises(TypeError):
        logit_scores(np.array([["a", "b"]]), [0])
    with pytest.raises(UserError, match="float64 array of 6"):
        logit_scores(z, y, ["loss"], out={"loss": np.empty((6, 1))})


def test_out_and_empty():
    z, y = logits(6, 4, 1.0)
    out = np.empty(6)
    assert logit_scores(z, y, ["loss"], out={"loss": out})["loss"] is out
    np.testing.assert_array_equal(out, logit_scores(z, y)["loss"])
    empty = logit_scores(np.empty((0, 4), np.float32), np.empty(0, int))
    assert all(v.shape == (0,) for v in empty.values())
    assert all(name in SCORES for name in NAMES)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_sequences_are_means_over_the_tokens_that_count(kind):
    rng = np.random.default_rng(5)
    z = rng.standard_normal((4, 6, 300)).astype(np.float32)
    y = rng.integers(0, 300, (4, 6))
    y[0, 4:] = -100
    y[3] = -100
    mask = np.ones((4, 6), bool)
    mask[1, 0] = False
    found = sequence_scores(kind(z), kind(y), mask=kind(mask))
    np.testing.assert_array_equal(found["tokens"], [4, 5, 6, 0])
    for i, used in enumerate([slice(0, 4), slice(1, 6), slice(0, 6)]):
        rows = reference(z[i, used], y[i, used])
        for name in ("loss", "entropy", "el2n"):
            np.testing.assert_allclose(found[name][i], rows[name].mean(), rtol=1e-6)
        np.testing.assert_allclose(found["perplexity"][i], math.exp(rows["loss"].mean()), rtol=2e-6)
    assert np.isnan(found["loss"][3]) and np.isnan(found["perplexity"][3])
    with pytest.raises(UserError, match="mask has the shape"):
        sequence_scores(z, y, mask=mask[:2])


def test_one_name_is_one_score():
    z, y = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32), np.zeros((2, 3), int)
    assert set(sequence_scores(z, y, "loss")) == {"loss", "tokens"}
    assert set(logit_scores(z[0], y[0], "loss")) == {"loss"}


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_errors_name_the_token(library):
    """Tokens that do not count shifted the rows that errors named."""
    z, labels = np.zeros((3, 50, 7), np.float32), np.zeros((3, 50), np.int64)
    mask = np.ones((3, 50), bool)
    labels[0, :10], mask[:, -1] = -100, False
    given = (lambda x: torch.from_numpy(x.copy())) if library == "torch" else np.copy
    wrong = labels.copy()
    wrong[1, 3] = 99
    with pytest.raises(UserError, match="label 99 of token 3 of sequence 1 lies outside the 7 classes"):
        sequence_scores(given(z), given(wrong), mask=given(mask))
    with pytest.raises(UserError, match="label -1 of token 49 of sequence 2"):
        sequence_scores(given(z), given(np.where(np.arange(150).reshape(3, 50) == 149, -1, labels)))
    z[2, 7, 1], z[1, 49, 0] = np.nan, np.nan  # the second does not count
    with pytest.raises(UserError, match="token 7 of sequence 2 of the logits has NaN"):
        sequence_scores(given(z), given(labels), mask=given(mask))
    found = sequence_scores(given(z), given(labels), mask=given(mask), nan="propagate")
    assert np.isfinite(found["loss"]).tolist() == [True, True, False]


def test_tokens_that_do_not_count_do_not_double_the_memory(monkeypatch):
    z = np.random.default_rng(0).standard_normal((8, 64, 4000), dtype=np.float32)
    labels, mask = np.random.default_rng(1).integers(0, 4000, (8, 64)), np.ones((8, 64), bool)
    mask[:, -1] = mask[3] = False
    whole = sequence_scores(z, labels, mask=mask)
    monkeypatch.setattr("dither.scores.pointwise.AT_ONCE", 1 << 16)
    tracemalloc.start()
    pieces = sequence_scores(z, labels, mask=mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (4 << 16) + 200_000 < z.nbytes / 10
    for name, values in whole.items():
        np.testing.assert_array_equal(pieces[name], values)
    assert whole["tokens"].tolist() == [63, 63, 63, 0, 63, 63, 63, 63] and np.isnan(whole["loss"][3])


@pytest.mark.parametrize("classes", [2, 3, 16, 17, 64, 80, 100, 200, 255, 256, 257, 300])
def test_sums_over_any_number_of_classes_keep_their_digits(classes):
    """Equal wrong classes are rounded one way: EL2N was 3.8e-6 off at 256, where 1e-6 is promised."""
    gaps = np.linspace(0, 11, 3000).astype(np.float32)
    equal, rng = np.zeros((len(gaps), classes), np.float32), np.random.default_rng(classes)
    equal[:, 0] = gaps
    noise = rng.standard_normal(equal.shape).astype(np.float32)
    noise[:, 0] += gaps
    for z in (equal, noise):
        found = logit_scores(z, np.zeros(len(z), int), ["el2n", "loss", "entropy"])
        top = z.astype(np.float64).max(axis=1, keepdims=True)
        gap = top - z
        e = np.exp(-gap)
        others = np.where(np.arange(classes) == z.argmax(axis=1)[:, None], 0, e)
        wrong, total = e[:, 1:], 1 + others.sum(axis=1)
        expected = {
            "el2n": np.sqrt((wrong**2).sum(axis=1) + wrong.sum(axis=1) ** 2) / total,
            "loss": np.log1p(others.sum(axis=1)) + gap[:, 0],
            "entropy": np.log1p(others.sum(axis=1)) + (others * gap).sum(axis=1) / total,
        }
        for name, values in expected.items():
            kept = values > 3e-5
            assert kept.sum() > 2000
            assert np.abs(found[name] / values - 1)[kept].max() < 1e-6, name
