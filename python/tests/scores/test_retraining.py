"""Comparisons with random: intervals that cover, verdicts that know their power, trainings made once."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from dither.errors import UserError
from dither.scores import retrain, selection
from dither.scores.trainings import code_of

N = 200
VALUE = np.linspace(-1, 1, N)


def noisy(spread: float, calls: list | None = None):
    """Training gives the mean value of its examples, and noise of its own."""

    def train(kept, seed):
        if calls is not None:
            calls.append((len(kept), seed))
        own = np.random.default_rng([seed, int(kept.sum())])
        return float(VALUE[kept].mean() + spread * own.standard_normal())

    return train


def test_the_interval_is_that_of_a_paired_t_test():
    found = retrain(noisy(0.1), {"good": selection.top(VALUE, 50)}, N, seeds=6).comparisons["good"]
    expected = stats.ttest_rel(found.results, found.baseline).confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(expected), rel=1e-9)
    assert found.kept == 50 and found.verdict == "better" and "better than random" in str(found)


def test_losses_are_better_where_they_are_lower():
    choices = {"top": selection.top(VALUE, 50), "bottom": selection.bottom(VALUE, 50)}
    found = retrain(noisy(0.1), choices, N, seeds=6, higher_is_better=False, full=True)
    assert {name: c.verdict for name, c in found.comparisons.items()} == {"top": "worse", "bottom": "better"}
    assert len(found.full) == 6 and "for all 2 at once" in str(found) and "all examples" in str(found)
    assert found.comparisons["top"].interval.confidence == pytest.approx(0.975)


def test_a_random_choice_is_told_apart_as_rarely_as_the_confidence_says():
    """300 comparisons of random with random at 90 %: 30 +- 5.2 wrong verdicts; 14..46 is three deviations."""
    wrong = 0
    for trial in range(300):
        mine = {"mine": lambda seed, trial=trial: selection.random(N, 20, seed=1000 * trial + seed)}
        seeds = range(100 * trial, 100 * trial + 5)
        found = retrain(noisy(0.05), mine, N, seeds=seeds, confidence=0.9)
        wrong += found.comparisons["mine"].verdict != "not told apart"
    assert 14 <= wrong <= 46


def test_the_detectable_difference_is_detected_in_four_of_five():
    """A selection whose true advantage is what 8 seeds can show: power .8, of 200 trials 160 +- 5.7."""
    spread, better, seeds = 0.2, 0, 8
    # sd of a difference is sqrt(2) spread; the true difference follows from the formula of the docstring.
    t = stats.t(seeds - 1)
    effect = (t.ppf(0.975) + t.ppf(0.8)) * spread * np.sqrt(2 / seeds)

    for trial in range(200):

        def train(kept, seed, trial=trial):
            noise = np.random.default_rng([trial, seed, int(kept[0] == 0)]).standard_normal()
            return spread * noise + (effect if kept[0] == 0 and len(kept) == 100 and kept[99] == 99 else 0)

        found = retrain(train, {"first": np.arange(100)}, N, seeds=seeds).comparisons["first"]
        better += found.verdict == "better"
    assert 140 <= better <= 177


def test_equal_sizes_share_their_partners_and_a_record_goes_on(tmp_path):
    calls, record = [], tmp_path / "t.jsonl"
    choices = {"a": selection.top(VALUE, 50), "b": selection.bottom(VALUE, 50)}
    whole = retrain(noisy(0.1, calls), choices, N, seeds=3, record=record)
    assert len(calls) == 9 == len(record.read_text().splitlines())
    record.write_text("".join(record.read_text(encoding="utf-8").splitlines(keepends=True)[:4]) + '{"exam')
    again = retrain(noisy(0.1, calls), choices, N, seeds=3, record=record)
    assert again == whole and len(calls) == 14
    assert [json.loads(line)["kept"] for line in record.read_text().splitlines()] == [50] * 9


def test_dropping_wrong_labels_is_better_than_random():
    """A linear model of 60 inputs, 30 % of the signs flipped; easy and hard by fits that did not see them."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((800, 60)), rng.standard_normal(60)
    flipped = rng.random(800) < 0.3
    y = np.where(flipped, -1, 1) * np.sign(x @ w)
    test = rng.standard_normal((2000, 60))

    def fit(kept):
        return np.linalg.lstsq(x[kept], y[kept], rcond=None)[0]

    halves = [np.arange(0, 800, 2), np.arange(1, 800, 2)]
    loss = np.zeros(800)
    for mine, other in (halves, halves[::-1]):
        loss[mine] = -(x[mine] @ fit(other)) * y[mine]

    def train(kept, seed):
        drawn = np.random.default_rng(seed).choice(kept, len(kept))  # a bootstrap stands for the seed
        return float((np.sign(test @ fit(drawn)) == np.sign(test @ w)).mean())

    choices = {"easy": selection.bottom(loss, 400), "hard": selection.top(loss, 400)}
    assert flipped[choices["easy"]].mean() < 0.2 < 0.4 < flipped[choices["hard"]].mean()
    found = retrain(train, choices, 800, seeds=5).comparisons
    assert found["easy"].verdict == "better" and found["hard"].verdict == "worse"


