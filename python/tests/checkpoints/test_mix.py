"""The mix of formats: against all possible mixes on small cases, and its bound and speed on large ones."""

import itertools
import time

import numpy as np
import pytest

from dither.checkpoints import mix


def brute_force(sizes, errors, budget) -> float:
    best = float("inf")
    for picks in itertools.product(*(range(len(row)) for row in sizes)):
        if sum(row[j] for row, j in zip(sizes, picks, strict=True)) <= budget:
            best = min(best, sum(row[j] for row, j in zip(errors, picks, strict=True)))
    return best


@pytest.mark.parametrize("seed", range(120))
def test_it_is_the_best_of_all_mixes(seed):
    random = np.random.default_rng(seed)
    n, k = random.integers(1, 7), random.integers(1, 5)
    high = [4, 50, 10**9][seed % 3]  # many equal sizes, few, none
    sizes = random.integers(1, high, (n, k)).tolist()
    errors = (random.random((n, k)) * 10.0 ** random.integers(-6, 6, (n, 1))).tolist()
    if seed % 4 == 0:
        errors = random.integers(0, 3, (n, k)).astype(float).tolist()  # ties and zeros
    smallest, largest = sum(map(min, sizes)), sum(map(max, sizes))
    for budget in sorted(
        {smallest, (smallest + largest) // 2, largest, *random.integers(smallest, largest + 1, 3)}
    ):
        found = mix.solve(sizes, errors, int(budget))
        assert found is not None and found.exact
        assert found.nbytes == sum(row[j] for row, j in zip(sizes, found.picks, strict=True)) <= budget
        assert found.error == pytest.approx(brute_force(sizes, errors, budget), rel=1e-12)


def test_what_cannot_fit_is_none():
    assert mix.solve([[5, 7], [3]], [[1.0, 0.0], [0.0]], 7) is None
    assert mix.solve([[5, 7], [3]], [[1.0, 0.0], [0.0]], 8) is not None


def model(tensors: int, seed: int):
    """Sizes and errors as those of a transformer: few shapes, seven formats, error falling with the bits."""
    random = np.random.default_rng(seed)
    weights = random.choice([384 * 384, 384 * 1536, 4096 * 4096, 4096 * 11008, 1024 * 4096], tensors)
    bits = np.array([4.0, 4.25, 4.5, 6.25, 8.125, 8.25, 16.0])
    sizes = (weights[:, None] * bits / 8).astype(int)
    errors = 4.0**-bits * random.lognormal(0, 0.7, (tensors, 1)) * random.lognormal(0, 0.1, (tensors, 7))
    errors[:, -1] = 0
    return sizes.tolist(), errors.tolist(), int(weights.sum())


@pytest.mark.parametrize("bits", [4.1, 4.6, 5.3, 7.0, 9.0, 20.0])
def test_a_model_of_300_tensors_is_solved_exactly_and_quickly(bits):
    sizes, errors, weights = model(300, seed=1)
    begun = time.process_time()
    found = mix.solve(sizes, errors, int(weights * bits / 8))
    assert found is not None and found.exact
    assert time.process_time() - begun < 5
    greedy, price = mix._walk_hulls(sizes, errors, int(weights * bits / 8))
    assert found.error <= mix._error(errors, greedy)
    assert found.error >= mix._dual(sizes, errors, int(weights * bits / 8), price) * (1 - 1e-9)


def test_more_states_than_allowed_give_the_greedy_mix_and_an_honest_bound(monkeypatch):
    random = np.random.default_rng(3)
    sizes = random.integers(10**6, 10**9, (8, 4)).tolist()
    errors = random.random((8, 4)).tolist()
    budget = sum(map(min, sizes)) + 10**9
    best = mix.solve(sizes, errors, budget)
    monkeypatch.setattr(mix, "MAX_STATES", 1)
    found = mix.solve(sizes, errors, budget)
    assert found is not None and best is not None and not found.exact
    assert found.nbytes <= budget and found.bound <= best.error <= found.error


def test_the_hull_drops_what_a_combination_of_others_beats():
    assert mix.hull([1, 2, 3], [10.0, 9.0, 0.0]) == [0, 2]
    assert mix.hull([1, 2, 3], [10.0, 4.0, 0.0]) == [0, 1, 2]
    assert mix.hull([2, 1, 3], [1.0, 1.0, 5.0]) == [1]
