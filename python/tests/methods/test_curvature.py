"""The curvature sources measure the true Fisher diagonal, each in its units."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dither.nn as dnn
from dither import methods
from dither.errors import UserError
from dither.methods.fisher import sample_labels

torch.set_num_threads(1)


def softmax_regression(n=64, inputs=8, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(inputs, classes, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, inputs, generator=generator) * 0.5)
    return model, torch.randn(n, inputs, generator=generator)


def exact_fisher(model, x):
    """E_x of p_k (1 - p_k) x_j^2: the Fisher (and Gauss-Newton) diagonal of the mean cross-entropy."""
    p = model(x).detach().softmax(-1)
    return (p * (1 - p)).T @ x**2 / len(x)


def test_sampled_fisher_is_unbiased():
    """300 estimates; each is a scaled chi-square of one degree, so the mean's relative deviation is
    sqrt(2/300) = 8%: a factor n (64) or 2 would stand out by tens of deviations; 4.5 deviations bound all 40
    weights."""
    model, x = softmax_regression()
    curvature = methods.SampledFisher(every=1, decay=0.0, seed=3)
    curvature.bind({"weight": model.weight})
    total = torch.zeros_like(model.weight)
    for step in range(300):
        curvature.observe(step, lambda: model(x))
        estimate = curvature.diagonal("weight", model.weight)
        assert estimate is not None
        total += estimate
    exact = exact_fisher(model, x)
    relative = (total / 300 - exact) / exact
    assert relative.abs().max() < 4.5 * (2 / 300) ** 0.5
    assert abs(relative.mean()) < 0.06
    assert model.weight.grad is None


def test_sampled_fisher_averages_over_positions_of_any_shape():
    model, x = softmax_regression()
    flat, shaped = methods.SampledFisher(seed=1), methods.SampledFisher(seed=1)
    for curvature, inputs in ((flat, x), (shaped, x.view(4, 16, 8))):
        curvature.bind({"weight": model.weight})
        curvature.observe(0, lambda inputs=inputs: model(inputs))
    a, b = flat.diagonal("weight", model.weight), shaped.diagonal("weight", model.weight)
    assert a is not None and b is not None
    torch.testing.assert_close(a, b)


def test_sampled_fisher_is_a_corrected_moving_average_taken_every_few_steps():
    model, x = softmax_regression()
    calls = []
    average = methods.SampledFisher(every=4, decay=0.75, seed=2)
    single = methods.SampledFisher(every=1, decay=0.0, seed=2)
    for curvature in (average, single):
        curvature.bind({"weight": model.weight})
    assert average.diagonal("weight", model.weight) is None
    estimates = []
    for step in range(9):
        average.observe(step, lambda step=step: calls.append(step) or model(x))
        if step % 4 == 0:
            single.observe(step, lambda: model(x))
            estimates.append(single.diagonal("weight", model.weight))
    assert calls == [0, 4, 8]
    expected = (0.25 * estimates[2] + 0.1875 * estimates[1] + 0.140625 * estimates[0]) / (1 - 0.75**3)
    torch.testing.assert_close(average.diagonal("weight", model.weight), expected)


def test_sampled_fisher_says_what_is_wrong():
    model, x = softmax_regression()
    curvature = methods.SampledFisher()
    curvature.bind({"weight": model.weight})
    with pytest.raises(UserError, match="connected"):
        curvature.observe(0, lambda: model(x).detach())
    curvature.bind({"other": nn.Parameter(torch.zeros(3))})
    with pytest.raises(UserError, match="other"):
        curvature.observe(0, lambda: model(x))
    saved = methods.SampledFisher()
    saved.bind({"weight": model.weight})
    saved.observe(0, lambda: model(x))
    with pytest.raises(UserError, match="other"):
        curvature.load_state_dict(saved.state_dict())
    with pytest.raises(UserError):
        methods.SampledFisher(every=0)
    with pytest.raises(UserError):
        methods.SampledFisher(decay=1.0)


def test_sampled_fisher_state_round_trip():
    model, x = softmax_regression()
    first, second = methods.SampledFisher(seed=4), methods.SampledFisher(seed=4)
    for curvature in (first, second):
        curvature.bind({"weight": model.weight})
    first.observe(0, lambda: model(x))
    second.load_state_dict(first.state_dict())
    for curvature in (first, second):
        curvature.observe(10, lambda: model(x))
    a, b = first.diagonal("weight", model.weight), second.diagonal("weight", model.weight)
    assert a is not None and b is not None and torch.equal(a, b)
    empty = methods.SampledFisher()
    empty.bind({"weight": model.weight})
    second.load_state_dict(empty.state_dict())
    assert second.diagonal("weight", model.weight) is None


def test_sampled_labels_follow_the_softmax():
    """200 000 draws: 3.5 deviations of every frequency; probability 0 is never drawn; draws are addressed."""
    logits = torch.tensor([2.0, 0.0, float("-inf"), -1.0, 1.0, float("-inf")])
    count = 200_000
    labels = sample_labels(logits.expand(count, -1), seed=11, stream=5)
    frequency = torch.bincount(labels, minlength=6).double() / count
    p = logits.double().softmax(0)
    assert frequency[2] == frequency[5] == 0
    assert ((frequency - p).abs() <= 3.5 * (p * (1 - p) / count).sqrt()).all()
    assert torch.equal(labels, sample_labels(logits.expand(count, -1), seed=11, stream=5))
    assert torch.equal(labels[:1000], sample_labels(logits.expand(1000, -1), seed=11, stream=5))
    assert not torch.equal(labels, sample_labels(logits.expand(count, -1), seed=11, stream=6))
    assert not torch.equal(labels, sample_labels(logits.expand(count, -1), seed=12, stream=5))


def test_sampled_labels_do_not_depend_on_the_chunk(monkeypatch):
    logits = torch.randn(257, 7, generator=torch.Generator().manual_seed(0))
    whole = sample_labels(logits, seed=1, stream=2)
    monkeypatch.setattr("dither.methods.fisher._CHUNK", 50)
    assert torch.equal(whole, sample_labels(logits, seed=1, stream=2))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_second_moment_is_in_true_fisher_units(amsgrad):
    """At a model that is right (labels drawn from it) v ~ F/n; with n_eff = n the estimate is F, whatever n
    is.

    1500 steps with lr 0 and beta2 = 0.999: the average's effective sample is ~1500, so its relative deviation
    is sqrt(2/1500) = 3.7%, correlated not at all between batches; 4.5 deviations bound all 40 weights."""
    model, _ = softmax_regression()
    for n in (8, 64):
        generator = torch.Generator().manual_seed(n)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.9995), amsgrad=amsgrad)
        curvature = methods.AdamSecondMoment(optimizer, n_eff=n)
        curvature.bind({"weight": model.weight})
        assert curvature.diagonal("weight", model.weight) is None
        exact = torch.zeros_like(model.weight)
        for _ in range(1500):
            x = torch.randn(n, 8, generator=generator)
            logits = model(x)
            y = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).squeeze(1)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            exact += exact_fisher(model, x) / 1500
        estimate = curvature.diagonal("weight", model.weight)
        assert estimate is not None
        relative = (estimate - exact) / exact
        assert relative.abs().max() < 0.25
        assert abs(relative.mean()) < 0.05


def test_second_moment_is_bias_corrected():
    model, x = softmax_regression()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.999))
    curvature = methods.AdamSecondMoment(optimizer, n_eff=10)
    curvature.bind({"weight": model.weight})
    model(x).square().mean().backward()
    gradient = model.weight.grad
    assert gradient is not None
    for _ in range(3):
        optimizer.step()
        estimate = curvature.diagonal("weight", model.weight)
        assert estimate is not None
        torch.testing.assert_close(estimate, 10 * gradient**2)


def test_second_moment_follows_an_optimizer_that_loads_a_state():
    model, x = softmax_regression()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    curvature = methods.AdamSecondMoment(optimizer, n_eff=2)
    curvature.bind({"weight": model.weight})
    model(x).square().mean().backward()
    optimizer.step()
    before = curvature.diagonal("weight", model.weight)
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    after = curvature.diagonal("weight", model.weight)
    assert before is not None and after is not None and torch.equal(before, after)


def test_second_moment_says_what_is_wrong():
    model, x = softmax_regression()
    with pytest.raises(UserError, match="n_eff"):
        methods.AdamSecondMoment(torch.optim.Adam(model.parameters()), n_eff=0)
    other = methods.AdamSecondMoment(torch.optim.Adam([nn.Parameter(torch.zeros(1))]), n_eff=1)
    with pytest.raises(UserError, match="weight"):
        other.bind({"weight": model.weight})
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    curvature = methods.AdamSecondMoment(sgd, n_eff=1)
    curvature.bind({"weight": model.weight})
    model(x).square().mean().backward()
    sgd.step()
    with pytest.raises(UserError, match="SGD keeps no second moment"):
        curvature.diagonal("weight", model.weight)


def tiny():
    """A linear softmax model with its batch: per-example gradients and the Hessian are a few lines."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(5, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 5, generator=generator))
    return model, torch.randn(12, 5, generator=generator), torch.randint(0, 3, (12,), generator=generator)


