"""Every dialect of the catalogue against a few lines that do what the published code does."""

import hashlib
import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from dither.errors import UserError
from dither.scores import (
    SCORES,
    Importance,
    ScoreTable,
    Tracker,
    VoG,
    confident_joint,
    dichotomous,
    disagreement,
    influence,
    label_issues,
    logit_scores,
    memorization,
    prediction_depth,
    trak,
    vog,
)

N, T, CLASSES = 60, 12, 4
RNG = np.random.default_rng(11)
Y = RNG.integers(0, CLASSES, N)
Z = RNG.standard_normal((T, N, CLASSES)).astype(np.float32)
Z[:, np.arange(N), Y] += RNG.normal(0, 2, N)  # some are never right
P = np.exp(Z.astype(np.float64)) / np.exp(Z.astype(np.float64)).sum(axis=2, keepdims=True)
OWN = P[:, np.arange(N), Y]
RIGHT = Z.argmax(axis=2) == Y
GRADIENTS = RNG.standard_normal((N, 13, 7)).astype(np.float32)
MEMBER, CORRECT = RNG.random((40, N)) < 0.7, RNG.random((40, N)) < 0.6
MEMBER[:, 0], MEMBER[:, 1] = True, False


def of_logits(name: str, dialect: str) -> np.ndarray:
    found = logit_scores(Z[0], Y, [name], dialect={name: dialect})[name]
    table = ScoreTable.of_run("r", {name: logit_scores(Z[0], Y, [name])[name]})
    np.testing.assert_array_equal(table.values(name, dialect)[0], found)  # also of a stored one
    return found


def of_history(name: str, dialect: str) -> np.ndarray:
    tracker = Tracker(N, [name])
    for t in range(T):
        tracker.update(np.arange(N), Z[t], Y)
    return tracker.table().values(name, dialect)[0]


def second() -> np.ndarray:
    hidden = P[0].copy()
    hidden[np.arange(N), Y] = 0
    return OWN[0] - hidden.max(axis=1)


def forgets(never: float) -> np.ndarray:
    """Toneva's count, an event where a right prediction turns wrong."""
    counts = []
    for history in RIGHT.T:
        count, learnt = 0, False
        for right in history:
            count += learnt and not right
            learnt = right
        counts.append(count if history.any() else never)
    return np.array(counts, np.float64)


def updates_forgotten() -> np.ndarray:
    """Datagnosis: an update is a full evaluation; counts over the number of updates."""
    counts, remembered, updates = np.zeros(N), np.zeros(N, bool), 0
    for right in RIGHT:
        counts += remembered & ~right
        remembered, updates = right, updates + 1
    return counts / updates


def stage(start: int, end: int | None) -> np.ndarray:
    """Datagnosis' loop (and the toy script's): the mean is the sum over all checkpoints by the stage's
    length."""
    scores = []
    for grads in GRADIENTS.astype(np.float64):
        some = grads[start:end]
        mean = sum(grads) / len(some)
        scores.append(np.mean(np.sqrt(sum((g - mean) ** 2 for g in some) / len(some))))
    return np.array(scores)


