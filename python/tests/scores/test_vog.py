"""Variance of gradients: streaming and at once against numpy, and the published dialects."""

import numpy as np
import pytest
import torch

from dither.errors import UserError
from dither.scores import VoG, class_gradients, vog
from dither.scores.vog import DIALECTS, Dialect

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


def test_refusals():
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
