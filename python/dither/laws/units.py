"""Tables in which units are mixed: some losses in bits, some tokens in billions. Named, with what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dither.laws.engine import Floats
from dither.laws.table import listed

if TYPE_CHECKING:
    from dither.laws.fitting import Fit

GAP = 1e3
"""Factor between neighbouring values of a variable from which its units are doubted."""

FEWEST = 1e3
"""Parameters or tokens of the smallest run that is trained: fewer are thousands, millions or billions."""

SHIFT = 0.15
"""ln of the least factor between two units of a loss: what separates them must be no noise."""

CLEAR = 8.0
"""Times the scatter of the rows, that the shift between two units must be."""

STARTS = 100
"""Random splits that are tried."""

ALIKE = 0.03
"""A factor that is so near to that between bits and nats is that one."""

COUNTED = ("parameters", "training tokens")


def counted(name: str, meaning: str, values: Floats, numbers: Any) -> Iterator[str]:
    """What is odd about a variable's values: a gap between two clouds, or counts in thousands and more.
    numbers: of the values' rows in the table, from 0."""
    order = np.argsort(values)
    jumps = values[order][1:] / values[order][:-1]
    if jumps.max(initial=1.0) > GAP:
        at = int(np.argmax(jumps)) + 1
        fewer = np.sort(order[:at] if 2 * at <= len(order) else order[at:])
        yield (
            f"{name} jumps by a factor of {jumps.max():.1g} between neighbouring values: are its units mixed?"
            f" Rows {listed(numbers[fewer])} ({len(fewer)} of {len(values)}) lie apart; where they are given "
            "in thousands, millions or billions, multiply them"
        )
    elif meaning.startswith(COUNTED) and values.min() < FEWEST:
        yield (
            f"{name} ({meaning}) begins at {values.min():.3g}: where it is given in millions or billions, "
            "multiply the column, or budgets, tokens a parameter and FLOPs come out wrong"
        )


def mixed(fit: Fit) -> str:
    """`two_units` of a fit's runs, where it leaves some of them far off."""
    if np.abs(fit.residuals).max() < 0.5 * SHIFT:
        return ""
    measured = fit.law.measured(fit.arrays)
    return two_units(list(measured.values()), fit.loss, np.flatnonzero(fit.used))


def two_units(variables: Sequence[Floats], loss: Floats, numbers: Any) -> str:
    """Rows whose loss lies a factor off a smooth surface through the others, in words; empty if there are
    none, or only one (an outlier). numbers: of the rows in the table, from 0.

    The surface is a quadratic in the logarithms of the variables (a plane where rows are few), with a step
    for the rows of the other unit, which are found by turns with it, from many starts.
    """
    x, y = _basis(variables, len(loss)), np.log(loss)
    if x is None:
        return ""
    apart, scatter, shift = _split(x, y, _starts(x, y))
    if apart.sum() < 2 or abs(shift) < max(SHIFT, CLEAR * scatter):
        return ""
    if abs(abs(shift) + np.log(np.log(2))) < ALIKE:
        why = "1.44 bits are a nat: convert them to one unit"
    else:
        why = (
            "nats a token are ln 2 x bytes a token x bits a byte. Convert them; where they are of another "
            "corpus or tokenizer, fit them apart"
        )
    return (
        f"the loss: are its units mixed? Rows {listed(numbers[apart])} ({apart.sum()} of {len(loss)}) "
        f"have {np.exp(shift):.3g} times the loss that the others tell; {why}"
    )


def _basis(variables: Sequence[Floats], rows: int) -> Floats | None:
    """Columns of a quadratic, or of a plane; None where there are too few rows for either."""
    logs = [np.log(v) for v in variables]
    logs = [(v - v.mean()) / v.std() for v in logs if v.std() > 1e-9]
    plane = [np.ones(rows), *logs]
    curved = [*plane, *(a * b for i, a in enumerate(logs) for b in logs[i:])]
    for columns in (curved, plane):
        if rows >= 2 * len(columns) + 2:
            return np.stack(columns, axis=1)
    return None


def _starts(x: Floats, y: Floats) -> Any:
    """Splits of the rows, (splits, rows): at the widest gaps of what the surface leaves, and at random."""
    r = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    order = np.argsort(r)
    found = np.zeros((4, len(y)), dtype=bool)
    for split, gap in zip(found, np.argsort(np.diff(r[order]))[::-1], strict=False):
        split[order[gap + 1 :]] = True
    return np.concatenate([found, np.random.default_rng(0).random((STARTS, len(y))) < 0.5])


def _split(x: Floats, y: Floats, z: Any) -> tuple[Any, float, float]:
    """From all splits at once, the best: the smaller group of rows, the scatter about a surface with a step
    between the groups, and the step."""
    u, size, _ = np.linalg.svd(x, full_matrices=False)
    u = u[:, size > 1e-12 * size[0]]
    left = y - u @ (u.T @ y)
    going = np.ones(len(z), dtype=bool)
    for _ in range(20):
        beyond = z - (z @ u) @ u.T  # what of each split the surface does not take
        square = np.sum(beyond**2, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = np.where(square > 1e-9, beyond @ y / square, 0.0)
        flat = left - shift[:, None] * beyond  # without the step
        r = flat + shift[:, None] * z
        new = np.abs(r - shift[:, None]) < np.abs(r)
        count = new.sum(axis=1)
        going &= (count > 0) & (count < len(y)) & (new != z).any(axis=1)
        if not going.any():
            break
        z = np.where(going[:, None], new, z)
    free = max(1, len(y) - x.shape[1] - 1)
    scatter = np.sqrt(np.sum(flat**2, axis=1) / free)
    best = int(np.argmin(scatter))
    one, step = z[best], float(shift[best])
    return (
        (one, float(scatter[best]), step) if 2 * one.sum() <= len(y) else (~one, float(scatter[best]), -step)
    )