def toy(mode: str, start: int, end: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The toy script, whose option vog_cal is "normalize" where none is given."""
    return vog(GRADIENTS, Y, f"agarwal-toy-{mode}"), by_class(stage(start, end))


def by_class(v: np.ndarray) -> np.ndarray:
    out = np.empty(N)
    for c in range(CLASSES):
        out[Y == c] = (v[Y == c] - v[Y == c].mean()) / v[Y == c].std()
    return out


def gradient_variance(dialect: str, root: bool, ddof: int, norm: Callable) -> tuple[np.ndarray, np.ndarray]:
    v = GRADIENTS.astype(np.float64).var(axis=1, ddof=ddof)
    return vog(GRADIENTS, Y, dialect), norm((np.sqrt(v) if root else v).mean(axis=1))


def masked(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Feldman and Zhang's average."""
    return (x * mask).sum(axis=0) / np.maximum(mask.sum(axis=0), 1e-10)


def feldman_influence() -> np.ndarray:
    def dot(mask):
        return (CORRECT.T.astype(float) @ mask / np.maximum(mask.sum(axis=0, keepdims=True), 1e-10)).T

    return dot(MEMBER) - dot(~MEMBER)


def symmetric_kl() -> tuple[np.ndarray, np.ndarray]:
    found, pairs = np.zeros(N), 0
    for i in range(3):
        for j in range(i):
            found += ((P[i] - P[j]) * np.log(P[i] / P[j])).sum(axis=1)
            pairs += 1
    return disagreement(P[:3], "symmetric-kl"), found / pairs


def own_vote() -> tuple[np.ndarray, np.ndarray]:
    layers = [RNG.standard_normal((N, 3)) + 2 * k * np.eye(CLASSES)[Y][:, :3] for k in range(4)]
    votes = np.stack([KNeighborsClassifier(5).fit(x, Y).predict(x) for x in layers])
    expected = [max((k + 1 for k in range(4) if votes[k, i] != Y[i]), default=0) for i in range(N)]
    return prediction_depth(layers, Y, Y, k=5, dialect="kwok"), np.array(expected)


def traker() -> tuple[np.ndarray, np.ndarray]:
    rows = RNG.standard_normal((3, N + 6, 5)).astype(np.float32).astype(np.float64)
    models = [(x[:N], x[N:], RNG.random(N)) for x in rows]
    total = np.zeros((N, 6))
    for train, test, _ in models:
        inverse = np.linalg.inv(train.T @ train)
        total += train @ (inverse / np.abs(inverse).mean()) @ test.T
    doubt = np.mean([1 - p for _, _, p in models], axis=0)
    train, test, own = zip(*models, strict=True)
    found = trak(train, test, own, dialect="traker")
    return found, (total / 3 * doubt[:, None]).T


def dsir() -> tuple[np.ndarray, np.ndarray]:
    texts = ["The cat sat, twice!  It sat.", "A dog (small) ran.", "naïve été 42", ""]

    def counts(text: str) -> np.ndarray:
        words, c = re.findall(r"\w+|[^\w\s]+", text.lower()), np.zeros(50)
        for gram in words + [" ".join(pair) for pair in itertools.pairwise(words)]:
            c[int(hashlib.sha256(gram.encode("utf-8")).hexdigest(), 16) % 50] += 1
        return c

    raw, target = np.sum([counts(t) for t in texts], axis=0), counts(texts[0])
    difference = np.log(target / target.sum() + 1e-8) - np.log(raw / raw.sum() + 1e-8)
    found = Importance.fit(texts[:1], texts, 50, dialect="dsir").score(texts)[0]
    return found, np.array([counts(text) @ difference for text in texts])


def cleanlab_issues() -> tuple[np.ndarray, np.ndarray]:
    labels, p = noisy(3)
    filters = pytest.importorskip("cleanlab.filter")
    expected = filters.find_label_issues(labels, p, filter_by="confident_learning", n_jobs=1)
    return label_issues(labels, p, "cleanlab"), np.asarray(expected)


REFERENCES: dict[tuple[str, str], Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    ("entropy", "bits"): lambda: (of_logits("entropy", "bits"), -(P[0] * np.log2(P[0])).sum(axis=1)),
    ("probability_margin", "cleanlab"): lambda: (
        of_logits("probability_margin", "cleanlab"), (second() + 1) / 2,
    ),
    ("probability_margin", "data-diet"): lambda: (of_logits("probability_margin", "data-diet"), -second()),
    ("el2n", "datagnosis"): lambda: (
        of_logits("el2n", "datagnosis"), ((P[0] - np.eye(CLASSES)[Y]) ** 2).sum(axis=1),
    ),
    ("forgetting", "data-diet"): lambda: (of_history("forgetting", "data-diet"), forgets(np.inf)),
    ("forgetting", "cartography"): lambda: (of_history("forgetting", "cartography"), forgets(1000)),
    ("forgetting", "deepcore"): lambda: (of_history("forgetting", "deepcore"), forgets(0)),
    ("forgetting", "kwok"): lambda: (of_history("forgetting", "kwok"), forgets(0)),
    ("forgetting", "datagnosis"): lambda: (of_history("forgetting", "datagnosis"), updates_forgotten()),
    ("variability", "cartography-std-ci"): lambda: (
        of_history("variability", "cartography-std-ci"),
        np.sqrt(np.var(OWN, axis=0) + np.var(OWN, axis=0) * np.var(OWN, axis=0) / (T - 1)),
    ),
    ("correctness", "cartography"): lambda: (of_history("correctness", "cartography"), RIGHT.sum(axis=0)),
    ("vog", "agarwal"): lambda: gradient_variance("agarwal", True, 0, by_class),
    ("vog", "agarwal-toy"): lambda: gradient_variance("agarwal-toy", True, 0, by_class),
    ("vog", "agarwal-toy-early"): lambda: toy("early", 0, 5),
    ("vog", "agarwal-toy-middle"): lambda: toy("middle", 5, 10),
    ("vog", "agarwal-toy-late"): lambda: toy("late", 10, None),
    ("vog", "datagnosis"): lambda: (vog(GRADIENTS, how="datagnosis"), stage(0, None)),
    ("vog", "datagnosis-early"): lambda: (vog(GRADIENTS, how="datagnosis-early"), stage(0, 5)),
    ("vog", "datagnosis-middle"): lambda: (vog(GRADIENTS, how="datagnosis-middle"), stage(5, 10)),
    ("vog", "datagnosis-late"): lambda: (vog(GRADIENTS, how="datagnosis-late"), stage(10, None)),
    ("vog", "kwok"): lambda: gradient_variance("kwok", False, 1, lambda v: v),
    ("vog", "emnlp"): lambda: gradient_variance("emnlp", False, 0, by_class),
    ("vog", "emnlp-dataset"): lambda: gradient_variance(
        "emnlp-dataset", False, 0, lambda v: (v - v.mean()) / v.std()
    ),
    ("memorization", "feldman"): lambda: (
        memorization(MEMBER, CORRECT, "feldman"), masked(CORRECT, MEMBER) - masked(CORRECT, ~MEMBER),
    ),
    ("influence", "feldman"): lambda: (influence(MEMBER, CORRECT, "feldman"), feldman_influence()),
    ("disagreement", "symmetric-kl"): symmetric_kl,
    ("prediction_depth", "kwok"): own_vote,
    ("trak", "traker"): traker,
    ("importance", "dsir"): dsir,
    ("label_issue", "cleanlab"): cleanlab_issues,
}  # fmt: skip


def test_every_dialect_has_a_reference_and_every_score_says_what_it_is():
    assert set(REFERENCES) == {(s.name, d) for s in SCORES.values() for d in s.dialects}
    for score in SCORES.values():
        assert score.direction in ("hard", "easy", "neither")
        assert all((score.formula, score.unit, score.needs, score.cost, score.source)), score.name


@pytest.mark.parametrize("which", REFERENCES, ids="-".join)
def test_dialects_are_those_of_the_published_code(which):
    found, expected = REFERENCES[which]()
    assert len(expected) and np.ptp(np.where(np.isfinite(expected), expected, 0)) > 0
    # Differences from a class's mean are right to 1e-6 of the class's spread, which is 1.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 if which[0] == "vog" else 1e-9)


def test_the_reference_histories_have_examples_never_learned_and_forgotten():
    assert (~RIGHT.any(axis=0)).any() and (forgets(0) > 0).any()


def test_dialects_that_do_not_exist_are_refused():
    for call in (
        lambda: logit_scores(Z[0], Y, ["el2n"], dialect="cleanlab"),
        lambda: logit_scores(Z[0], Y, ["el2n"], dialect={"el2n": "datagnosi"}),
        lambda: logit_scores(Z[0], Y, ["el2n"], dialect={"entropy": "bits"}),
        lambda: VoG(3, 4, "agarwal-toy-early"),
        lambda: vog(GRADIENTS[:, :4], how="agarwal-toy-late"),
        lambda: memorization(MEMBER, CORRECT, "zhang"),
        lambda: disagreement(P[:2], "kl"),
        lambda: prediction_depth([Z[0]], Y, Y, k=3, dialect="baldock"),
        lambda: Importance.fit(["a"], ["b"], dialect="sha"),
        lambda: label_issues(Y, P[0], "northcutt"),
        lambda: trak([Z[0]], [Z[0]], [OWN[0]], dialect="x"),
        lambda: of_history("aum", "aum"),
    ):
        with pytest.raises(UserError, match=r"dialect|checkpoint"):
            call()
    both = logit_scores(Z[0], Y, ["el2n", "entropy"], dialect="bits")  # of those that know it
    np.testing.assert_array_equal(both["el2n"], logit_scores(Z[0], Y, ["el2n"])["el2n"])


def noisy(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.choice(5, 800, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    z = rng.standard_normal((800, 5)) * 1.5
    z[np.arange(800), true] += 2
    labels = np.where(rng.random(800) < 0.2, (true + 1) % 5, true)
    return labels, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(4))
def test_the_confident_joint_is_that_of_cleanlab(seed):
    count = pytest.importorskip("cleanlab.count")
    labels, p = noisy(seed)
    np.testing.assert_array_equal(
        confident_joint(labels, p, "cleanlab"), count.compute_confident_joint(labels, p)
    )


def test_aum_is_that_of_its_authors_package(tmp_path):
    calculator = pytest.importorskip("aum").AUMCalculator(str(tmp_path))
    import torch

    tracker = Tracker(N, ["aum"])
    for t in range(T):
        order = RNG.permutation(N)
        z, y = torch.from_numpy(Z[t, order]), torch.from_numpy(Y[order])
        calculator.update(z, y, order.tolist())
        tracker.update(order, z, y)
    expected = [calculator.sums[i] / calculator.counts[i] for i in range(N)]
    np.testing.assert_allclose(tracker.table().values("aum")[0], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_settled_is_when_the_prediction_became_the_final_one(dtype):
    import torch

    tracker = Tracker(N, ["settled", "iteration_learned"])
    guesses = []
    for t in range(T):
        z = torch.from_numpy(Z[t]).to(getattr(torch, dtype))
        guesses.append(z.argmax(dim=1).numpy())
        for part in np.array_split(RNG.permutation(N), 3):
            tracker.update(part, z[part], Y[part])
    g = np.stack(guesses)
    expected = [next(t for t in range(T) if (g[t:, i] == g[-1, i]).all()) for i in range(N)]
    found = tracker.table().values("settled")[0]
    np.testing.assert_array_equal(found, expected)
    right = g[-1] == Y  # where the last prediction is right, both definitions are one
    np.testing.assert_array_equal(found[right], tracker.table().values("iteration_learned")[0][right])
    again = Tracker(N, ["settled", "iteration_learned"])
    again.load_state_dict(tracker.state_dict())
    assert again.table().fingerprint() == tracker.table().fingerprint()
    with pytest.raises(UserError, match="settled comes from logits"):
        tracker.visit([0], confidence=[0.5], correct=[1])


def test_dichotomous_difficulty():
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1]], bool)
    np.testing.assert_array_equal(dichotomous(right), [1, 0, -1, 0])
    with pytest.raises(UserError, match="booleans"):
        dichotomous(right.astype(int))
