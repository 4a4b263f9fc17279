"""What a fit hangs on: its parameters under other objectives, rows, counts of N and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dither.errors import UserError
from dither.laws import table
from dither.laws.engine import Floats, Objective

if TYPE_CHECKING:
    from dither.laws.fitting import Fit

OBJECTIVES = (("huber", 1e-4), ("huber", 1e-3), ("huber", 1e-2), ("log_square", 1e-3), ("lad", 1e-3))
DROPPED = (1, 5, 10, 20)
"""Highest losses that are left out."""

RATIOS = (1.0, 5.0, 10.0, 20.0)
"""Tokens a parameter below which runs are left out."""

SPARE = 2
"""Rows more than free parameters that must be left."""


def sensitivities(
    fit: Fit, *, other_N: Mapping[str, Any] | None = None, checkpoints: Mapping[str, Any] | None = None
) -> dict[str, Fit]:
    """The fit under other choices: objectives and deltas, the highest losses dropped, runs of few tokens a
    parameter dropped, other counts of N, other policies of checkpoints.

    other_N: name -> sizes of all rows under another definition (without embeddings, active, ...).
    checkpoints: name -> the table of the same runs under another policy (all checkpoints, ...; see
    `dither.laws.checkpoints`), with the law's own names and `loss`; and `weights`, where the fit has any.
    UserError for sizes of another length, and for a table without weights under a fit that has them.
    """
    from dither.laws.fitting import fit as fit_table
    from dither.laws.fitting import fit_arrays

    found = {"as fitted": fit}

    def again(name: str, objective: Objective, arrays: dict[str, Floats], kept: Any) -> None:
        weights = None if fit.weights is None else fit.weights[kept]
        chosen = {key: values[kept] for key, values in arrays.items()}
        found[name] = fit_arrays(fit.law, chosen, fit.loss[kept], objective, weights, *fit.settings)

    every = np.ones(len(fit.loss), dtype=bool)
    for name, delta in OBJECTIVES:
        objective = Objective(name, delta)
        if objective != fit.objective:
            again(str(objective), objective, fit.arrays, every)
    for name, kept in _fewer_rows(fit):
        again(name, fit.objective, fit.arrays, kept)
    for name, sizes in (other_N or {}).items():
        values = np.asarray(fit.of_rows(sizes, f"sizes of other_N[{name!r}]"), dtype=np.float64)
        arrays = fit.law.arrays({**fit.arrays, "N": values})
        again(f"N: {name}", fit.objective, arrays, every)
    for name, data in (checkpoints or {}).items():
        kind, settings = fit.objective, fit.settings._asdict()
        try:
            weights = None if fit.weights is None else table.select(data, {"weights": "weights"})["weights"]
            found[f"checkpoints: {name}"] = fit_table(
                fit.law, data, objective=kind.name, delta=kind.delta, weights=weights, **settings
            )
        except UserError as error:
            raise UserError(f"checkpoints {name!r}: {error}") from None
    return found


def _fewer_rows(fit: Fit) -> Iterator[tuple[str, Any]]:
    """What is left out, and the rows that stay."""
    least = int(np.sum(fit.low < fit.high)) + SPARE
    order = np.argsort(fit.loss)
    for dropped in DROPPED:
        if len(order) - dropped >= least:
            name = "highest loss dropped" if dropped == 1 else f"{dropped} highest losses dropped"
            yield name, np.sort(order[:-dropped])
    if {"N", "D"} <= set(fit.arrays):
        ratio, last = fit.arrays["D"] / fit.arrays["N"], len(fit.loss)
        for bound in RATIOS:
            kept = ratio >= bound
            if least <= kept.sum() < last:
                last = int(kept.sum())
                yield f"D/N below {bound:g} dropped", kept


def shown(fit: Fit, name: str) -> str:
    """A parameter's value, or that it sits at its bound and so is none that the runs show."""
    from dither.laws.cautions import at_bound

    return "at its bound" if name in at_bound(fit) else f"{fit.params[name]:.5g}"


def lines(found: Mapping[str, Fit]) -> list[str]:
    """The table in words; a choice whose optimum is no certified minimum says so."""
    names, width = list(found["as fitted"].params), max(map(len, found))
    said = ["sensitivity".ljust(width + 2) + "".join(f"{name:>14}" for name in names)]
    for choice, fit in found.items():
        doubt = "" if fit.certificate.is_minimum else "   no certified minimum"
        said.append(f"  {choice:<{width}}" + "".join(f"{shown(fit, name):>14}" for name in names) + doubt)
    return said
