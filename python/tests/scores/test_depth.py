"""Prediction depth against scikit-learn's neighbours, and on layers whose answer is known."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from dither.errors import UserError
from dither.scores import activations, class_gradients, prediction_depth

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


@pytest.mark.parametrize("offset", [0, 100, 3000])
def test_a_common_offset_changes_no_depth(offset):
    """Distances of embeddings far from 0 were noise: 3000 away, a third of the votes."""
    rng = np.random.default_rng(0)
    near = rng.standard_normal((400, 16)).astype(np.float32)
    x = near + np.float32(offset)
    y = (near[:, 0] > 0).astype(int)
    gaps = ((x[:, None].astype(np.float64) - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(gaps, np.inf)
    votes = y[np.argsort(gaps, axis=1)[:, :7]].mean(axis=1) > 0.5
    np.testing.assert_array_equal(prediction_depth([x], y, y, k=7), votes != y)


def test_models_that_mix_examples_or_draw_have_no_activations():
    torch = pytest.importorskip("torch")
    nn, x = torch.nn, torch.randn(6, 5, 4)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.MultiheadAttention(4, 1, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.attend(x, x, x)[0].mean(dim=1)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.read = nn.LSTM(4, 3, 2, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.read(x)[0][:, -1]

    mixed = nn.Sequential(nn.Flatten(), nn.Linear(20, 3), nn.BatchNorm1d(3))
    models = {"2 .BatchNorm1d": mixed, "attend .MultiheadAttention": Attention(), "read .LSTM": Recurrent()}
    y = torch.zeros(6, dtype=torch.long)
    for who, model in models.items():
        said = who.replace(" .", r" \(") + r"\) makes .* call model.eval\(\) first"
        before = {name: values.clone() for name, values in model.state_dict().items()}
        name = who.split()[0]
        for call in (lambda m, n: activations(m, x, [n]), lambda m, _: class_gradients(m, x, y)):
            with pytest.raises(UserError, match=said):
                call(model, name)
        assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
        model.eval()
        assert torch.equal(class_gradients(model, x, y), class_gradients(model, x, y))
    np.testing.assert_allclose(
        activations(mixed, x, ["2"], chunk=2)[0], activations(mixed, x, ["2"])[0], rtol=1e-6
    )
    none = nn.Sequential(nn.Flatten(), nn.Linear(20, 3), nn.Dropout(0.0), nn.LSTM(3, 2))
    activations(none, x, ["1"])  # nothing is drawn
