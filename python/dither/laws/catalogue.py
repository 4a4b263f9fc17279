"""Every law by name."""

from __future__ import annotations

from dither.laws import formulas, precision, structure, sums, tasks
from dither.laws.law import FunctionLaw, SumLaw

LAWS: dict[str, SumLaw | FunctionLaw] = {
    law.name: law
    for law in (
        *sums.LAWS,
        *formulas.LAWS,
        *structure.LAWS,
        *precision.SUMS,
        *precision.FORMULAS,
        *tasks.SUMS,
        *tasks.FORMULAS,
    )
}


def names() -> list[str]:
    """Names of all laws."""
    return list(LAWS)
