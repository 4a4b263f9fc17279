"""Prediction depth against scikit-learn's neighbours, and on layers whose answer is known."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from dither.errors import UserError
from dither.scores import activations, prediction_depth

RNG = np.random.default_rng(0)


def test_votes_are_those_of_scikit_learn():
    y, predicted = RNG.integers(3, 6, 90), RNG.integers(3, 6, 25)
    layers = [RNG.standard_normal((90, d)).astype(np.float32) for d in (4, 7, 2)]
    queries = [RNG.standard_normal((25, d)).astype(np.float32) for d in (4, 7, 2)]
    votes = [KNeighborsClassifier(8).fit(x, y).predict(q) for x, q in zip(layers, queries, strict=True)]
    expected = []
    for i in range(25):
        right = [bool(v[i] == predicted[i]) for v in votes]
        expected.append(next(first for first in range(4) if all(right[first:])))
    np.testing.assert_array_equal(prediction_depth(layers, y, predicted, queries=queries, k=8), expected)
    assert len(set(expected)) >= 3


def test_an_example_has_no_vote_on_itself():
    x = np.arange(10, dtype=np.float32)[:, None]  # the nearest two of i are its neighbours
    y = np.array([0] * 5 + [1] * 5)
    y[7] = 0
    depth = prediction_depth([x], y, y, k=2)
    assert depth[7] == 1 and depth[1] == 0 and depth[2] == 0


def test_depth_is_the_layer_where_the_classes_part():
    y = np.repeat([0, 1], 50)
    mixed = RNG.standard_normal((100, 3)).astype(np.float32)
    parted = mixed + 20 * y[:, None].astype(np.float32)
    assert (prediction_depth([parted, parted, parted], y, y) == 0).all()
    found = prediction_depth([mixed, mixed, parted], y, y)
    assert found.max() == 2 and (found == 2).mean() > 0.3  # a coin a layer says less than 2 for the others
    # Agreement that is lost again does not count.
    assert (prediction_depth([parted, mixed, parted], y, y) > 0).mean() == pytest.approx(
        (found == 2).mean(), abs=0.2
    )
    assert (prediction_depth([parted, parted], y, 1 - y) == 2).all()


def test_activations_are_the_outputs_of_the_layers():
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(
        torch.nn.Unflatten(1, (1, 4)), torch.nn.Conv1d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    x = torch.randn(9, 4)
    first, last = activations(net, x, ["1", "3"], chunk=4)
    np.testing.assert_allclose(first, net[:2](x).detach().flatten(1), rtol=1e-6)
    np.testing.assert_allclose(last, net(x).detach(), rtol=1e-6)
    with pytest.raises(UserError, match="no layer '9'"):
        activations(net, x, ["9"])
    twice = torch.nn.Sequential(net[3], torch.nn.Linear(2, 4), net[3])
    with pytest.raises(UserError, match="called 2 times in 1"):
        activations(twice, x, ["0"])


def test_what_does_not_fit_is_refused():
    x, y = RNG.standard_normal((20, 3)), np.zeros(20, int)
    cases: list[tuple[list, dict, str]] = [
        ([], {}, "at least one"),
        ([x], {"k": 20}, "k=20 neighbours of 20"),
        ([x], {"queries": [x, x]}, "same layers"),
        ([x, x[:5]], {}, "layer 1 has the shapes"),
        ([np.where(x > 2, np.nan, np.nan)], {"k": 3}, "NaN"),
    ]
    for layers, more, said in cases:
        with pytest.raises(UserError, match=said):
            prediction_depth(layers, y, y, **{"k": 3, **more})
