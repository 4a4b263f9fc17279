"""The small runs of the study tiny-laws: sizes, tokens, corpora, and learning rates from a pilot.

Every run is one of `dither train`: it goes on from where it was stopped, and `dither fit` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dither.laws.engine import Floats
from dither.laws.isoflop import vertex
from dither.studies.study import Context
from dither.studies.sweeps import Row, trained
from dither.studies.texts import CORPORA, source

SIZES = ((16, 1, 1), (32, 1, 2), (32, 2, 2), (48, 2, 3), (64, 2, 4))
"""Width, layers and heads; 8,288 to 123,328 parameters, the embedding (which is the head too) included."""
TOKENS = (60_000, 200_000)
LONGER = {2: (600_000,), 1: (600_000,), 0: (600_000, 2_000_000)}
"""More tokens for the three smallest sizes: as much compute as the largest ones have at fewer."""
HELD_OUT = ((4, 600_000), (3, 600_000), (2, 1_600_000))
"""Sizes and tokens of the runs that no fit sees: 3.0, 1.7 and 2.3 times the compute of the largest seen."""
RATES = (4e-3, 1e-2, 2.5e-2, 6.25e-2)
PILOT = (0, 4)
STEP = 512
"""Tokens of a step: 4 sequences of 128 bytes."""

SHARED = {
    "model": {"context": 128},
    "data": {"tokenizer": "bytes"},
    "train": {
        "batch": 4, "schedule": "cosine", "final_lr": 0.1, "betas": [0.9, 0.99], "checkpoint_every": 2000,
    },
    "eval": {"tokens": 65536},
}  # fmt: skip


def settings(corpus: str, size: int, tokens: int, rate: float, seed: int = 0) -> dict[str, Any]:
    """One run as a table of the sweep's file. `corpus`: as `data.sources`; size: position in SIZES. Warm-up
    is a tenth of the steps."""
    width, layers, heads = SIZES[size]
    return {
        "data.sources": [corpus], "model.width": width, "model.layers": layers, "model.heads": heads,
        "train.tokens": tokens, "train.lr": rate, "train.warmup": max(1, tokens // STEP // 10),
        "train.seed": seed,
    }  # fmt: skip


def best_rates(losses: Mapping[int, Mapping[float, float]]) -> dict[int, float]:
    """The learning rate of every width of SIZES from a pilot's losses, width -> rate -> loss.

    The rule: for each width of the pilot the vertex of the parabola of the loss over ln rate, through the
    best rate tried and its neighbours (never beyond these three); a straight line of ln rate over ln width
    through the vertices.
    """
    vertices = [vertex(np.log(list(curve)), list(curve.values())) for curve in losses.values()]
    slope, level = np.polyfit(np.log(list(losses)), vertices, 1)
    return {width: float(f"{np.exp(level + slope * np.log(width)):.3g}") for width, _, _ in SIZES}


def pilot(context: Context, sources: Mapping[str, str]) -> dict[int, dict[float, float]]:
    """Losses of the rates tried, on code: width -> rate -> loss."""
    sizes, tokens = context.choose((PILOT, TOKENS[1]), ((0, 1), TOKENS[0] // 2))
    tried = [(size, rate) for size in sizes for rate in RATES]
    tables = [settings(sources["code"], size, tokens, rate) for size, rate in tried]
    rows = trained(context.folder, "pilot", SHARED, tables, context.say)
    found: dict[int, dict[float, float]] = {SIZES[size][0]: {} for size in sizes}
    for (size, rate), row in zip(tried, rows, strict=True):
        found[SIZES[size][0]][rate] = row["loss"]
    return found


def cells(context: Context) -> dict[str, list[tuple[int, int, int]]]:
    """What is trained on each corpus: kind -> (size, tokens, seed)."""
    seeds = [seed for seed in context.seeds if seed]
    if context.quick:
        grid = [(size, tokens, 0) for size in (0, 1, 2) for tokens in (30_000, 60_000, 120_000)]
        return {"fit": grid, "held": [(2, 240_000, 0)], "again": [(0, 30_000, seed) for seed in seeds]}
    grid = [(size, tokens, 0) for tokens in TOKENS for size in range(len(SIZES))]
    grid += [(size, tokens, 0) for size, longer in LONGER.items() for tokens in longer]
    held = [(size, tokens, 0) for size, tokens in HELD_OUT]
    return {"fit": grid, "held": held, "again": [(1, TOKENS[1], seed) for seed in seeds]}


def runs(context: Context) -> tuple[dict[str, dict[str, list[Row]]], dict[int, dict[float, float]]]:
    """corpus -> kind of `cells` -> rows, and the pilot's losses."""
    sources = {corpus: source(corpus, context.folder / "corpora") for corpus in CORPORA}
    tried = pilot(context, sources)
    rates = best_rates(tried)
    context.say(f"learning rates by width: {rates}")
    todo = [
        (kind, corpus, cell)
        for kind, listed in cells(context).items() for cell in listed for corpus in CORPORA
    ]  # fmt: skip
    tables = [
        settings(sources[corpus], size, tokens, rates[SIZES[size][0]], seed)
        for _, corpus, (size, tokens, seed) in todo
    ]
    rows = trained(context.folder, "sweep", SHARED, tables, context.say)
    found: dict[str, dict[str, list[Row]]] = {corpus: {} for corpus in CORPORA}
    for (kind, corpus, _), row in zip(todo, rows, strict=True):
        found[corpus].setdefault(kind, []).append(row)
    return found, tried


def table(rows: list[Row]) -> dict[str, Floats]:
    """N, D and bits per byte of runs."""
    columns = {"N": "N", "D": "D", "loss": "bits_per_byte"}
    return {
        name: np.array([row[column] for row in rows], dtype=np.float64) for name, column in columns.items()
    }


def same_cell(one: Row, other: Row) -> bool:
    return (one["N"], one["D"]) == (other["N"], other["D"])
