"""How right the means of training dynamics are: long histories, and examples that are known for sure."""

import numpy as np
import pytest

from dither.scores import Tracker


def test_means_of_long_histories_are_not_biased():
    """Wrong once, then right 20,000 times: rounding to nearest would leave the mean 1e-4 off."""
    tracker = Tracker(2, ["confidence_mean", "loss_mean", "el2n_mean", "entropy_mean", "variability"])
    visits, one = 20_000, np.ones(1)
    for t in range(visits):
        p = one * (t > 0)
        tracker.visit([1], confidence=p, correct=p, loss=7 * p, el2n=p, entropy=p)
    table, mean = tracker.table(), 1 - 1 / visits
    bound = 4 * 5e-8 * np.sqrt(visits / 3)
    for name, scale in (("confidence_mean", 1), ("loss_mean", 7), ("el2n_mean", 1), ("entropy_mean", 1)):
        assert abs(table.values(name)[0, 1] / (scale * mean) - 1) < bound, name
    assert table.values("variability")[0, 1] == pytest.approx(np.sqrt(mean * (1 - mean)), rel=bound)


@pytest.mark.parametrize("end", [0, 1])
def test_scores_tell_examples_apart_that_are_known_for_sure(end):
    """p_y from 1e-3 to 1e-10, of 0 or of 1: means near 1 were multiples of 6e-8, and aleatoric negative."""
    rng, n, visits = np.random.default_rng(0), 2000, 20
    small = 10 ** -rng.uniform(3, 10, n) * np.exp(rng.normal(0, 0.5, (visits, n)))
    z = np.stack([np.zeros((visits, n)), np.log(small) - np.log1p(-small)], axis=2).astype(np.float32)
    small = 1 / (1 + np.exp(-z[..., 1].astype(np.float64)))
    names, index, y = (
        ["aleatoric", "closeness", "confidence_mean", "variability"],
        np.arange(n),
        np.full(n, 1 - end),
    )
    of_logits, of_values = Tracker(n, names), Tracker(n, names)
    for t in range(visits):
        of_logits.update(index, z[t], y)
        of_values.visit(index, confidence=1 - small[t] if end else small[t], correct=y == 0)
    mean = small.mean(axis=0)
    expected = {
        "aleatoric": (small * (1 - small)).mean(axis=0),
        "closeness": mean * (1 - mean),
        "confidence_mean": mean,
        "variability": small.std(axis=0),
    }
    for tracker in (of_logits, of_values):
        table = tracker.table()
        for name, values in expected.items():
            found = table.values(name)[0]
            found = 1 - found if name == "confidence_mean" and end else found
            # Of p near 1 fp64 keeps 1e-16, of what is 1e-10 and more.
            np.testing.assert_allclose(found, values, rtol=2e-6, atol=3e-16 * end, err_msg=name)
        assert len(np.unique(table.values("confidence_mean")[0])) == n


def test_aleatoric_is_not_negative():
    tracker, rng = Tracker(300, ["aleatoric"]), np.random.default_rng(0)
    for _ in range(50):
        right = rng.random(300) < 0.7
        tracker.visit(np.arange(300), confidence=right.astype(float), correct=right)
    found = tracker.table().values("aleatoric")[0]
    assert (found >= 0).all() and (found < 1e-6).all()  # 0 but for the rounding of means of 0.3
