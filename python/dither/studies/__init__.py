"""Studies: one file a paper, run small, claim against measurement.

`dither study NAME...` runs them. A study states its claims, protocol, seeds and decision rule before it runs;
what comes out is a verdict that knows its power. To add one, put a file into `dither/studies/papers`
(docs/studies.md).
"""

from dither.studies.catalogue import get, names
from dither.studies.measure import Measurement, jackknife, over_seeds
from dither.studies.run import run
from dither.studies.study import Claim, Context, Outcome, Study, Table, Verdict, judge

__all__ = [
    "Claim",
    "Context",
    "Measurement",
    "Outcome",
    "Study",
    "Table",
    "Verdict",
    "get",
    "jackknife",
    "judge",
    "names",
    "over_seeds",
    "run",
]