def test_what_cannot_be_compared_is_refused(tmp_path):
    good = {"a": np.arange(5)}
    cases: list[tuple[dict, dict, str]] = [
        ({}, {}, "no selection"),
        (good, {"seeds": 1}, "at least 2"),
        (good, {"seeds": [1, 1]}, "different seeds"),
        ({"a": [0, 0]}, {}, "different positions"),
        ({"a": [N]}, {}, "different positions"),
        ({"a": np.arange(0)}, {}, "at least one"),
        (good, {"confidence": 1.0}, "between 0 and 1"),
        (good, {"seeds": [-1, 2]}, "not negative"),
        (good, {"seeds": [0.5, 2]}, "not negative"),
        ({"a": lambda seed: np.arange(1 + seed)}, {}, "as many examples for every seed"),
        (good, {"record": tmp_path}, "a folder that exists"),
        (good, {"record": tmp_path / "none" / "x.jsonl"}, "a folder that exists"),
    ]
    for choices, more, said in cases:
        with pytest.raises(UserError, match=said):
            retrain(noisy(1.0), choices, N, **more)
    with pytest.raises(UserError, match="gave nan"):
        retrain(lambda kept, seed: float("nan"), good, N)
    with pytest.raises(TypeError, match="positions of a mask"):
        retrain(noisy(1.0), {"a": VALUE > 0}, N)
    with pytest.raises(UserError, match="gave None"):
        retrain(lambda kept, seed: None, good, N)  # pyright: ignore[reportArgumentType]
    (tmp_path / "x.jsonl").write_text("no json\n")
    with pytest.raises(UserError, match="no record"):
        retrain(noisy(1.0), good, N, record=tmp_path / "x.jsonl")


def test_one_and_the_same_difference_is_no_verdict():
    """An interval of no width was taken for a proof."""

    def constant(value: float):
        return lambda kept, seed: value if kept[0] == 5 else 0.1 + 0.2

    chosen = {"mine": np.array([5, 6])}
    for value in (0.9, 0.1):
        found = retrain(constant(value), chosen, 1000, seeds=3).comparisons["mine"]
        assert found.verdict == "no verdict" and "every seed gives the same difference" in str(found)
    same = retrain(constant(0.3), chosen, 1000, seeds=3).comparisons["mine"]  # .1 + .2 is not quite .3
    assert same.verdict == "not told apart" and "would be seen" not in str(same)

    def wide(kept, seed):
        return (0.9 if kept[0] == 5 else 0.3) + 1e-6 * seed * kept[0]

    assert retrain(wide, chosen, 1000, seeds=3).comparisons["mine"].verdict == "better"


def test_a_record_holds_trainings_of_other_code_apart(tmp_path):
    record, chosen = tmp_path / "t.jsonl", {"a": np.arange(5)}

    def scaled(by: float):
        return lambda kept, seed: by * float(kept.mean()) + seed

    def result(train, **more) -> float:
        return float(
            np.mean(retrain(train, chosen, N, seeds=2, record=record, **more).comparisons["a"].results)
        )

    assert result(scaled(1.0)) == 2.5 and result(scaled(2.0)) == 4.5 and result(scaled(1.0)) == 2.5
    assert result(partial(lambda by, kept, seed: by + seed, 7.0)) == 7.5
    assert result(partial(lambda by, kept, seed: by + seed, 8.0)) == 8.5
    assert len(record.read_text().splitlines()) == 16
    # A tag stands for the code.
    assert result(scaled(1.0), tag="x") == 2.5 and result(scaled(2.0), tag="x") == 2.5
    assert result(scaled(2.0), tag="y") == 4.5
    record.write_text('{"examples": "a", "seed": 0, "result": 1.0}\n')
    with pytest.raises(UserError, match="no record of trainings"):
        result(scaled(1.0))


