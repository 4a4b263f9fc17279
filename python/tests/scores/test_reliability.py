"""Reliability against simulated runs whose truth is known, and the statistics against independent code."""

import itertools

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from dither.errors import UserError
from dither.scores import (
    architecture_bias,
    auc,
    fingerprints,
    noise_curve,
    rank,
    rank_pca,
    reliability,
    score_correlations,
    spearman_brown,
)
from dither.scores.architectures import benjamini_hochberg
from dither.scores.reliability import variance_components


def runs(count: int, n: int, noise: float, seed: int = 0, truth: np.ndarray | None = None) -> np.ndarray:
    rng = np.random.default_rng([seed, count, n])
    truth = np.random.default_rng(42).standard_normal(n) if truth is None else truth
    return truth + noise * rng.standard_normal((count, n))


def test_split_half_is_what_spearman_brown_predicts_for_continuous_scores():
    """n = 4000: the standard error of a Spearman correlation is at most .016."""
    found = reliability(runs(20, 4000, 0.7))
    assert abs(found.half - found.predicted) < 0.02
    pearson = 1 / (1 + 0.49)
    assert abs(found.r1 - 6 / np.pi * np.arcsin(pearson / 2)) < 0.02
    assert found.half_runs == 10 and found.tied == 0
    assert found.needed == int(np.ceil(19 * (1 - found.r1) / found.r1))
    assert spearman_brown(found.r1, found.needed) >= 0.95 > spearman_brown(found.r1, found.needed - 1)


def test_the_prediction_is_too_high_for_ties_and_says_so():
    found = reliability((runs(20, 4000, 0.7) > 1).astype(float))
    assert found.predicted > found.half + 0.02 and found.tied == 1 and "ties" in str(found)


def test_runs_that_are_needed():
    assert reliability(runs(4, 500, 1e-3)).needed == 1
    low, high = (reliability(runs(6, 2000, 0.7), target=t) for t in (0.5, 0.9))
    assert low.needed == 1 < high.needed == int(np.ceil(9 * (1 - high.r1) / high.r1))
    against = np.stack([np.arange(9.0), -np.arange(9.0)])
    assert reliability(against).needed == -1 and "no number of runs" in str(reliability(against))
    for target in (0.0, 1.0, np.nan):
        with pytest.raises(UserError, match="between 0 and 1"):
            reliability(runs(4, 50, 1.0), target=target)
    for r1, count in ((0.5, 0), (0.5, -1), (1.1, 2), (-1.1, 2)):
        with pytest.raises(UserError, match="is a correlation"):
            spearman_brown(r1, count)
    assert spearman_brown(1.0, 3) == 1 and spearman_brown(1 + 1e-12, 1) == pytest.approx(1)


def test_variance_components_are_unbiased():
    """40 simulations of truth variance 1 and noise variance .49: means within 4 standard errors."""
    pairs = [
        variance_components(runs(5, 300, 0.7, seed, np.random.default_rng(seed).standard_normal(300)))
        for seed in range(40)
    ]
    for values, truth in zip(np.array(pairs).T, (1.0, 0.49), strict=True):
        assert abs(values.mean() - truth) < 4 * values.std(ddof=1) / np.sqrt(40)


def test_correlations_use_independent_runs():
    """Two scores with the same noise in a run: correlating within runs would give 1."""
    shared = runs(10, 3000, 2.0)
    names, matrix = score_correlations({"a": shared, "b": 3 * shared + 1})
    assert names == ("a", "b")
    np.testing.assert_allclose(matrix[0, 1], matrix[0, 0], atol=1e-9)
    assert matrix[0, 1] < 0.7


def test_one_factor_is_found():
    base = np.random.default_rng(1).standard_normal(2000)
    rng = np.random.default_rng(2)
    scores = {f"s{i}": np.exp(base + 0.3 * rng.standard_normal(2000)) for i in range(5)}
    found = rank_pca(scores)
    assert found.shares[0] > 0.85 and abs(found.shares.sum() - 1) < 1e-12
    np.testing.assert_allclose(found.loadings @ found.loadings.T, np.eye(5), atol=1e-9)
    assert (found.loadings[0] > 0).all()
    with pytest.raises(UserError, match="same for all"):
        rank_pca({**scores, "c": np.ones(2000)})


