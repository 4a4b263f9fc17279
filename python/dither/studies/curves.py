"""Published loss curves of three sizes under nine learning-rate schedules (2503.12811), and laws for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dither import laws
from dither.studies import tables

TABLE = "lr-annealing/multipowerlaw_loss_curves.csv"
SIZES = ("25", "100", "400")
"""Million parameters."""
TRAIN = ("cosine_24000", "constant_24000", "wsdcon_9")
TEST = ("constant_72000", "cosine_72000", "wsd_20000_24000", "wsdld_20000_24000", "wsdcon_3", "wsdcon_18")
WARMUP, PEAK, END = 2160, 3e-4, 3e-5


def rates(schedule: str) -> Any:
    """Learning rates from step 0: a linear warm-up from (almost) 0, then the schedule of that name."""
    kind, *numbers = schedule.split("_")
    first, *more = (int(number) for number in numbers)
    last = {"wsd": more, "wsdld": more, "wsdcon": [16000]}.get(kind, [first])[0]
    t = np.arange(WARMUP, last + 1)
    if kind == "cosine":
        after = END + (PEAK - END) / 2 * (1 + np.cos(np.pi * (t - WARMUP) / (last - WARMUP)))
    elif kind in ("wsd", "wsdld"):
        gone = np.clip((t - first) / (last - first), 0, 1)
        after = PEAK * (END / PEAK) ** gone if kind == "wsd" else PEAK + (END - PEAK) * gone
    else:
        after = np.where(t < 8000, PEAK, first * 1e-5) if kind == "wsdcon" else np.full(len(t), PEAK)
    warm = np.linspace(0, PEAK, WARMUP)
    warm[0] = np.finfo(float).tiny  # a rate is positive; the published code begins at 0
    return np.concatenate([warm, after])


def multi_power(*, warm: bool = True) -> laws.FunctionLaw:
    """For all schedules. warm: the sum over drops runs over the warm-up too, as in the released code."""
    if warm:
        return laws.multi_power({name: rates(name) for name in (*TRAIN, *TEST)})
    return laws.multi_power(_after_warmup())


def annealing() -> laws.FunctionLaw:
    return laws.annealing(_after_warmup())


def _after_warmup() -> dict[str, laws.Schedule]:
    whole = {name: rates(name) for name in (*TRAIN, *TEST)}
    return {name: laws.Schedule(eta[WARMUP:], float(eta[:WARMUP].sum())) for name, eta in whole.items()}


def curves(size: str, schedules: tuple[str, ...], *, warm: bool, stride: int = 1) -> dict[str, Any]:
    """Rows of those curves: curve and step as a law counts them (from 1; after the warm-up unless `warm`),
    loss."""
    order = (*TRAIN, *TEST)
    frame, rows = tables.where(tables.read(TABLE), model_M=size), []
    for name in schedules:
        one = tables.where(frame, schedule=name)
        step, loss = (tables.numbers(one, key)[::stride] for key in ("step", "loss"))
        rows.append((np.full(len(step), order.index(name) + 1.0), step + 1 - (0 if warm else WARMUP), loss))
    return dict(zip(("curve", "step", "loss"), map(np.concatenate, zip(*rows, strict=True)), strict=True))
