"""Variance of gradients: streaming and at once against numpy, and the published dialects."""

from typing import Any

import numpy as np
import pytest
import torch

from dither.errors import UserError
from dither.scores import VoG, class_gradients, per_example_gradients, vog
from dither.scores.vog import DIALECTS, Dialect, normalise

N, K = 29, 7


def gradients(size: int = 53, dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(size)
    return (rng.standard_normal((N, K, size)) * rng.lognormal(size=(N, 1, 1)) + 3).astype(dtype)


def by_formula(g: np.ndarray, how: Dialect, labels: np.ndarray) -> np.ndarray:
    g = g.astype(np.float64)
    v = g.std(axis=1, ddof=how.ddof) if how.stat == "std" else g.var(axis=1, ddof=how.ddof)
    raw = v.mean(axis=1)
    if how.norm == "none":
        return raw
    if how.norm == "dataset":
        return (raw - raw.mean()) / raw.std()
    return np.array(
        [(r - raw[labels == y].mean()) / raw[labels == y].std() for r, y in zip(raw, labels, strict=True)]
    )


@pytest.mark.parametrize("name", [name for name, how in DIALECTS.items() if how.stage is None])
@pytest.mark.parametrize("size", [1, 16, 53, 5000])
def test_dialects_are_their_formulas(name, size):
    g, labels = gradients(size), np.arange(N) % 3
    expected = by_formula(g, DIALECTS[name], labels)
    np.testing.assert_allclose(vog(g, labels, name), expected, rtol=2e-5, atol=2e-5)
    stream = VoG(N, size, name)
    for k in range(K):
        stream.update(g[:, k])
    np.testing.assert_allclose(stream.scores(labels), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    g = torch.from_numpy(gradients()).to(dtype)
    np.testing.assert_array_equal(vog(g, how="kwok"), vog(g.float(), how="kwok"))


def test_gradients_of_a_model_are_autograds():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    x, y = torch.randn(5, 6), torch.tensor([0, 3, 1, 1, 2])
    for output in ("logit", "prob"):
        found = class_gradients(model, x, y, output)
        for i in range(5):
            one = x[i].clone().requires_grad_(True)
            z = model(one) if output == "logit" else model(one).softmax(0)
            np.testing.assert_allclose(found[i], torch.autograd.grad(z[y[i]], one)[0], rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["agarwal", "emnlp-dataset", "kwok", "agarwal-toy-early"])
def test_padding_does_not_count(name):
    """Whatever stands in the padding, VoG is that of the elements that count, each example by itself."""
    g, lengths = gradients(24), np.random.default_rng(0).integers(1, 25, N)
    mask = np.arange(24) < lengths[:, None]
    g[~np.broadcast_to(mask[:, None], g.shape)] = np.nan
    raw = Dialect(
        DIALECTS[name].output, DIALECTS[name].stat, DIALECTS[name].ddof, "none", DIALECTS[name].stage
    )
    alone = np.array([vog(g[i : i + 1, :, :n], how=raw)[0] for i, n in enumerate(lengths)])
    expected = normalise(alone, DIALECTS[name].norm, np.arange(N) % 3)
    np.testing.assert_allclose(vog(g, np.arange(N) % 3, name, mask), expected, rtol=1e-5, atol=1e-5)
    if DIALECTS[name].stage is None:
        stream = VoG(N, 24, name, mask)
        for k in range(K):
            stream.update(torch.from_numpy(g[:, k]))
        np.testing.assert_allclose(stream.scores(np.arange(N) % 3), expected, rtol=1e-5, atol=1e-5)
    mask[4] = False
    with pytest.raises(UserError, match="no element of example 4 counts"):
        vog(g, np.arange(N) % 3, name, mask)
    with pytest.raises(UserError, match="mask= holds booleans"):
        vog(g, np.arange(N) % 3, name, mask[:, :5])


class Texts(torch.nn.Module):
    """Token ids, a mean over what is not padding (0), classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(11, 6), torch.nn.Linear(6, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.of_embedded(self.embed(ids), ids)

    def of_embedded(self, e: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        known = (ids > 0).unsqueeze(2)
        return self.head(torch.tanh((e * known).sum(1) / known.sum(1)))


@pytest.mark.parametrize("output", ["logit", "prob"])
def test_gradients_by_the_embedding_are_autograds(output):
    torch.manual_seed(0)
    model, ids = Texts(), torch.tensor([[3, 4, 0, 0], [9, 1, 2, 10]])
    labels = torch.tensor([2, 0])
    found = class_gradients(model, ids, labels, output, layer="embed")
    e = model.embed(ids).detach().requires_grad_(True)
    z = model.of_embedded(e, ids)
    z = z.softmax(1) if output == "prob" else z
    expected = torch.autograd.grad(z[[0, 1], labels].sum(), e)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.shape == (2, 4, 6) and not found[0, 2:].any() and found[1].any()
    assert not model.embed._forward_hooks and all(p.grad is None for p in model.parameters())
    with pytest.raises(UserError, match="name the embedding, layer="):
        class_gradients(model, ids, labels)
    with pytest.raises(UserError, match="did you mean 'embed'"):
        class_gradients(model, ids, labels, layer="embde")
    doubled = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU())
    doubled.append(doubled[0])
    with pytest.raises(UserError, match="called 2 times"):
        class_gradients(doubled, torch.randn(2, 6), labels, layer="0")


def test_a_gradient_of_nan_is_no_score_and_spoils_no_other():
    g, labels = gradients(), np.arange(N) % 3
    g[5, 2, 7], g[9, 0, 0] = np.nan, np.inf
    rest = np.delete(np.arange(N), [5, 9])
    for name in ("agarwal", "emnlp-dataset", "kwok"):
        found = vog(g, labels, name)
        assert not np.isfinite(found[[5, 9]]).any(), name
        np.testing.assert_allclose(found[rest], vog(g[rest], labels[rest], name), rtol=1e-6)


@pytest.mark.parametrize(
    "layers",
    [
        [torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4)],
        [torch.nn.Linear(6, 4), torch.nn.Dropout(0.1)],
    ],
)
def test_models_that_mix_examples_are_refused_until_they_are_evaluated(layers):
    model, x, y = torch.nn.Sequential(*layers), torch.randn(5, 6), torch.arange(5) % 4
    for gradient in (class_gradients, per_example_gradients):
        model.train()
        with pytest.raises(UserError, match=r"1 \((BatchNorm1d|Dropout)\) makes .*eval\(\) first"):
            gradient(model, x, y)
        model.eval()
        gradient(model, x, y)


def test_refusals():
    cases: list[dict[str, Any]] = [{"stat": "sd"}, {"output": "logits"}, {"norm": "classes"}, {"ddof": -1}]
    for wrong in cases:
        with pytest.raises(UserError, match=f"{next(iter(wrong))}= is"):
            Dialect(**wrong)
    g = gradients()
    with pytest.raises(UserError, match="at least two"):
        vog(g[:, :1])
    with pytest.raises(UserError, match="needs labels"):
        vog(g)
    with pytest.raises(UserError, match="did you mean 'kwok'"):
        vog(g, how="kwo")
    stream = VoG(N, 53)
    with pytest.raises(UserError, match="is expected"):
        stream.update(g[:5, 0])
    with pytest.raises(UserError, match="at least two"):
        stream.scores()
    np.testing.assert_array_equal(vog(g[:1], [0]), [0.0])


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e30, 0.0])
@pytest.mark.parametrize("count", [1, 3, 7, 1000])
def test_equal_ones_are_in_the_middle(value, count):
    """The std of equal numbers is not always 0: [.1, .1, .1] were -1 each."""
    equal = np.full(count, value)
    assert not normalise(equal, "dataset").any()
    two = normalise(np.append(equal, [value + 1, value + 2]), "class", [0] * count + [1, 1])
    np.testing.assert_allclose(two[-2:], [-1, 1] if value < 1e20 else 0)
    assert not two[:count].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wanted", [False, True])
def test_strided_gradients_of_torch(dtype, wanted):
    g = torch.randn(4, 3, 10).to(dtype)
    plain, strided = VoG(4, 5, "kwok"), VoG(4, 5, "kwok")
    for k in range(3):
        plain.update(g[:, k, :5].contiguous())
        strided.update(g[:, k].clone().requires_grad_(wanted)[:, :5])
    np.testing.assert_array_equal(plain.scores(), strided.scores())
    assert (plain.scores() > 0).all()