def mean_estimate(source, model, x, y, draws):
    """The mean of single estimates over `draws` addressed steps."""
    source.bind({"weight": model.weight})
    total = torch.zeros_like(model.weight)
    for step in range(draws):
        (estimate,) = source.estimates(step, model(x), y)
        total += estimate
    return total / draws


def test_the_empirical_fisher_is_the_mean_square_of_the_examples_gradients():
    """3000 draws; the estimate's standard deviation is at most sqrt(2) of its mean, so 6 standard errors of
    the worst of 15 weights are 0.16 of it: a missing or doubled factor is out of the question."""
    model, x, y = tiny()
    squares = torch.zeros(3, 5)
    for i in range(12):
        loss = nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1])
        squares += torch.autograd.grad(loss, model.weight)[0] ** 2
    got = mean_estimate(methods.EmpiricalFisher(seed=1), model, x, y, 3000)
    torch.testing.assert_close(got, squares / 12, rtol=0.16, atol=0)


def test_hutchinson_estimates_the_diagonal_of_the_hessian():
    """3000 draws; every standard error is measured and 6 of them allowed."""
    model, x, y = tiny()

    def loss(w):
        return nn.functional.cross_entropy(x @ w.view(3, 5).T, y)

    hessian = torch.autograd.functional.hessian(loss, model.weight.detach().flatten())
    off = (hessian - torch.diag(hessian.diag())).square().sum(1)
    got = mean_estimate(methods.Hutchinson(seed=2), model, x, y, 3000)
    error = (got.flatten() - hessian.diag()).abs()
    assert (error < 6 * (off / 3000).sqrt() + 1e-6).all()
    assert (6 * (off / 3000).sqrt() < 0.5 * hessian.diag().max()).all()  # the bound can fail


