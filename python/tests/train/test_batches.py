"""The order of the data: a function of seed and step, each window once an epoch; schedules; statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dither.errors import UserError
from dither.paired import paired_interval, student_cdf, student_quantile
from dither.train.batches import Batches, validation_windows
from dither.train.config import TrainConfig
from dither.train.schedule import learning_rate

TOKENS = np.arange(1000, dtype=np.uint16)


def test_a_step_depends_on_seed_and_step_alone_and_microbatches_divide_it() -> None:
    whole = Batches(TOKENS, context=8, batch=6, accumulate=1, seed=3)
    parts = Batches(TOKENS, context=8, batch=6, accumulate=3, seed=3)
    for step in (40, 2, 0):
        x, y = whole.at(step)
        assert torch.equal(y[:, :-1], x[:, 1:]) and torch.equal(y, x + 1)
        assert torch.equal(x, torch.cat([parts.at(step, m)[0] for m in range(3)]))
        assert torch.equal(x, Batches(TOKENS, 8, 6, 1, 3).at(step)[0])
        assert not torch.equal(x, Batches(TOKENS, 8, 6, 1, 4).at(step)[0])


def test_every_window_is_used_once_an_epoch_and_epochs_differ() -> None:
    batches = Batches(TOKENS, context=8, batch=1, accumulate=1, seed=0)
    n = batches.windows
    epochs = [[int(batches.at(e * n + i)[0][0, 0]) for i in range(n)] for e in range(2)]
    for starts in epochs:
        assert len(set(starts)) == n and len({start % 8 for start in starts}) == 1
    assert epochs[0] != epochs[1]


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(UserError, match=r"20 tokens, too few for model.context = 16"):
        Batches(TOKENS[:20], context=16, batch=1, accumulate=1, seed=0)


def test_validation_windows_are_spread_and_their_bytes_counted() -> None:
    widths = np.ones(1000, dtype=np.uint16)
    batches, size = validation_windows(TOKENS, widths, context=10, limit=95, rows=4)
    windows = torch.cat([x for x, _ in batches])
    assert windows.shape == (9, 10) and size == 90
    assert windows[0, 0] == 0 and windows[-1, 0] >= 870
    everything, size = validation_windows(TOKENS[:25], widths[:25], context=10, limit=10**9, rows=4)
    assert size == 20 and sum(len(x) for x, _ in everything) == 2
    short, _ = validation_windows(TOKENS[:5], widths[:5], context=10, limit=100, rows=4)
    assert [tuple(x.shape) for x, _ in short] == [(1, 4)]


def test_schedules_warm_up_and_end_where_they_should() -> None:
    def rates(**settings) -> list[float]:
        train = TrainConfig(steps=100, lr=1.0, warmup=10, final_lr=0.1, decay=0.2, **settings)
        return [learning_rate(train, step) for step in range(100)]

    for kind in ("cosine", "wsd", "constant"):
        assert rates(schedule=kind)[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    cosine, wsd = rates(schedule="cosine"), rates(schedule="wsd")
    assert cosine[10] == 1.0 and cosine[-1] == pytest.approx(0.1)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    assert wsd[10:80] == [1.0] * 70 and wsd[-1] == pytest.approx(0.1) and wsd[89] == pytest.approx(0.55)
    assert set(rates(schedule="constant")[10:]) == {1.0}
    never = TrainConfig(steps=100, lr=1.0, warmup=10, schedule="wsd", decay=0.0)
    assert learning_rate(never, 99) == 1.0


def test_student_quantiles_are_those_of_the_tables() -> None:
    for freedom, value in ((1, 12.706205), (2, 4.302653), (4, 2.776445), (9, 2.262157), (30, 2.042272)):
        assert student_quantile(0.975, freedom) == pytest.approx(value, abs=1e-6)
        assert student_quantile(0.025, freedom) == pytest.approx(-value, abs=1e-6)
        assert student_cdf(value, freedom) == pytest.approx(0.975, abs=1e-7)
    assert student_cdf(0.0, 5) == 0.5


def test_a_paired_interval_is_that_of_the_differences() -> None:
    interval = paired_interval([1.0, 2.0, 4.0], [0.0, 0.5, 2.0])
    assert interval.mean == pytest.approx(1.5) and interval.sd == pytest.approx(0.5)
    half = 4.302653 * 0.5 / math.sqrt(3)
    assert interval.low == pytest.approx(1.5 - half, abs=1e-5)
    assert interval.high == pytest.approx(1.5 + half, abs=1e-5)
    assert paired_interval([1.0], [2.0]).low is None
    with pytest.raises(ValueError):
        paired_interval([], [])
