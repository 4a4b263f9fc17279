"""Training dynamics against their definitions over whole histories, and the published conventions."""

import threading

import numpy as np
import pytest
import torch
from histories import ALL, N, T, history, track

from dither.errors import UserError
from dither.scores import ScoreTable, Tracker

PARTS = ("confidence", "correct", "margin", "loss", "el2n", "entropy")


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


def test_never_visited_examples_have_no_score():
    z, y = history()
    tracker = Tracker(N, (*ALL, "el2n"))
    tracker.update([3, 7], z[0, [3, 7]], y[[3, 7]])
    table = tracker.table()
    for name in (*ALL, "el2n"):
        seen = np.flatnonzero(np.isfinite(table.values(name)[0]))
        np.testing.assert_array_equal(seen, [3, 7], err_msg=name)


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
