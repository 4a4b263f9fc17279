"""Every law by name."""

from __future__ import annotations

from dither.laws import sums
from dither.laws.law import FunctionLaw, SumLaw

LAWS: dict[str, SumLaw | FunctionLaw] = {law.name: law for law in sums.LAWS}


def names() -> list[str]:
    """Names of all laws."""
    return list(LAWS)
