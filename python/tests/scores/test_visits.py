"""What a batch of visits is refused for, and that nothing of it is left behind."""

from typing import Any

import numpy as np
import pytest
from histories import CLASSES, history, track, visit

from dither.errors import UserError
from dither.scores import Tracker


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


def test_values_at_hand_are_looked_at_as_logits_are():
    """Of a visit: the last value is kept, its step does not fall, and what comes from logits is refused."""
    values = dict(confidence=np.full(2, 0.5), correct=np.ones(2))
    last = Tracker(3, ["correctness", "el2n", "loss"])
    for k, index in enumerate(([0, 1], [1, 2])):
        last.visit(np.array(index), **values, el2n=np.full(2, 0.1 + k), loss=np.full(2, 0.2 + k), step=k)
    assert last.table().values("el2n").tolist() == [[0.1, 1.1, 1.1]]
    assert last.table().values("loss").tolist() == [[0.2, 1.2, 1.2]]
    plain = Tracker(3, ["correctness"])
    plain.visit(np.array([0, 1]), **values, step=5)
    with pytest.raises(UserError, match="step=4 comes after step 5, and example 1"):
        plain.visit(np.array([1, 2]), **values, step=4)
    assert plain.table().values("correctness")[0, :2].tolist() == [1, 1] and plain.step == 5
    plain.visit(np.array([1, 2]), **values, step=5)
    with pytest.raises(UserError, match=r"settled comes from logits: use update\(\)"):
        Tracker(3, ["settled"]).visit(np.array([1, 2]), **values)


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
