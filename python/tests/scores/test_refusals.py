"""What no score is made of: refused in words by every function, and never taken for something else."""

import functools
import re

import numpy as np
import pytest

from dither import scores
from dither.errors import UserError
from dither.scores import Importance, ScoreTable, Tracker, VoG, retrain, selection

RNG = np.random.default_rng(0)
Z, Y = RNG.standard_normal((8, 3)).astype(np.float32), RNG.integers(0, 3, 8)

MATRICES = {
    "logit_scores": lambda x: scores.logit_scores(x, Y),
    "tracker": lambda x: Tracker(8, ["aum"]).update(np.arange(8), x, Y),
    "prototypes": lambda x: scores.prototypes(x, Y),
    "prototypes_kmeans": lambda x: scores.prototypes_kmeans(x, 2),
    "duplicates": lambda x: scores.duplicates(x, Y),
    "knn_shapley": lambda x: scores.knn_shapley(x, Y, Z, Y, 2),
    "prediction_depth": lambda x: scores.prediction_depth([x], Y, Y, k=2),
    "rank": scores.rank,
    "spearman": scores.spearman,
    "kendall": scores.kendall,
    "reliability": scores.reliability,
    "score_correlations": lambda x: scores.score_correlations({"a": x, "b": Z}),
    "noise_curve": lambda x: scores.noise_curve(x, [1, 0, 0]),
    "architecture_bias": lambda x: scores.architecture_bias(x, Z),
    "fingerprints": lambda x: scores.fingerprints(x, Z),
    "condition_effect": lambda x: scores.condition_effect(x, Z),
    "project": lambda x: scores.project(x, 4),
    "confident_joint": lambda x: scores.confident_joint(Y, x),
    "label_issues": lambda x: scores.label_issues(Y, x),
    "disagreement": scores.disagreement,
    "vote_entropy": scores.vote_entropy,
    "dichotomous": scores.dichotomous,
    "memorization": lambda x: scores.memorization(x, Z > 0),
    "influence": lambda x: scores.influence(x, Z > 0),
    "vog": lambda x: scores.vog(x, Y),
    "VoG.update": lambda x: VoG(8, 3).update(x),
    "grand_last_layer": lambda x: scores.grand_last_layer(Z, Y, x),
    "tracin": lambda x: scores.tracin([x], [Z], [1.0]),
    "trak": lambda x: scores.trak([x], [Z], [np.full(8, 0.5)]),
    "linear_datamodeling_score": lambda x: scores.linear_datamodeling_score(x, Z > 0, Z),
    "rank_pca": lambda x: scores.rank_pca({"a": x, "b": Z}),
    "auc": lambda x: scores.auc(x, Y > 0),
    "learnability": lambda x: scores.learnability(x, x),
    "pvi": lambda x: scores.pvi(x, x),
    "ScoreTable": lambda x: ScoreTable.of_run("a", {"loss": x}),
    "top": lambda x: selection.top(x, 0.5),
}

