"""Selection policies keep what they say, without replacement, with the stated probabilities."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dither.errors import UserError
from dither.scores import rank, selection

BY_KEEP = ("top", "bottom", "window", "softmax", "linear", "coverage")
SCORES = np.random.default_rng(0).permutation(100).astype(float)


def test_quantiles():
    np.testing.assert_array_equal(np.sort(SCORES[selection.top(SCORES, 0.3)]), np.arange(70, 100))
    np.testing.assert_array_equal(np.sort(SCORES[selection.bottom(SCORES, 30)]), np.arange(30))
    np.testing.assert_array_equal(np.sort(SCORES[selection.band(SCORES, 0.2, 0.6)]), np.arange(20, 60))
    np.testing.assert_array_equal(np.sort(SCORES[selection.window(SCORES, 0.3, 0.05)]), np.arange(65, 95))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60),
    st.floats(0, 1),
    st.sampled_from(BY_KEEP),
)
def test_every_policy_keeps_the_number_asked_for(scores, keep, policy):
    more = {"drop_hardest": min(0.1, 1 - keep)} if policy in ("window", "coverage") else {}
    kept = selection.POLICIES[policy](scores, keep, **more)
    assert len(kept) == round(keep * len(scores)) == len(set(kept.tolist()))
    assert (np.diff(kept) > 0).all() and (kept >= 0).all() and (kept < len(scores)).all()


def test_ends_of_what_is_allowed():
    s = np.arange(10.0)
    assert selection.band(s, 0, 0.5).tolist() == [0, 1, 2, 3, 4] and len(selection.band(s, 0.5, 1)) == 5
    assert len(selection.band(s, 0, 1)) == 10 and len(selection.band(s, 0.3, 0.3)) == 0
    assert len(selection.coverage(s, 4, strata=1)) == 4
    assert len(selection.repetition_aware(s, 20, [-0.1], 5.0, scale=1)) == 10  # one stratum: all


def test_class_floor():
    labels = np.repeat([0, 1], [90, 10])
    scores = np.concatenate([np.arange(90) + 100, np.arange(10)])
    kept = selection.with_class_floor(scores, labels, 0.4, floor=0.5)
    assert len(kept) == 40 and (labels[kept] == 1).sum() == 2
    assert (labels[selection.with_class_floor(scores, labels, 0.4, floor=0.0)] == 0).all()
    assert set(kept[labels[kept] == 1]) == {98, 99}


@pytest.mark.parametrize("counts", [(50, 50), (1, 1, 98), (3, 3, 3), (1,) * 40, (7, 90, 3)])
@pytest.mark.parametrize("floor", [0.0, 0.07, 0.29, 0.58, 1.0])
def test_every_class_has_its_floor_where_that_many_are_kept(counts, floor):
    """.58 of a share of 50 kept 28: 28.999999999999996, cut."""
    n = sum(counts)
    labels, scores = np.repeat(np.arange(len(counts)), counts), np.arange(float(n))
    for k in range(n + 1):
        kept = selection.with_class_floor(scores, labels, k, floor)
        found = np.bincount(labels[kept], minlength=len(counts))
        due = [Fraction(str(floor)) * k * c / n for c in counts]
        assert len(kept) == k
        assert all(f >= math.floor(d) for f, d in zip(found, due, strict=True))
        if sum(map(math.ceil, due)) <= k:
            assert all(f >= d for f, d in zip(found, due, strict=True))


@pytest.mark.parametrize("policy", ["window", "coverage"])
def test_fewer_of_the_hardest_are_never_cut_than_asked(policy):
    choose = selection.POLICIES[policy]
    with pytest.raises(UserError, match=r"keeping 95 of 100 examples leaves 5 to cut off, .*0.2 asks for 20"):
        choose(SCORES, 0.95, drop_hardest=0.2)
    assert len(choose(SCORES, 0.8, drop_hardest=0.2)) == 80
    for n in range(1, 200):  # shares that sum to one fit, however they round
        for drop in (0.01, 0.1, 0.25):
            assert len(choose(np.arange(float(n)), 1 - drop, drop_hardest=drop)) == round((1 - drop) * n)


def test_equal_scores_are_not_chosen_by_position():
    """Sorted by class, half of the examples never forgotten: 500 of 5 classes of 200, each 100 +- 9."""
    labels, scores = np.repeat(np.arange(5), 200), np.zeros(1000)
    for kept in (
        selection.bottom(scores, 500),
        selection.top(scores, 500),
        selection.band(scores, 0.1, 0.6),
        selection.window(scores, 500),
    ):
        assert (np.abs(np.bincount(labels[kept], minlength=5) - 100) < 45).all()
    np.testing.assert_array_equal(selection.bottom(scores, 500), selection.bottom(scores, 500))
    assert set(selection.bottom(scores, 300)) < set(selection.bottom(scores, 500))


def test_coverage_takes_from_every_stratum():
    scores = np.concatenate([np.zeros(900), np.linspace(0.5, 1, 100)])
    kept = selection.coverage(scores, 100, drop_hardest=0.0, strata=10)
    counts = np.histogram(scores[kept], bins=np.linspace(0, 1, 11))[0]
    assert (counts[5:] >= 15).all() and counts.sum() == 100
    hardest = np.argsort(scores)[-50:]
    assert not set(hardest) & set(selection.coverage(scores, 100, drop_hardest=0.05, strata=10))


def test_weights_are_the_probabilities():
    """One of three with weights 1 : 2 : 5, 4000 draws; counts within 4 sigma."""
    weights = np.array([1.0, 2.0, 5.0])
    draws = np.bincount(
        [selection.gumbel_top_k(np.log(weights), 1, seed)[0] for seed in range(4000)], minlength=3
    )
    expected = 4000 * weights / 8
    assert (np.abs(draws - expected) < 4 * np.sqrt(expected)).all()
    np.testing.assert_array_equal(selection.random(50, 0.5, 3), selection.random(50, 0.5, 3))
    assert (selection.random(50, 0.5, 3) != selection.random(50, 0.5, 4)).any()
    np.testing.assert_array_equal(selection.gumbel_top_k([0.0, -np.inf, 0.0], 2), [0, 2])
    with pytest.raises(UserError, match="only 1"):
        selection.gumbel_top_k([0.0, -np.inf], 2)


def test_plenty_decides_and_repeats_fade():
    np.testing.assert_array_equal(selection.budget_aware(SCORES, 10, 50.0), selection.top(SCORES, 10))
    np.testing.assert_array_equal(selection.budget_aware(SCORES, 10, 0.1), selection.bottom(SCORES, 10))
    np.testing.assert_allclose(
        selection.repetition_value(-0.2, 2, 5), -0.2 * 0.5 ** np.array([0, 0.5, 1, 1.5, 2])
    )


def test_refusals():
    with pytest.raises(UserError, match="NaN"):
        selection.top([1.0, np.nan], 1)
    keeps: list[Any] = [1.5, -1, 101, True, np.nan, np.inf, "a", None]
    for keep in keeps:
        with pytest.raises(UserError, match="share"):
            selection.top(SCORES, keep)
    seeds: list[Any] = [-1, 0.5, True]
    for seed in seeds:
        with pytest.raises(UserError, match="not negative"):
            selection.random(9, 3, seed=seed)
        with pytest.raises(UserError, match="not negative"):
            selection.coverage(SCORES, 3, seed=seed)
    with pytest.raises(UserError, match="quantiles"):
        selection.band(SCORES, 0.6, 0.2)


@pytest.mark.parametrize("policy", ["softmax", "linear", "coverage"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, 1e300])
def test_policies_that_need_a_range_refuse_infinite_scores(policy, bad):
    """As forgetting of what was never learned has them: their weights would be NaN, their strata one."""
    scores = np.append(np.arange(20.0), bad)
    with pytest.raises(UserError, match="1 scores are infinite"):
        selection.POLICIES[policy](scores, 5)
    assert len(selection.POLICIES[policy](rank(scores), 5)) == 5
    assert (20 in selection.top(scores, 1)) == (bad > 0)


def test_numpys_numbers_are_shares_and_counts():
    half, five = (x[0] for x in (np.array([0.5], np.float32), np.array([5])))
    assert len(selection.top(SCORES, half)) == len(selection.top(SCORES, 0.5))
    assert len(selection.top(SCORES, five)) == 5
    with pytest.raises(UserError, match="beyond all"):
        selection.gumbel_top_k([0.0, np.inf], 1)


def test_repetition_keeps_more_strata_the_more_is_seen():
    scores, utilities = np.arange(1000.0), (-0.30, -0.28, -0.25, -0.20)
    kept = [len(selection.repetition_aware(scores, n, utilities, 1.5, 100)) for n in (200, 3000, 100_000)]
    assert kept[0] == 250 and kept == sorted(kept) and kept[-1] > kept[0]
    # Two epochs and a half of one stratum, by hand: b log(n1) + b/2 log(n2/n1) + b/4 log(n3/n2) at tau = 1.
    by_hand = -0.3 * (np.log(2.5) + np.log(2) / 2 + np.log(1.25) / 4)
    assert selection._log_error(-0.3, 1.0, 250, 625, 100) == pytest.approx(by_hand, rel=1e-12)
    np.testing.assert_array_equal(
        selection.repetition_aware(scores, 200, utilities, 1.5, 100), np.arange(250)
    )
    # Below one unit the law turns over: the most useful stratum would predict the most error.
    for seen, scale in ((3000, 251), (90, 100), (3000, 1e5)):
        with pytest.raises(UserError, match=r"is less than scale=.* at most (250|90)$"):
            selection.repetition_aware(scores, seen, utilities, 1.5, scale)
    assert len(selection.repetition_aware(scores, 3000, utilities, 1.5, 250)) >= 250
    for wrong in ((0, utilities, 1.0), (10, (0.1,), 1.0), (10, utilities, 0.0), (10, (), 1.0)):
        with pytest.raises(UserError):
            selection.repetition_aware(scores, *wrong)
