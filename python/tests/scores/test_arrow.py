"""Arrow arrays are read where they lie."""

import numpy as np
import pyarrow as pa
import pytest

from dither.errors import UserError
from dither.scores import Tracker, knn_shapley, logit_scores, rank, sequence_scores, vog
from dither.scores.borrowed import borrow, floats, integers

RNG = np.random.default_rng(0)
Z = RNG.standard_normal((20, 6)).astype(np.float32)
Y = RNG.integers(0, 6, 20)


def rows(z: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(z.ravel()), z.shape[1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_of_logits_are_not_copied(dtype):
    z = Z.astype(dtype)
    whole = rows(z)
    start = whole.values.buffers()[1].address
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(z)
    kinds = {
        "lists": (whole, start),
        "a slice": (whole[3:], start + 3 * 6 * z.itemsize),
        "a column": (pa.table({"z": whole})["z"], start),
        "a tensor": (tensor, tensor.storage.values.buffers()[1].address),
    }
    expected = logit_scores(z, Y)
    for name, (given, address) in kinds.items():
        found = borrow(given, 2, "logits")
        assert found.ptr == address and found.shape == (len(given), 6), name
        scores = logit_scores(given, pa.array(Y[20 - len(given) :]))
        for score, values in scores.items():
            np.testing.assert_array_equal(values, expected[score][20 - len(given) :], err_msg=name)


def test_lists_of_any_length_and_chunks():
    variable = pa.array(Z.tolist(), pa.list_(pa.float32()))
    chunks = pa.chunked_array([rows(Z[:7]), rows(Z[7:])])
    for given in (variable, variable[2:], chunks):
        expected = logit_scores(Z[20 - len(given) :], Y[20 - len(given) :])
        found = logit_scores(given, Y[20 - len(given) :])
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with pytest.raises(UserError, match="different lengths, 1 to 2"):
        logit_scores(pa.array([[1.0], [1.0, 2.0]]), [0, 0])
    assert borrow(rows(Z)[:0], 2, "logits").shape == (0, 6)


def test_columns_of_numbers():
    x = pa.array(RNG.standard_normal(9))
    assert floats(x, "x", 9).ctypes.data == x.buffers()[1].address
    ids = pa.array([3, 1, 2])
    assert integers(ids, "ids").ctypes.data == ids.buffers()[1].address
    np.testing.assert_array_equal(rank(x), rank(x.to_numpy()))
    np.testing.assert_array_equal(integers(pa.array([True, False]), "mask"), [1, 0])
    tracker = Tracker(3, ["correctness"])
    tracker.visit(
        ids.take(pa.array([1, 2])), confidence=pa.array([0.5, 0.25]), correct=pa.array([True, False])
    )
    np.testing.assert_array_equal(tracker.table().values("correctness"), [[np.nan, 1, 0]])
    values = knn_shapley(rows(Z), pa.array(Y), rows(Z[:4]), pa.array(Y[:4]), 3)
    np.testing.assert_array_equal(values, knn_shapley(Z, Y, Z[:4], Y[:4], 3))


def test_trackers_and_sequences_take_arrow_and_lists():
    tables = []
    for give in (lambda x: x, lambda x: rows(x) if x.ndim > 1 else pa.array(x), lambda x: x.tolist()):
        tracker = Tracker(20, ["el2n", "aum", "settled"])
        for index in np.array_split(RNG.permutation(20), 3):
            tracker.update(give(index), give(Z[index]), give(Y[index]))
        tables.append(tracker.table().fingerprint())
    assert len(set(tables)) == 1
    z, y, mask = Z.reshape(4, 5, 6), Y.reshape(4, 5), np.arange(20).reshape(4, 5) % 3 > 0
    nested = pa.FixedSizeListArray.from_arrays(rows(Z), 5)
    expected = sequence_scores(z, y, mask=mask)
    assert borrow(nested, 3, "logits").shape == z.shape
    assert borrow(nested, 3, "logits").ptr == nested.values.values.buffers()[1].address
    for given in ((nested, rows(y), pa.array(mask.tolist())), (z.tolist(), y.tolist(), mask.tolist())):
        found = sequence_scores(given[0], given[1], mask=given[2])
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_array_equal(vog(nested, how="kwok"), vog(z, how="kwok"))


def test_nulls_and_other_types_are_refused():
    with pytest.raises(UserError, match="labels has 1 nulls"):
        logit_scores(Z[:2], pa.array([1, None]))
    with pytest.raises(UserError, match="logits has 1 nulls"):
        logit_scores(pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), [0, 1])
    with pytest.raises(UserError, match="logits has 1 nulls"):
        logit_scores(pa.array([[1.0, None]], pa.list_(pa.float32(), 2)), [0])
    with pytest.raises(UserError, match="string, which holds no plain numbers"):
        rank(pa.array(["a", "b"]))
