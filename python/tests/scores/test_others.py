"""Scores from embeddings, ensembles, subsets, labels and gradients against their definitions."""

import itertools
import math
import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from dither.errors import UserError
from dither.scores import (
    ScoreTable,
    confident_joint,
    disagreement,
    duplicates,
    grand,
    grand_last_layer,
    influence,
    knn_shapley,
    label_issues,
    learnability,
    logit_scores,
    memorization,
    prototypes,
    prototypes_kmeans,
    pvi,
    rank,
    spearman,
    tracin_self,
    vote_entropy,
)
from dither.scores.engine import run_duplicates

RNG = np.random.default_rng(0)


def knn_utility(members, x, y, tests, test_y, k) -> float:
    """Mean share of right labels among the k nearest members, of k also where there are fewer."""
    members, total = list(members), 0.0
    for t, label in zip(tests, test_y, strict=True):
        nearest = sorted(members, key=lambda i: ((x[i] - t) ** 2).sum())[:k]
        total += sum(y[i] == label for i in nearest) / k
    return total / len(tests)


@pytest.mark.parametrize("k", [1, 2, 5, 8, 20])
def test_knn_shapley_is_the_shapley_value(k):
    rng = np.random.default_rng(k)
    x, y = rng.standard_normal((7, 3)), rng.integers(0, 2, 7)
    tests, test_y = rng.standard_normal((3, 3)), rng.integers(0, 2, 3)
    expected = np.zeros(7)
    for i in range(7):
        others = [j for j in range(7) if j != i]
        for size in range(7):
            weight = 1 / (7 * math.comb(6, size))
            for s in itertools.combinations(others, size):
                gain = knn_utility((*s, i), x, y, tests, test_y, k) - knn_utility(s, x, y, tests, test_y, k)
                expected[i] += weight * gain
    np.testing.assert_allclose(knn_shapley(x, y, tests, test_y, k), expected, atol=1e-12)


def test_knn_shapley_is_efficient_and_does_not_depend_on_blocks(monkeypatch):
    x, y = RNG.standard_normal((500, 8)), RNG.integers(0, 3, 500)
    tests, test_y = RNG.standard_normal((60, 8)), RNG.integers(0, 3, 60)
    values = knn_shapley(x, y, tests, test_y, 10)
    np.testing.assert_allclose(values.sum(), knn_utility(range(500), x, y, tests, test_y, 10), atol=1e-9)
    monkeypatch.setattr("dither.scores.neighbours.BLOCK", 500 * 16)
    np.testing.assert_allclose(knn_shapley(x, y, tests, test_y, 10), values, atol=1e-15)
    with pytest.raises(UserError, match="NaN"):
        knn_shapley(np.full((2, 2), np.nan), [0, 1], x[:1, :2], [0])
    with pytest.raises(UserError, match="dimensions"):
        knn_shapley(x, y, tests[:, :5], test_y)
    with pytest.raises(UserError, match="overflow fp32"):
        knn_shapley(x * 1e25, y, tests, test_y)


@pytest.mark.parametrize("offset", [0, 100, 3000])
def test_a_common_offset_changes_no_value(offset):
    """Distances of embeddings far from 0 were noise: ||x||^2 - 2 x t kept none of fp32's digits of them."""
    rng = np.random.default_rng(0)
    x, tests = rng.standard_normal((500, 32)).astype(np.float32), rng.standard_normal((40, 32)).astype("f4")
    y, test_y = (x[:, 0] > 0).astype(int), (tests[:, 0] > 0).astype(int)
    x, tests = x + np.float32(offset), tests + np.float32(offset)
    given = x.copy(), tests.copy()
    found, expected, k = knn_shapley(x, y, tests, test_y, 5), np.zeros(500), 5
    for test, label in zip(tests.astype(np.float64), test_y, strict=True):
        order = np.argsort(((x.astype(np.float64) - test) ** 2).sum(axis=1))
        right = (y[order] == label).astype(float)
        value = right[-1] / 500
        expected[order[-1]] += value
        for j in range(498, -1, -1):
            value += (right[j] - right[j + 1]) / k * min(k, j + 1) / (j + 1)
            expected[order[j]] += value
    np.testing.assert_allclose(found, expected / 40, atol=1e-5)
    np.testing.assert_array_equal(x, given[0])
    np.testing.assert_array_equal(tests, given[1])


