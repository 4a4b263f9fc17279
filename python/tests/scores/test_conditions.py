"""Effects of conditions on rankings that are known by construction."""

import numpy as np
import pytest

from dither.errors import UserError
from dither.scores import class_share, condition_effect, spearman

RNG = np.random.default_rng(2)
TRUTH = RNG.standard_normal(3000)


def runs(truth: np.ndarray, noise: float, n: int = 6) -> np.ndarray:
    return truth + noise * RNG.standard_normal((n, len(truth)))


def test_noise_alone_is_corrected_away_and_another_ranking_is_not():
    """Correlations of 3,000 examples over 30 pairs are right to about 0.01."""
    alike = condition_effect(runs(TRUTH, 0.5), runs(TRUTH, 2.0))
    assert alike.between < 0.5 and abs(alike.corrected - 1) < 0.04
    assert alike.within[0] > 0.75 > 0.25 > alike.within[1] > 0.1
    half = (TRUTH + RNG.standard_normal(len(TRUTH))) / np.sqrt(2)
    changed = condition_effect(runs(TRUTH, 0.5), runs(half, 0.5))
    assert abs(changed.corrected - np.sqrt(0.5)) < 0.04  # Spearman's differs from Pearson's by .02 here


def test_pairs_of_a_seed_are_left_out():
    seeds = RNG.standard_normal((4, len(TRUTH)))
    a, b = TRUTH + seeds, 2 * TRUTH + 2 * seeds  # run i of both is the same ranking
    found, flattered = condition_effect(a, b, paired=True), condition_effect(a, b)
    every = spearman(np.concatenate([a, b]))[:4, 4:]
    assert found.between == pytest.approx(every[~np.eye(4, dtype=bool)].mean(), abs=1e-12)
    assert flattered.between > found.between + 0.05 and abs(found.corrected - 1) < 0.02


def test_agreement_within_is_the_mean_over_pairs_of_runs():
    a, b = runs(TRUTH, 1.0, 3), runs(TRUTH, 2.0, 2)
    found, every = condition_effect(a, b), spearman(np.concatenate([a, b]))
    assert found.within[0] == pytest.approx((every[0, 1] + every[0, 2] + every[1, 2]) / 3, abs=1e-12)
    assert found.within[1] == pytest.approx(every[3, 4], abs=1e-12)
    assert found.between == pytest.approx(every[:3, 3:].mean(), abs=1e-12)
    assert f"within {found.within[0]:.3f} and {found.within[1]:.3f}, between" in str(found)


def test_the_share_of_classes():
    y = RNG.integers(0, 5, len(TRUTH))
    assert class_share(runs(TRUTH, 0.1), y) < 0.01
    assert class_share(runs(y.astype(float) * 100, 0.1), y) > 0.95
    assert class_share(np.ones((1, 4)), [0, 0, 1, 1]) == 0
    assert class_share([[1, 2, 3]], [0, 1, 2]) == pytest.approx(1)
    assert class_share([[1, 2, 3, 4]], [0, 1, 0, 1]) == pytest.approx(0.2)  # 1/4 of 5/4


def test_refusals():
    a = runs(TRUTH, 1.0)
    with pytest.raises(UserError, match="shapes"):
        condition_effect(a, a[:, :9])
    with pytest.raises(UserError, match="shapes"):
        condition_effect(a, a[:3], paired=True)
    with pytest.raises(UserError, match="at least 2 runs"):
        condition_effect(a[:1], a)
    with pytest.raises(UserError, match="labels has 2 elements"):
        class_share(a, [0, 1])
    assert np.isnan(condition_effect(np.stack([TRUTH, -TRUTH]), a).corrected)