def test_bias_is_found_and_not_invented():
    a, b = runs(8, 400, 0.5, 1), runs(8, 400, 0.5, 2)
    none = architecture_bias(a, b)
    assert none.significant.mean() < 0.02
    b[:, :20] += 6
    found = architecture_bias(a, b)
    assert found.significant[:20].all() and (found.difference[:20] < 0).all()
    assert found.significant[20:].mean() < 0.05
    p = architecture_bias(a[:4], b[:4]).p
    np.testing.assert_allclose(p[0], 2 / 70)


def test_permutation_p_is_scipys():
    a, b = runs(5, 12, 1.0, 3), runs(4, 12, 1.0, 4)
    x, y = rank(a), rank(b)
    for i in range(12):
        expected = scipy.stats.permutation_test(
            (x[:, i], y[:, i]),
            lambda u, v: abs(u.mean() - v.mean()),
            alternative="greater",
            n_resamples=10**6,
        ).pvalue
        np.testing.assert_allclose(architecture_bias(a, b).p[i], expected)
    p = np.random.default_rng(0).random(500) ** 3
    np.testing.assert_array_equal(benjamini_hochberg(p, 0.1), scipy.stats.false_discovery_control(p) <= 0.1)


def splits_counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Exact p-values by whole numbers, a split at a time."""
    doubled = (2 * np.concatenate([rank(a), rank(b)])).astype(np.int64)
    whole, size = doubled.sum(axis=0), len(a)

    def apart(group) -> np.ndarray:
        return np.abs(len(doubled) * doubled[list(group)].sum(axis=0) - size * whole)

    found = [apart(g) >= apart(range(size)) for g in itertools.combinations(range(len(doubled)), size)]
    return np.mean(found, axis=0)


@pytest.mark.parametrize("sizes", [(3, 3), (5, 5), (3, 2), (2, 5)])
def test_exact_p_are_exact_for_many_examples(sizes):
    """Means of ranks of 1e5 round: ties of splits, even of a split with itself, were lost, and p was 0."""
    rng = np.random.default_rng(0)
    base = rng.permutation(30_000).astype(float)
    a, b = (base + rng.normal(0, 1.5, (size, len(base))) for size in sizes)
    found = architecture_bias(a, b)
    np.testing.assert_allclose(found.p, splits_counted(a, b), rtol=1e-12)
    least = (2 if sizes[0] == sizes[1] else 1) / found.permutations
    assert found.p.min() >= least * (1 - 1e-12)


def test_sampled_p_count_ties():
    """Runs that all agree: every split is as extreme as the one observed."""
    base = np.random.default_rng(0).permutation(5000).astype(float)
    found = architecture_bias(np.tile(base, (9, 1)), np.tile(base, (8, 1)), permutations=100)
    assert found.permutations == 100 and (found.p == 1).all()
    assert architecture_bias(np.ones((2, 0)), np.ones((3, 0))).p.shape == (0,)


def test_fingerprints_tell_groups_apart_only_where_they_differ():
    a, b = runs(20, 300, 0.5, 1), runs(20, 300, 0.5, 2)
    same = fingerprints(a, b)
    # 200 classifications: chance .5 with a standard error of .035.
    assert all(abs(accuracy - 0.5) < 0.15 for accuracy in same.accuracy) and same.chance == 0.5
    b[:, 5] += 5
    assert fingerprints(a, b).accuracy[0] > 0.95
    with pytest.raises(UserError, match="at least 4"):
        fingerprints(a[:3], b)
    # 12 against 4 runs that differ in nothing: one half too, by 40 means of 10 splits of 8 (deviation .02).
    rng = np.random.default_rng(0)
    none = [
        fingerprints(rng.standard_normal((12, 50)), rng.standard_normal((4, 50)), (8,), seed=seed)
        for seed in range(40)
    ]
    assert abs(np.mean([f.accuracy for f in none]) - 0.5) < 0.06 and none[0].chance == 0.5
    # Nothing to choose by: every run lies between the groups.
    assert fingerprints(np.ones((5, 9)), np.ones((5, 9)), (1, 3)).accuracy == (0.5, 0.5)


def test_fingerprints_look_at_the_noise_of_either_group():
    """One example of 400 is steady, its ranks 80 apart (sd 10); others are 82 apart by chance (sd 115)."""
    rng = np.random.default_rng(8)
    a, b = rng.random((2, 12, 400))
    a[:, 7], b[:, 7] = 0.6, 0.4
    assert fingerprints(a, b, counts=(1,)).accuracy[0] > 0.97


def test_drawn_splits_count_the_observed_one():
    a, b = runs(12, 30, 1.0, 5), runs(12, 30, 1.0, 6)
    b[:, 3] += 100
    found = architecture_bias(a, b, permutations=99)
    assert found.permutations == 99 and found.p.min() == found.p[3] == 0.01
    assert np.allclose(found.p * 100, np.round(found.p * 100))


def test_auc_is_scikits_and_more_runs_find_more_noise():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 500).astype(float), rng.random(500) < 0.2
    np.testing.assert_allclose(auc(scores, positive), roc_auc_score(positive, scores))
    planted = rng.random(1000) < 0.1
    values = runs(10, 1000, 3.0, truth=planted * 2.0)
    curve = noise_curve(values, planted)
    assert curve[0] < 0.75 < 0.9 < curve[-1]
    # One run: all of them, not the first by name; and all runs at once, whatever their order.
    single = [roc_auc_score(planted, row) for row in values]
    np.testing.assert_allclose(curve[0], np.mean(single))
    np.testing.assert_allclose(noise_curve(values[::-1], planted)[[0, -1]], curve[[0, -1]])
    np.testing.assert_allclose(curve[-1], roc_auc_score(planted, rank(values).mean(axis=0)))
    assert noise_curve(values[:1], planted) == pytest.approx([single[0]])
    assert len(noise_curve(runs(13, 1000, 3.0, truth=planted * 2.0), planted)) == 13
    with pytest.raises(UserError, match="positive and negative"):
        auc(scores, np.zeros(500, bool))


def test_refusals():
    with pytest.raises(UserError, match="at least 2 runs"):
        reliability(np.ones((1, 5)))
    with pytest.raises(UserError, match="never visited"):
        reliability(np.full((2, 5), np.nan))
    with pytest.raises(UserError, match="different shapes"):
        score_correlations({"a": np.ones((2, 3)), "b": np.ones((2, 4))})
    x = runs(8, 40, 0.5)
    calls = {
        "are numbers": lambda: reliability([["a", "b"], ["c", "d"]]),
        "splits=0": lambda: reliability(x, splits=0),
        "no score": lambda: score_correlations({}),
        "of one length": lambda: rank_pca({"a": x[0], "b": x[1, :3]}),
        "at least one": lambda: rank_pca({}),
        "rate=2": lambda: architecture_bias(x[:4], x[4:], rate=2),
        "permutations=0": lambda: architecture_bias(x[:4], x[4:], permutations=0),
        r"not \(0,\)": lambda: fingerprints(x[:4], x[4:], (0,)),
        r"not \(\)": lambda: fingerprints(x[:4], x[4:], ()),
        r"not \(41,\)": lambda: fingerprints(x[:4], x[4:], (41,)),
        "at least two elements": lambda: reliability(x[:, :0]),
    }
    for said, call in calls.items():
        with pytest.raises(UserError, match=said):
            call()


def test_runs_that_do_not_agree_are_said_to():
    """Not to need -1 runs, and no signal over no noise is no ratio."""
    x = runs(4, 30, 0.5)
    against = np.stack([x[0], -x[0]])
    assert reliability(against).needed == -1 and "no number of runs reaches 0.95" in str(reliability(against))
    constant = reliability(np.ones((4, 30)))
    assert np.isnan([constant.r1, constant.half, constant.snr]).all()
    assert reliability(np.stack([x[0], x[0]])).snr == np.inf
