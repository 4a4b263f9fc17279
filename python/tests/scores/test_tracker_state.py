"""States of trackers, and runs that processes, shards and seeds put together."""

import itertools
from typing import Any

import numpy as np
import pytest
from histories import ALL, CLASSES, N, T, history, track, visit

from dither.errors import UserError
from dither.scores import ScoreTable, Tracker


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