BAD = {
    "text": np.array([["a"] * 3] * 8),
    "complex": Z.astype(complex),
    "ragged": [[1.0, 2.0], [3.0]],
    "nothing": None,
    "a mapping": {"a": 1},
    "masked": np.ma.masked_less(Z, 0),
    "four axes": Z[None, None],
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("name", MATRICES)
def test_no_function_takes_what_holds_no_numbers(name, bad):
    with pytest.raises((UserError, TypeError)) as caught:
        MATRICES[name](BAD[bad])
    assert "inhomogeneous" not in str(caught.value) or "no array" in str(caught.value)


NUMBERS = (
    "logit_scores", "prototypes", "prototypes_kmeans", "duplicates", "knn_shapley", "prediction_depth",
    "spearman", "kendall", "project", "tracin", "grand_last_layer", "reliability", "condition_effect",
)  # fmt: skip


@pytest.mark.parametrize(
    "form", ["big-endian", "column-major", "reversed", "lists", "read-only", "misaligned"]
)
@pytest.mark.parametrize("name", NUMBERS)
def test_memory_of_every_form_gives_the_same(name, form):
    unaligned = np.frombuffer(b"x" + Z.tobytes(), np.uint8)[1:].view(np.float32).reshape(Z.shape)
    given = {
        "big-endian": Z.astype(">f4"), "column-major": np.asfortranarray(Z),
        "reversed": Z[::-1, ::-1].copy()[::-1, ::-1],
        "lists": Z.tolist(), "read-only": np.frombuffer(Z.tobytes(), np.float32).reshape(Z.shape),
        "misaligned": unaligned,
    }[form]  # fmt: skip
    expected, found = MATRICES[name](Z.copy()), MATRICES[name](given)
    if isinstance(expected, dict):
        expected, found = expected["el2n"], found["el2n"]
    if isinstance(expected, np.ndarray):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:
        assert str(found) == str(expected)


TABLE = ScoreTable.of_run("seed-0", {"loss": [1.0, 2.0]})
SEEN = Tracker(2, ["correctness"])
REFUSED = [
    ("'run' and 'id' of its own: name 'id' otherwise", lambda: ScoreTable.of_run("a", {"id": [1.0]})),
    ("'run' and 'id' of its own: name 'run' otherwise", lambda: TABLE.with_scores("b", {"run": [1.0]})),
    ("a run has a name, not None", lambda: ScoreTable.of_run(None, {"loss": [1.0]})),  # type: ignore[arg-type]
    ("a run has a name, not ''", lambda: ScoreTable.of_run("", {"loss": [1.0]})),
    ("no run 'seed-1' (did you mean 'seed-0'?)", lambda: TABLE.select(["seed-0", "seed-1"])),
    ("no run 'seed-7'", lambda: TABLE.select("seed-7")),
    ("merges with tables, not with int", lambda: TABLE.merge(3)),  # type: ignore[arg-type]
    ("columns by name, not from list", lambda: ScoreTable.from_frame([1, 2])),
    ("columns by name, not from NoneType", lambda: ScoreTable.from_frame(None)),
    ("these columns make no table", lambda: ScoreTable.from_frame({"id": [1, 2], "loss": [1.0]})),
    ("no run has a score None", lambda: TABLE.having(None)),  # type: ignore[arg-type]
    ("r1=2.0 is a correlation", lambda: scores.spearman_brown(2.0, 3)),
    ("runs=0 a number above 0", lambda: scores.spearman_brown(0.5, 0)),
    ("given by name, not as list", lambda: scores.rank_pca([Z[0]])),  # type: ignore[arg-type]
    ("no selection by name", lambda: retrain(lambda kept, seed: 0.0, [Y], 8)),  # type: ignore[arg-type]
    ("examples_per_parameter=nan", lambda: selection.budget_aware(np.arange(4.0), 0.5, np.nan)),
    ("utilities are numbers", lambda: selection.repetition_aware(np.arange(4.0), 9, ["b"], 1)),  # type: ignore[list-item]
    ("buckets= is a positive number up to 2^32", lambda: scores.ngram_counts(["a"], 1 << 60)),
    ("one finite number a bucket", lambda: Importance(np.empty(0))),
    ("one finite number a bucket", lambda: Importance(np.array([1.0, np.nan]))),
    ("one axis", lambda: Importance(np.ones((2, 2)))),
    ("of -1 and 3", lambda: VoG(-1, 3)),
    ("distances of these embeddings overflow", lambda: scores.prediction_depth([Z * 1e30], Y, Y, k=2)),
    ("distances of these embeddings overflow", lambda: scores.prototypes_kmeans(Z * 1e30, 2)),
    ("products of these features overflow", lambda: scores.tracin([Z * 1e30], [Z * 1e30], [1.0])),
    ("rows have no elements", lambda: scores.prototypes(np.empty((8, 0)), Y)),
    ("between 0 and 1 for example 1", lambda: SEEN.visit([1], confidence=[1.1], correct=[1])),
    ("between 0 and 1 for example 1", lambda: SEEN.visit([1], confidence=[0.1], correct=[2])),
    ("no score 7 of training", lambda: Tracker(2, [7])),  # type: ignore[list-item]
]  # fmt: skip


@pytest.mark.parametrize(
    "words, call", REFUSED, ids=[f"{i} {words[:30]}" for i, (words, _) in enumerate(REFUSED)]
)
def test_what_cannot_be_meant_is_refused_in_words(words, call):
    with pytest.raises((UserError, TypeError), match=re.escape(words)):
        call()


def test_a_mask_is_no_list_of_positions_and_labels_are_no_mask():
    for planted in ([0, 2], [0, 1, 2], [0.0, 1.0, 1.0]):
        with pytest.raises(TypeError, match="holds booleans"):
            scores.auc([1.0, 2.0, 3.0], planted)
    assert scores.auc([1.0, 2.0, 3.0], [0, 1, 1]) == scores.auc([1, 2, 3], [False, True, True]) == 1


def test_runs_that_are_opposed_have_no_consistency_of_many():
    assert np.isnan(scores.spearman_brown(-0.5, 3)) and np.isnan(scores.spearman_brown(-1.0, 4))
    assert scores.spearman_brown(-0.5, 2) == -2.0 and scores.spearman_brown(0.5, 2) == pytest.approx(2 / 3)
    opposed = np.stack([np.arange(3.0), -np.arange(3.0)] * 3)
    assert np.isfinite(scores.reliability(opposed).r1)


def test_a_damaged_state_of_a_tracker_leaves_the_tracker_as_it_was():
    names = ["aum", "el2n", "settled"]
    tracker, other = Tracker(8, names), Tracker(8, names)
    for t in (tracker, other):
        t.update(np.arange(8), Z, Y, step=1)
    other.update(np.arange(8), -Z, Y, step=2)
    state, before = other.state_dict(), tracker.table().fingerprint()
    damages = [state | {name: wrong} for name in state for wrong in (np.zeros(3), "x", None)]
    damages += [{k: v for k, v in state.items() if k != name} for name in state if name != "labels"]
    for damaged in [*damages, {}, None, 3]:
        with pytest.raises(UserError):
            tracker.load_state_dict(damaged)  # type: ignore[arg-type]
        assert tracker.table().fingerprint() == before and tracker.step == 1
    tracker.load_state_dict(state)
    assert tracker.table().fingerprint() == other.table().fingerprint()


def test_labels_of_torch_models_are_looked_at():
    torch = pytest.importorskip("torch")
    net, x, y = torch.nn.Linear(3, 3), torch.from_numpy(Z), torch.from_numpy(Y)
    calls = (
        functools.partial(scores.grand, net),
        functools.partial(scores.per_example_gradients, net),
        functools.partial(scores.class_gradients, net),
        functools.partial(scores.gradient_features, net, k=4),
        functools.partial(scores.tracin_self, [net], [0.1]),
    )
    for call in calls:
        for wrong, words in (
            (y[:3], "labels of the shape"), (y.float(), "whole numbers from 0"),
            (y - 5, "whole numbers from 0"),
            (y + 9, "and the model gives 3 classes"),
        ):  # fmt: skip
            with pytest.raises(UserError, match=words):
                call(inputs=x, labels=wrong)
        found, given = call(inputs=x, labels=y), call(inputs=Z, labels=Y)  # numpy is taken too
        for a, b in zip(*((v.values() if isinstance(v, dict) else [v]) for v in (found, given)), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    with pytest.raises(UserError, match="a torch model is needed, not NoneType"):
        scores.grand(None, x, y)
    with pytest.raises(UserError, match="a torch model is needed, not NoneType"):
        scores.Features(None)
    with pytest.raises(UserError, match="chunk=0"):
        scores.grand(net, x, y, chunk=0)
    with pytest.raises(UserError, match="inputs=0"):
        scores.activations(torch.nn.Sequential(net), x[:0], ["0"])
    for models, rates in (([net], []), ([net, net], [0.1]), ([], [0.1]), ([net], [0.1, 0.2])):
        with pytest.raises(UserError, match="rate"):
            scores.tracin_self(models, rates, x, y)