def test_curvatures_that_need_labels_say_so():
    model, x, y = tiny()
    for source in (methods.EmpiricalFisher(every=1), methods.Hutchinson(every=1)):
        source.bind({"weight": model.weight})
        with pytest.raises(UserError, match=r"observe\(step, logits, labels\)"):
            source.observe(0, lambda: model(x))
        with pytest.raises(UserError, match="12 positions"):
            source.observe(0, lambda: model(x), y[:5])
        source.observe(0, lambda: model(x), y)
        diagonal = source.diagonal("weight", model.weight)
        assert diagonal is not None and (diagonal >= 0).all() and diagonal.any()


@pytest.mark.parametrize("kind", [methods.EmpiricalFisher, methods.Hutchinson])
def test_the_new_curvatures_resume_exactly(kind):
    model, x, y = tiny()

    def observed(source, steps):
        for step in steps:
            source.observe(step, lambda: model(x), y)
        return source

    def fresh():
        source = kind(every=2, decay=0.5, seed=3)
        source.bind({"weight": model.weight})
        return source

    whole = observed(fresh(), range(10))
    second = fresh()
    second.load_state_dict(observed(fresh(), range(5)).state_dict())
    observed(second, range(5, 10))
    assert torch.equal(whole.diagonal("weight", model.weight), second.diagonal("weight", model.weight))


def test_hutchinson_refuses_a_recipe_which_cannot_be_differentiated_twice():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 3))
    lotion = methods.Lotion(model, "int4_g32", curvature=methods.Hutchinson(every=1))
    dnn.prepare_(model, "mxfp8")
    with pytest.raises(UserError, match=r"differentiates twice.*restore_"):
        lotion.observe(0, lambda: model(torch.randn(4, 32)), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("kind", [methods.SampledFisher, methods.EmpiricalFisher, methods.Hutchinson])
def test_a_batch_of_nan_is_named_and_never_enters_the_average(kind):
    model, x, y = tiny()
    source = kind(every=1)
    source.bind({"weight": model.weight})
    source.observe(0, lambda: model(x), y)
    before = source.state_dict()
    bad = x.clone()
    bad[3, 0] = torch.nan
    with pytest.raises(UserError, match=r"step 7: the .* of weight is NaN or infinite.*leave the batch out"):
        source.observe(7, lambda: model(bad), y)
    assert before.keys() == source.state_dict().keys() and before["weight"] == source.state_dict()["weight"]
    assert torch.equal(before["average.weight"], source.state_dict()["average.weight"])