@pytest.mark.parametrize("models", [1, 63, 64, 65, 300])
def test_memorization_and_influence(models):
    rng = np.random.default_rng(models)
    member, right, others = (
        rng.random((models, 9)) < 0.7,
        rng.random((models, 9)) < 0.5,
        rng.random((models, 5)) < 0.5,
    )
    with np.errstate(invalid="ignore"):

        def contrast(i, c):
            inside, outside = c[member[:, i]], c[~member[:, i]]
            return (inside.mean() if len(inside) else np.nan) - (outside.mean() if len(outside) else np.nan)

        own = [contrast(i, right[:, i]) for i in range(9)]
        full = [[contrast(i, others[:, j]) for j in range(5)] for i in range(9)]
    np.testing.assert_allclose(memorization(member, right), own, atol=1e-15)
    np.testing.assert_allclose(influence(member, others), full, atol=1e-15)
    with pytest.raises(UserError, match="same models"):
        influence(member, others[:0])
    for score in (memorization, influence):  # before anything is looked at
        with pytest.raises(UserError, match="dialect feldman, not 'zhang'"):
            score("no mask", None, dialect="zhang")
    with pytest.raises(TypeError, match="booleans"):
        memorization(member * 2, right)


def test_prototypes():
    x, y = RNG.standard_normal((40, 5)), RNG.integers(0, 4, 40)
    expected = [np.linalg.norm(x[i] - x[y == y[i]].mean(axis=0)) for i in range(40)]
    np.testing.assert_allclose(prototypes(x, y), expected, rtol=1e-6)
    clear = np.repeat(np.eye(3) * 10, 5, axis=0) + RNG.standard_normal((15, 3)) * 0.1
    clear[7] += 3
    for metric in ("l2", "cosine"):
        assert prototypes_kmeans(clear, 3, metric=metric).argmax() == 7
    with pytest.raises(UserError, match="centroids"):
        prototypes_kmeans(clear, 16)


