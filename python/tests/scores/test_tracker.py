"""Training dynamics against their definitions over whole histories, and the published conventions."""

import itertools
import threading
from typing import Any

import numpy as np
import pytest
import torch

from dither.errors import UserError
from dither.scores import ScoreTable, Tracker
from dither.scores.catalogue import DYNAMICS

ALL = tuple(score.name for score in DYNAMICS)
PARTS = ("confidence", "correct", "margin", "loss", "el2n", "entropy")
N, T, CLASSES = 203, 23, 5


def history(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (T, N, CLASSES) of examples that are learned, forgotten or never right, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, N)
    pull = rng.normal(0.2, 1.0, N)[None, :] * np.linspace(0, 2, T)[:, None]
    z = rng.standard_normal((T, N, CLASSES))
    z[:, np.arange(N), y] += pull
    return z.astype(np.float32), y


def track(z: np.ndarray, y: np.ndarray, scores=ALL, seed: int = 1, batch: int = 17) -> Tracker:
    tracker, rng = Tracker(N, scores), np.random.default_rng(seed)
    for t in range(len(z)):
        order = rng.permutation(N)
        for start in range(0, N, batch):
            index = order[start : start + batch]
            tracker.update(index, z[t, index], y[index], step=t)
    return tracker


def definitions(z: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Straight from the formulas, in fp64, an example at a time."""
    z = z.astype(np.float64)
    p = np.exp(z - z.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    rows = np.arange(len(y))
    own = p[:, rows, y]
    guess = z.argmax(axis=2)
    right = guess == y
    hidden = z.copy()
    hidden[:, rows, y] = -np.inf
    target = np.zeros_like(p)
    target[:, rows, y] = 1
    never = ~right.any(axis=0)
    forgets = (right[:-1] & ~right[1:]).sum(axis=0)
    first = np.where(never, len(z), right.argmax(axis=0))
    last_wrong = np.array(
        [max((t + 1 for t in range(len(z)) if not right[t, i]), default=0) for i in range(len(y))]
    )
    return {
        "forgetting": np.where(never, len(z), forgets),
        "first_learned": first,
        "iteration_learned": last_wrong,
        "aum": (z[:, rows, y] - hidden.max(axis=2)).mean(axis=0),
        "confidence_mean": own.mean(axis=0),
        "variability": own.std(axis=0),
        "closeness": own.mean(axis=0) * (1 - own.mean(axis=0)),
        "settled": np.array(
            [max((t for t in range(1, len(z)) if g[t] != g[t - 1]), default=0) for g in guess.T]
        ),
        "correctness": right.mean(axis=0),
        "aleatoric": (own * (1 - own)).mean(axis=0),
        "loss_mean": -np.log(own).mean(axis=0),
        "el2n_mean": np.sqrt(((p - target) ** 2).sum(axis=2)).mean(axis=0),
        "entropy_mean": -(p * np.log(p)).sum(axis=2).mean(axis=0),
    }


def test_every_score_is_its_definition():
    z, y = history()
    table, expected = track(z, y).table(), definitions(z, y)
    for name in ALL:
        np.testing.assert_allclose(table.values(name)[0], expected[name], rtol=2e-6, atol=1e-7, err_msg=name)
    never = expected["correctness"] == 0
    assert never.any() and (expected["forgetting"][~never] > 0).any()


def test_conventions_for_examples_never_learned():
    z, y = history()
    table, expected = track(z, y).table(), definitions(z, y)
    never = expected["correctness"] == 0
    for dialect, value in {"data-diet": np.inf, "cartography": 1000, "deepcore": 0, "kwok": 0}.items():
        found = table.values("forgetting", dialect)[0]
        assert (found[never] == value).all()
        np.testing.assert_array_equal(found[~never], expected["forgetting"][~never])
    variance = expected["variability"] ** 2
    np.testing.assert_allclose(
        table.values("variability", "cartography-std-ci")[0],
        np.sqrt(variance + variance**2 / (T - 1)),
        rtol=2e-6,
    )
    np.testing.assert_array_equal(
        table.values("correctness", "cartography")[0], np.round(expected["correctness"] * T)
    )
    with pytest.raises(UserError, match="dialects"):
        table.values("forgetting", "nonsense")
    with pytest.raises(UserError, match="no dialects"):
        table.values("aum", "data-diet")


def test_what_was_never_learned_is_hardest_whatever_the_visits():
    """One wrong visit, against nine of which four were forgotten: it counted 1 and 4."""
    wrong, right = np.array([[0, 1.0]], np.float32), np.array([[1.0, 0]], np.float32)
    tracker = Tracker(3, ["forgetting"])
    tracker.update([0], wrong, [0])
    for k in range(9):
        tracker.update([1], wrong if k % 2 else right, [0])
    assert tracker.table().values("forgetting").tolist()[0][:2] == [9, 4]
    assert np.isnan(tracker.table().values("forgetting")[0, 2])
    assert np.isnan(Tracker(3, ["forgetting"]).table().values("forgetting")).all()


def test_the_order_of_batches_does_not_matter():
    z, y = history()
    tables = [track(z, y, seed=seed, batch=batch).table() for seed, batch in ((1, 17), (2, 203), (3, 1))]
    assert len({table.fingerprint() for table in tables}) == 1


def test_values_at_hand_and_torch():
    z, y = history()
    a = track(z, y, ["forgetting", "aum", "variability"])
    b = Tracker(N, ["forgetting", "aum", "variability"])
    for row in z:
        tensor = torch.from_numpy(row)
        p = tensor.double().softmax(dim=1)
        other = tensor.clone()
        other[torch.arange(N), torch.from_numpy(y)] = -torch.inf
        b.visit(
            torch.arange(N),
            confidence=p[torch.arange(N), torch.from_numpy(y)],
            correct=tensor.argmax(dim=1) == torch.from_numpy(y),
            margin=tensor[torch.arange(N), torch.from_numpy(y)] - other.amax(dim=1),
        )
    for name in a.scores:
        np.testing.assert_allclose(a.table().values(name), b.table().values(name), rtol=1e-5, atol=1e-7)
    with pytest.raises(UserError, match="need margin"):
        b.visit([0], confidence=[0.5], correct=[1])
    with pytest.raises(UserError, match=r"margin has NaN, infinity .* for example 0"):
        b.visit([0], confidence=[0.5], correct=[1], margin=[np.nan])


def misaligned(x: np.ndarray) -> np.ndarray:
    room = np.zeros(x.nbytes + 1, np.uint8)[1:]
    room[:] = np.frombuffer(x.tobytes(), np.uint8)
    return room.view(x.dtype)


FORMS = {
    "lists": lambda x: x.tolist(),
    "torch": torch.from_numpy,
    "strided": lambda x: np.repeat(x, 2)[::2],
    "misaligned": misaligned,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype),
    "32 bits": lambda x: x.astype("i4" if x.dtype.kind == "i" else "f4"),
}


@pytest.mark.parametrize("form", FORMS)
def test_values_of_any_form_give_the_same_histories(form):
    rng, make = np.random.default_rng(4), FORMS[form]
    plain, other = (Tracker(300, [n for n in ALL if n != "settled"]) for _ in range(2))
    for step in range(5):
        index = rng.permutation(300)[:77]
        values = {n: rng.random(77).astype(np.float32).astype(np.float64) for n in PARTS}
        plain.visit(index, **values, step=step)
        other.visit(make(index), **{n: make(v) for n, v in values.items()}, step=step)
    assert other.step == 4 and other.table().fingerprint() == plain.table().fingerprint()
    before = other.table().fingerprint()
    values["confidence"][3] = np.inf
    with pytest.raises(
        UserError, match=rf"confidence is inf and not between 0 and 1 for example {index[3]} at place 3"
    ):
        other.visit(make(index), **{n: make(v) for n, v in values.items()})
    with pytest.raises(UserError, match="entropy has 76 elements where 77 are needed"):
        other.visit(index, **{**values, "confidence": values["loss"], "entropy": values["entropy"][1:]})
    with pytest.raises(UserError, match="need margin"):
        other.visit(index, **{**values, "margin": None})
    assert other.table().fingerprint() == before


def test_scores_of_one_visit_keep_the_latest():
    z, y = history()
    tracker = track(z[:3], y, ["el2n", "loss"])
    found = tracker.table()
    again = Tracker(N, ["el2n", "loss"])
    again.update(np.arange(N), z[2], y)
    for name in ("el2n", "loss"):
        np.testing.assert_array_equal(found.values(name), again.table().values(name))
    assert found.runs["run"].provenance["step"] == 2


def test_bad_batches_leave_nothing_behind():
    z, y = history()
    tracker = track(z[:2], y)
    before = tracker.table().fingerprint()
    refusals = {
        "none of the 203 examples": ([1, 203], z[0, :2], y[:2]),
        "at place 0": ([-1, 5], z[0, :2], y[:2]),
        "stands in the batch before": ([4, 9, 4], z[0, :3], y[[4, 9, 4]]),
        f"example 8 at place 1 of the batch has the label {(y[8] + 1) % CLASSES}": (
            [2, 8],
            z[0, :2],
            [y[2], (y[8] + 1) % CLASSES],
        ),
        "4 classes where earlier ones had 5": ([1], np.zeros((1, 4), np.float32), [0]),
        "outside the 5 classes": ([1], z[0, :1], [5]),
        "row 1": ([1, 2], np.array([[0.0] * 5, [np.nan] + [0.0] * 4], np.float32), [0, 0]),
        "index has 3": ([1, 2, 3], z[0, :2], y[:2]),
    }
    for message, (index, logits, labels) in refusals.items():
        with pytest.raises(UserError, match=message):
            tracker.update(index, logits, labels)
    for mask in ([True, False], np.array([False, True])):
        with pytest.raises(TypeError, match="positions of a mask"):
            tracker.update(mask, z[0, :2], y[:2])
    assert tracker.table().fingerprint() == before
    tracker.update([], np.empty((0, 5), np.float32), [])
    assert tracker.table().fingerprint() == before


def test_never_visited_examples_have_no_score():
    z, y = history()
    tracker = Tracker(N, (*ALL, "el2n"))
    tracker.update([3, 7], z[0, [3, 7]], y[[3, 7]])
    table = tracker.table()
    for name in (*ALL, "el2n"):
        seen = np.flatnonzero(np.isfinite(table.values(name)[0]))
        np.testing.assert_array_equal(seen, [3, 7], err_msg=name)


def test_state_goes_on_bit_for_bit():
    z, y = history()
    whole = track(z, y, (*ALL, "el2n")).table().fingerprint()
    first, second = track(z[:9], y, (*ALL, "el2n")), Tracker(N, (*ALL, "el2n"))
    second.load_state_dict(first.state_dict())
    rng = np.random.default_rng(9)
    for t in range(9, T):
        order = rng.permutation(N)
        second.update(order, z[t, order], y[order], step=t)
    assert second.table().fingerprint() == whole
    with pytest.raises(UserError, match="not of the 204 examples"):
        Tracker(204, (*ALL, "el2n")).load_state_dict(first.state_dict())
    other = {k: v for k, v in first.state_dict().items() if k != "records.rest"}
    with pytest.raises(UserError, match="another version"):
        second.load_state_dict(other)
    assert second.table().fingerprint() == whole


def test_a_damaged_state_is_refused_whole():
    """Histories were replaced before a part that was missing was looked for; one number stood for all."""
    z, y = history()
    scores = ("el2n", "aum", "settled")
    whole = track(z[:3], y, scores).state_dict()
    target = track(z[:5], y, scores, seed=2)
    before = target.state_dict()
    wrong: list[Any] = [{k: v for k, v in whole.items() if k != name} for name in whole]
    for name, values in whole.items():
        if name == "about":
            wrong += [whole | {name: {k: v for k, v in values.items() if k != key}} for key in values]
            wrong += [whole | {name: other} for other in (None, 3, {**values, "classes": None})]
            continue
        wrong += [whole | {name: other} for other in (values[:1], values[:-1], np.append(values, values[:1]))]
        wrong += [whole | {name: other} for other in (None, "x", values[:, None])]
        if not name.startswith("records"):
            wrong.append(whole | {name: values.astype(bool)})
    for state in [*wrong, None, []]:
        with pytest.raises(UserError, match=r"not of the 203 examples|no state of a tracker"):
            target.load_state_dict(state)
        after = target.state_dict()
        assert after.keys() == before.keys() and after["about"] == before["about"]
        assert all(
            np.array_equal(after[k], v, equal_nan=v.dtype.kind == "f")
            for k, v in before.items()
            if k != "about"
        )
    target.load_state_dict(whole)
    assert target.table().fingerprint() == track(z[:3], y, scores).table().fingerprint()
    plain = Tracker(N, ["aum"])  # values at hand: no labels are known
    visit(plain, [0, 1], 0)
    again = Tracker(N, ["aum"])
    again.load_state_dict(plain.state_dict())
    assert again.table().fingerprint() == plain.table().fingerprint()


def test_a_process_without_a_batch_merges():
    z, y = history()
    busy, idle = track(z[:2], y), Tracker(N, ALL)
    for tables in ((busy, idle), (idle, busy)):
        merged = tables[0].table("a").merge(tables[1].table("a"))
        assert merged.fingerprint() == busy.table("a").fingerprint()
        assert merged.runs["a"].provenance == busy.table("a").runs["a"].provenance
    assert (idle.table().labels() == -1).all()


def test_threads_may_update_at_once():
    z, y = history()
    tracker = Tracker(N, ALL)

    def work(part: np.ndarray) -> None:
        for t in range(T):
            tracker.update(part, z[t, part], y[part])

    parts = np.array_split(np.arange(N), 4)
    threads = [threading.Thread(target=work, args=(part,)) for part in parts]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert tracker.table().fingerprint() == track(z, y).table().fingerprint()


def test_memory_and_names():
    plain = [name for name in ALL if name != "settled"]
    assert Tracker(1000, plain).nbytes == 48_000 and Tracker(1000).nbytes == 48_000
    z, y = history()
    assert track(z[:1], y, plain).nbytes == 52 * N  # and the labels
    assert track(z[:1], y).nbytes == 60 * N  # and the last prediction, and when it changed
    with pytest.raises(UserError, match="did you mean 'forgetting'"):
        Tracker(5, ["forgeting"])
    with pytest.raises(UserError, match="positive"):
        Tracker(0)
    table = Tracker(5, ["forgetting"]).table()
    assert isinstance(table, ScoreTable) and "forgetting" in table.scores
    with pytest.raises(UserError, match="aum"):
        table.values("aum")


def test_processes_that_track_their_share_of_the_data_give_the_table_of_one():
    z, y = history()
    shares = np.array_split(np.random.default_rng(3).permutation(N), 4)[:3]  # some are never visited
    scores = (*ALL, "el2n")
    alone, ranks = Tracker(N, scores), [Tracker(N, scores) for _ in shares]
    for t in range(T):
        for tracker, share in zip(ranks, shares, strict=True):
            for one in (tracker, alone):
                one.update(share, z[t, share], y[share], step=t)
    tables = [tracker.table("seed-0") for tracker in ranks]
    for order in itertools.permutations(tables):
        merged = order[0].merge(*order[1:])
        assert merged.fingerprint() == alone.table("seed-0").fingerprint()
        assert merged.merge(order[0]).fingerprint() == merged.fingerprint()
        assert merged.runs["seed-0"].provenance == {"step": T - 1, "classes": CLASSES}
    ranks[0].update(shares[1][:2], z[0, shares[1][:2]], y[shares[1][:2]])
    with pytest.raises(UserError, match="different values for 2 examples"):
        ranks[0].table("seed-0").merge(tables[1])
    # A number beside no visits is not thrown away.
    seen = tables[0].with_scores("seed-0", {"vog": np.arange(N)})
    with pytest.raises(UserError, match="different columns"):
        seen.merge(tables[1])
    with pytest.raises(UserError, match="different values"):
        seen.merge(tables[1].with_scores("seed-0", {"vog": np.zeros(N)}))


def test_runs_of_other_data_do_not_merge():
    z, y = history()
    table = track(z[:2], y).table("a")
    other = y.copy()
    other[17] = (other[17] + 1) % CLASSES
    with pytest.raises(
        UserError, match=r"other labels than the runs before it for 1 examples, .*17.* among them"
    ):
        table.merge(track(z[:2], other).table("b"))
    part = Tracker(N, ALL)  # shares no example with the run that differs
    part.update(np.arange(10), z[0, :10], y[:10])
    assert set(track(z[:2], other).table("b").merge(part.table("c")).runs) == {"b", "c"}
    wider = np.concatenate([z, z[:, :, :1] - 9], axis=2)
    with pytest.raises(UserError, match="5 and 6 classes"):
        table.merge(track(wider[:2], y).table("b"))
    with pytest.raises(UserError, match="different data: mnist and digits"):
        part.table("c", data="mnist").merge(part.table("d", data="digits"))
    assert track(z[:2], y).table("b").merge(table).runs["a"].columns["label"].tolist() == y.tolist()
    assert "label" not in table.scores_of_any


def test_labels_are_compared_through_runs_that_know_only_some():
    y = np.arange(6) % 3
    z = np.zeros((6, 3), np.float32)

    def run(name: str, index, labels) -> ScoreTable:
        tracker = Tracker(6, ["el2n"])
        tracker.update(index, z[index], labels[index])
        return tracker.table(name)

    changed = y.copy()
    changed[4] = 0
    a, b, c = run("a", [0, 1, 2], y), run("b", [3, 4, 5], y), run("c", [0, 4], changed)
    assert len(a.merge(b).runs) == 2 and len(a.merge(c).runs) == 2
    for tables in ((a, b, c), (c, b, a), (b, a, c)):
        with pytest.raises(UserError, match="not of the same data"):
            tables[0].merge(*tables[1:])


def test_a_step_that_is_none_leaves_nothing_behind_and_a_state_that_is_none_is_refused():
    tracker = Tracker(4, scores=["aum"])
    wrong: Any = ("x", 1.5, np.nan)
    for step in wrong:
        with pytest.raises(UserError, match="step= is a whole number"):
            tracker.update([0, 1], np.zeros((2, 3)), [0, 1], step=step)
        with pytest.raises(UserError, match="step= is a whole number"):
            tracker.visit([0, 1], confidence=[0.5, 0.5], correct=[1, 1], margin=[0.1, 0.1], step=step)
    assert not tracker.table().runs["run"].columns["visits"].any()
    tracker.update([0, 1], np.zeros((2, 3)), [0, 1], step=np.int64(3))
    assert tracker.step == 3 and type(tracker.step) is int
    with pytest.raises(UserError, match="lacks 'about'"):
        tracker.load_state_dict({})


def visit(tracker: Tracker, index, step, **more) -> None:
    half = np.full(len(index), 0.5)
    tracker.visit(index, confidence=half, correct=half, margin=half, step=step, **more)


@pytest.mark.parametrize("scores", [["aum"], ["aum", "margin"]])
def test_steps_do_not_fall_for_examples_that_were_visited(scores):
    """A loop that goes on from its checkpoint without the tracker's state would count visits twice."""
    tracker = Tracker(6, scores)
    for step in (-1, np.int64(-5)):
        with pytest.raises(UserError, match="counts from 0"):
            visit(tracker, [0, 1], step)
    for step in (0, 0, 3, 7):
        visit(tracker, [0, 1, 2], step)
    before = tracker.table().fingerprint()
    with pytest.raises(UserError, match=r"step=6 comes after step 7, and example 2 .*load_state_dict"):
        visit(tracker, [4, 2], 6)
    with pytest.raises(UserError, match="comes after"):
        tracker.update([2], np.zeros((1, 3)), [0], step=6)
    assert tracker.table().fingerprint() == before and tracker.step == 7
    with pytest.raises(UserError, match="none of the 6"):
        visit(tracker, [7], 6)
    visit(tracker, [0, 1], None)  # without a step nothing is said of order
    for step in (0, 3, 7):  # the next shard
        visit(tracker, [3, 4, 5], step)
    assert tracker.table().runs["run"].columns["visits"].tolist() == [5, 5, 4, 3, 3, 3]
    restored = Tracker(6, scores)
    restored.load_state_dict(tracker.state_dict())
    with pytest.raises(UserError, match="comes after"):
        visit(restored, [0], 2)


def test_a_tracker_of_no_scores_is_refused():
    for none in ([], (), iter([])):
        with pytest.raises(UserError, match="scores= is empty: name what is tracked, such as forgetting"):
            Tracker(3, none)


def test_numbers_beyond_fp32_are_refused_by_name():
    tracker = Tracker(3, ["loss_mean"])
    for bad in (np.nan, np.inf, 2.0**127, -1e300):
        with pytest.raises(UserError, match="loss has NaN, infinity or a number beyond fp32 for example 1"):
            tracker.visit([0, 1], confidence=[0.5, 0.5], correct=[1.0, 1.0], loss=[0.0, bad])
    tracker.visit([0, 1], confidence=[0.5, 0.5], correct=[1.0, 1.0], loss=[0.0, 1e38])
    np.testing.assert_allclose(tracker.table().values("loss_mean")[0], [0.0, 1e38, np.nan], rtol=1e-7)


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


def test_logits_without_a_mean_are_refused_in_words():
    z = np.zeros((2, 3), np.float32)
    z[1, 2] = -np.inf
    for scores, column in ((["loss_mean"], "loss"), (["aum", "forgetting"], "margin")):
        said = f"{column} has NaN, infinity .* for example 1 .*-infinity, .* leave no {column} to average"
        with pytest.raises(UserError, match=said):
            Tracker(2, scores).update([0, 1], z, [0, 2])
    fine = Tracker(2, ["confidence_mean", "forgetting", "el2n_mean"])
    fine.update([0, 1], z, [0, 2])
    np.testing.assert_allclose(fine.table().values("confidence_mean")[0], [1 / 3, 0], rtol=1e-6)
    with pytest.raises(UserError, match=r"for example 0 .* of one class alone, leave no margin to average"):
        Tracker(2, ["aum"]).update([0, 1], z[:, :1], [0, 0])
    one = Tracker(2, ["confidence_mean"])
    one.update([0, 1], z[:, :1], [0, 0])
    assert one.table().values("confidence_mean").tolist() == [[1, 1]]


def test_a_softmax_may_sum_to_a_little_more():
    tracker = Tracker(2, ["confidence_mean"])
    tracker.visit([0, 1], confidence=[1 + 2**-9, 1.0], correct=[True, False])
    assert tracker.table().values("confidence_mean").tolist() == [[1, 1]]