def test_the_code_of_a_function():
    def outer(depth):
        return outer(depth - 1) if depth else 0

    class Model:
        def __call__(self, kept, seed):
            return 0.0

        def train(self, kept, seed):
            return 1.0

    kinds = [outer, Model(), Model().train, len, partial(outer, depth=2), lambda k, s: k in {"a", "b", 3}]
    text = "RATE = {}\ndef fit(x):\n    return x * RATE + {}\ndef train(kept, seed):\n    return fit(seed)\n"
    for rate, more in ((0.1, 1), (0.2, 1), (0.1, 2)):  # what a function calls, and the constants there
        module: dict = {"__name__": "mine"}
        exec(text.format(rate, more), module)
        kinds.append(module["train"])
    hashes = [code_of(kind) for kind in kinds]
    for train in kinds[-3:]:
        assert train([], 2) == train([], 2)  # byte code that was run is the same
    assert len(set(hashes)) == len(kinds) and hashes == [code_of(kind) for kind in kinds]


def test_the_arrays_of_a_function(monkeypatch):
    """Those it encloses, and those of its module, by their bytes; where they lie does not count."""
    x, y = np.arange(12.0).reshape(3, 4), torch.arange(12, dtype=torch.bfloat16)

    def enclosing(array):
        return lambda kept, seed: float(array[0]) + seed

    kinds = [
        x,
        x.copy(order="F"),
        x.T,
        x.ravel(),
        x.astype(np.float32),
        -0.0 * x,
        y,
        y.float(),
        x[:0],
        x[0, 0],
    ]
    hashes = [code_of(enclosing(array)) for array in kinds]
    assert hashes[0] == hashes[1] and len(set(hashes)) == len(kinds) - 1
    assert code_of(enclosing(y.clone())) == hashes[6]
    objects = [np.array([object()]) for _ in range(2)]  # whose bytes are addresses
    objects += [np.array([(1.0, object())], dtype=[("a", float), ("b", object)]) for _ in range(2)]
    assert len({code_of(enclosing(array)) for array in objects}) == 2
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    for array in (
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        masked,
        torch.ones(2, requires_grad=True),
    ):
        assert code_of(enclosing(array)) == code_of(enclosing(array)) != code_of(enclosing(x))
    modules: list[dict] = [{"__name__": "mine", "DATA": array} for array in (x, x + 1)]
    for module in modules:
        exec("def train(kept, seed):\n    return DATA[kept].sum()\n", module)
    assert code_of(modules[0]["train"]) != code_of(modules[1]["train"])
    # Of what is large some rows count, the first and the last among them, and its shape.
    monkeypatch.setattr("dither.scores.trainings.PART", 64)
    long = np.zeros((100, 4))
    ends = [long.copy() for _ in range(3)]
    ends[0][0], ends[1][-1], ends[2][1] = 1, 1, 1
    changed = [code_of(enclosing(array)) != code_of(enclosing(long)) for array in (*ends, long[:99])]
    assert changed == [True, True, False, True]


def test_nothing_is_hashed_without_a_record(monkeypatch):
    monkeypatch.setattr("dither.scores.trainings.code_of", None)
    assert retrain(lambda kept, seed: float(seed), {"a": [1, 2]}, 5, seeds=2).comparisons["a"].results == (
        0,
        1,
    )


def test_a_record_does_not_take_results_of_other_data(tmp_path):
    record = tmp_path / "t.jsonl"

    def results(data):
        found = retrain(lambda kept, seed: float(data[kept].mean()), {"a": [1, 2]}, 5, seeds=2, record=record)
        return found.comparisons["a"].results

    assert results(np.arange(5.0)) == (1.5, 1.5) and results(np.arange(5.0) * 2) == (3.0, 3.0)
    assert results(np.arange(5.0)) == (1.5, 1.5) and len(record.read_text().splitlines()) == 8


def test_two_writers_of_a_record_are_refused(tmp_path):
    record, chosen = tmp_path / "t.jsonl", {"a": np.arange(5)}

    def inner(kept, seed):
        with pytest.raises(UserError, match="in use by another process"):
            retrain(noisy(1.0), chosen, N, record=record)
        return float(seed + kept[0])

    retrain(inner, chosen, N, seeds=2, record=record)
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"]


def test_numpys_number_of_seeds_is_one():
    assert len(retrain(noisy(1.0), {"a": [1]}, N, seeds=np.int64(3)).comparisons["a"].results) == 3