def test_the_nearest_prototype_is_the_nearest_by_cosine():
    """k-means assigns by distance to centres that are not of unit length."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 8)).astype(np.float32)
    x[:500] += 3
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = KMeans(10, n_init=1, random_state=0).fit(unit)  # pyright: ignore[reportArgumentType]
    centres = found.cluster_centers_
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    expected = 1 - (unit @ centres.T).max(axis=1)
    np.testing.assert_allclose(prototypes_kmeans(x, 10, metric="cosine"), expected, atol=1e-6)


def test_duplicates_are_found(monkeypatch):
    x = RNG.standard_normal((60, 12))
    x[31] = x[17] * 2
    cluster = np.arange(60) % 2
    whole = duplicates(x, cluster)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for c in (0, 1):
        members = np.flatnonzero(cluster == c)
        centre = unit[members].mean(axis=0)
        order = members[np.argsort(unit[members] @ centre / np.linalg.norm(centre), kind="stable")]
        for place, i in enumerate(order):
            expected = max((unit[i] @ unit[j] for j in order[:place]), default=-1)
            np.testing.assert_allclose(whole[i], expected, atol=1e-6)
    monkeypatch.setattr("dither.scores.embeddings.BLOCK", 7)
    np.testing.assert_allclose(duplicates(x, cluster), whole, atol=1e-6)
    assert max(whole[17], whole[31]) > 0.9999
    for scale in (1e-30, 1e30):  # squares are not fp32
        np.testing.assert_allclose(duplicates(x * scale, cluster), whole, atol=1e-6)
    assert duplicates(np.zeros((3, 2)), [0, 0, 1]).tolist() == [-1, 0, -1]
    assert duplicates(np.zeros((0, 2)), []).shape == (0,)


@pytest.mark.parametrize(("rows", "columns", "before"), [(1, 1, 0), (70, 64, 0), (9, 200, 200), (5, 65, 63)])
def test_the_greatest_before_is_that_of_numpy(rows, columns, before):
    similar = np.random.default_rng(rows).uniform(-1, 1, (rows, columns)).astype(np.float32)
    out = np.full(rows, -1, np.float32)
    run_duplicates(similar, before, out)
    hidden = np.where(np.arange(columns) < before + np.arange(rows)[:, None], similar, -1)
    np.testing.assert_array_equal(out, hidden.max(axis=1))


def test_models():
    p = RNG.dirichlet(np.ones(4), (3, 20))

    def kl(a, b):
        return (a * np.log(a / b)).sum(axis=-1)

    pairs = list(itertools.combinations(range(3), 2))
    expected = np.mean(
        [(kl(p[i], (p[i] + p[j]) / 2) + kl(p[j], (p[i] + p[j]) / 2)) / 2 for i, j in pairs], axis=0
    )
    np.testing.assert_allclose(disagreement(p), expected, atol=1e-12)
    np.testing.assert_allclose(disagreement(np.eye(2)[:, None, :]), [math.log(2)])
    # Nobody's class adds nothing, what one model alone excludes is infinite: without a warning.
    one_class = np.array([[[0.5, 0.5, 0.0], [1, 0, 0]], [[0.25, 0.75, 0.0], [0, 1, 0]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = disagreement(one_class, "symmetric-kl")
    a, b = one_class[:, 0, :2]
    np.testing.assert_allclose(found, [kl(a, b) + kl(b, a), np.inf])
    for bad in (np.nan, -0.2, 0.9):
        wrong = p.copy()
        wrong[2, 7, 1] = bad
        with pytest.raises(UserError, match="example 7 under model 2 has no probabilities"):
            disagreement(wrong)
    votes = np.array([[0, 1, 2], [0, 1, 1], [0, 2, 0]])
    h = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    np.testing.assert_allclose(vote_entropy(votes), [0, h, math.log(3)], atol=1e-15)
    np.testing.assert_allclose(pvi([math.log(2)], [math.log(8)]), [2.0])
    np.testing.assert_array_equal(learnability([3.0, 1.0], [1.0, 2.0]), [2.0, -1.0])
    with pytest.raises(UserError, match="2 are needed"):
        learnability([1.0, 2.0], [1.0])
    inf = np.inf
    assert pvi([0.0, inf], [inf, 0.0]).tolist() == [inf, -inf]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for difference in (pvi, learnability):
            with pytest.raises(UserError, match="loss of example 2 are both inf, which have no difference"):
                difference([0.0, inf, inf], [0.0, 0.0, inf])


def peak(call) -> float:
    tracemalloc.start()
    call()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_is_that_of_the_input():
    """Copies in fp64 of everything, and a column a class with votes, were several times as much."""
    rng = np.random.default_rng(0)
    n, classes = 20_000, 200
    p = rng.dirichlet(np.ones(classes), n).astype(np.float32)
    y = rng.integers(0, classes, n)
    for call in (confident_joint, label_issues):
        assert peak(lambda call=call: call(y, p)) < 45e6  # 24 bytes of each of 2^20 elements, and joints
    models = np.stack([p] * 3)
    assert models.nbytes > 45e6
    for dialect in (None, "symmetric-kl"):
        assert peak(lambda dialect=dialect: disagreement(models, dialect)) < 60e6
    votes = rng.integers(0, 20_000, (5, 10_000))
    assert peak(lambda: vote_entropy(votes)) < 4 * votes.nbytes


def test_pieces_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(7), (3, 500))
    y = rng.integers(0, 7, 500)
    calls = [
        lambda: disagreement(p), lambda: disagreement(p, "symmetric-kl"), lambda: confident_joint(y, p[0]),
        lambda: label_issues(y, p[0], "cleanlab"),
    ]  # fmt: skip
    whole = [call() for call in calls]
    few = lambda n, _: (slice(start, start + 13) for start in range(0, n, 13))  # noqa: E731
    for module in ("labels", "models"):
        monkeypatch.setattr(f"dither.scores.{module}.pieces", few)
    for call, expected in zip(calls, whole, strict=True):
        np.testing.assert_array_equal(call(), expected)
    p[1, 400, 3] = -1
    with pytest.raises(UserError, match="example 400 under model 1"):
        disagreement(p)
    with pytest.raises(UserError, match="row 400 holds no probabilities"):
        confident_joint(y, p[1])


@pytest.mark.parametrize("models", [1, 2, 5, 40])
def test_vote_entropy_is_its_definition(models):
    votes = np.random.default_rng(models).integers(-3, 4, (models, 300))
    shares = [(np.unique(v, return_counts=True)[1]) / models for v in votes.T]
    expected = [-(s * np.log(s)).sum() for s in shares]
    np.testing.assert_allclose(vote_entropy(votes), expected, atol=1e-14)
    assert not vote_entropy(np.full((models, 3), 7)).any() and vote_entropy(votes[:, :0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_tensors_are_read_exactly(dtype):
    x = torch.from_numpy(RNG.standard_normal((40, 5))).to(dtype).requires_grad_(True)
    wide, y = x.detach().float().numpy(), RNG.integers(0, 3, 40)
    p = x.detach().view(2, 20, 5).softmax(dim=2)
    for found, expected in (
        (prototypes(x, y), prototypes(wide, y)),
        (prototypes_kmeans(x, 3), prototypes_kmeans(wide, 3)),
        (duplicates(x, y), duplicates(wide, y)),
        (knn_shapley(x, y, x[:7], y[:7], 3), knn_shapley(wide, y, wide[:7], y[:7], 3)),
        (grand_last_layer(x, y, x), grand_last_layer(wide, y, wide)),
        (disagreement(p), disagreement(p.float().numpy())),
        (learnability(x[:, 0], x[:, 1]), learnability(wide[:, 0], wide[:, 1])),
        (rank(x), rank(wide)),
        (spearman(x[:4]), spearman(wide[:4])),
    ):
        np.testing.assert_array_equal(found, expected)
    column = wide[:, 0].astype(ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float16)
    for values in (x[:, 0], column):
        table = ScoreTable.of_run("r", {"loss": values})
        np.testing.assert_array_equal(table.values("loss")[0], wide[:, 0])


def test_confident_learning_finds_planted_flips():
    n, classes = 3000, 5
    true = RNG.integers(0, classes, n)
    z = RNG.standard_normal((n, classes)) * 0.7
    z[np.arange(n), true] += 5
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    given, flipped = true.copy(), RNG.random(n) < 0.1
    given[flipped] = (given[flipped] + 1) % classes
    found = label_issues(given, p)
    assert found[flipped].mean() > 0.85 and found[~flipped].mean() < 0.05
    joint = confident_joint(given, p)
    np.testing.assert_allclose(joint.sum(axis=1), np.bincount(given, minlength=classes))
    truth = np.zeros((classes, classes))
    np.add.at(truth, (given, true), 1)
    assert np.abs(joint - truth).max() < 0.05 * n
    with pytest.raises(UserError, match="sum to 1"):
        label_issues(given, z)
    narrow = torch.softmax(torch.from_numpy(z), 1).bfloat16()
    assert (label_issues(given, narrow) == found).mean() > 0.99


def test_the_joint_of_cleanlab_to_the_last_count():
    """Whole counts go where the last bits of its order of operations say."""
    theirs = pytest.importorskip("cleanlab.count").compute_confident_joint
    rng, checked = np.random.default_rng(0), 0
    for _ in range(400):
        classes, n = int(rng.integers(2, 8)), int(rng.integers(20, 300))
        y = rng.integers(0, classes, n)
        if len(np.unique(y)) < classes:
            continue
        z = rng.standard_normal((n, classes)) * rng.choice([0.5, 1, 3])
        z[np.arange(n), y] += rng.choice([0, 1, 2])
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        np.testing.assert_array_equal(confident_joint(y, p, "cleanlab"), theirs(y, p))
        checked += 1
    assert checked > 300


def network() -> torch.nn.Sequential:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.GELU(), torch.nn.Linear(9, 4))


def test_gradient_norms_are_those_of_backward():
    model, x, y = network(), torch.randn(11, 6), torch.randint(0, 4, (11,))
    norms, last = [], []
    for i in range(11):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        grads = [p.grad for p in model.parameters()]
        norms.append(math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads if g is not None)))
        last.append(math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads[2:] if g is not None)))
    np.testing.assert_allclose(grand(model, x, y, chunk=4), norms, rtol=1e-5)
    with torch.no_grad():
        features = model[1](model[0](x))
        logits = model(x)
    np.testing.assert_allclose(grand_last_layer(logits, y, features), last, rtol=1e-5)
    np.testing.assert_allclose(
        tracin_self([model, model], [0.1, 0.3], x, y), 0.4 * np.array(norms) ** 2, rtol=1e-5
    )
    with pytest.raises(UserError, match="at least one checkpoint"):
        tracin_self([], [], x, y)


def test_el2n_is_the_gradient_by_the_logits():
    z = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(0, 5, (9,))
    torch.nn.functional.cross_entropy(z, y, reduction="sum").backward()
    assert z.grad is not None
    np.testing.assert_allclose(
        logit_scores(z.detach().float(), y, ["el2n"])["el2n"], z.grad.norm(dim=1), rtol=1e-6
    )
