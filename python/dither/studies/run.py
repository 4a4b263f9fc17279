"""Run a study and write what it found: study.json, study.md, study.html and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dither.errors import UserError
from dither.files import write_json, write_text
from dither.report import study as pages
from dither.studies.catalogue import get
from dither.studies.measure import Measurement
from dither.studies.study import Context, Outcome, Study, judge

RULE = (
    "A claim is reproduced here when the 95 % interval of its quantity lies wholly on the claimed side of "
    "the threshold, of opposite sign when wholly on the other side, underpowered when the interval holds the "
    "threshold. "
    "Intervals are of one claim each."
)


def run(
    name: str, out: str | Path, *, quick: bool = False, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Run one study in the folder `out`/NAME (`NAME-quick` for the quick version), and return its record, as
    study.json has it.

    Parts that are finished are kept: the same call goes on where it stopped. Raises UserError for a name that
    is no study and a place that is a file.
    """
    study = get(name)
    folder = Path(out) / (f"{name}-quick" if quick else name)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    context = Context(study, folder, quick, say)
    outcome = study.measure(context)
    found = record(study, outcome, len(context.seeds), quick)
    figures = {caption: pages.png(figure) for caption, figure in outcome.figures.items()}
    write_json(folder / "study.json", found)
    for number, image in enumerate(figures.values(), 1):
        (folder / f"picture-{number}.png").write_bytes(image)
    write_text(folder / "study.md", pages.markdown(found, tuple(figures)))
    write_text(folder / "study.html", pages.page(found, figures))
    return found


def record(study: Study, outcome: Outcome, seeds: int, quick: bool) -> dict[str, Any]:
    """Everything as plain values. An outcome must speak of every claim that is testable."""
    return {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "quick": quick,
        "command": f"dither study {study.name}" + (" --quick" if quick else ""),
        "data": outcome.data,
        "seeds": seeds,
        "protocol": list(study.protocol),
        "rule": RULE,
        "claims": [_claim(claim, outcome) for claim in study.claims],
        "tables": [
            {"title": t.title, "headings": list(t.headings), "rows": [list(row) for row in t.rows]}
            for t in outcome.tables
        ],
    }


def _claim(claim: Any, outcome: Outcome) -> dict[str, Any]:
    found = claim.untestable or outcome.measured[claim.key]
    verdict, why = judge(claim, found)
    measured = None
    if isinstance(found, Measurement):
        measured = {
            "estimate": found.estimate, "low": found.low, "high": found.high, "n": found.n,
            "detectable": found.detectable,
        }  # fmt: skip
    return {
        "claim": claim.key, "text": claim.text, "source": claim.source, "read": claim.read,
        "quantity": claim.quantity, "expected": f"{claim.side} {claim.threshold:g}",
        "measured": measured, "verdict": verdict, "why": why,
    }  # fmt: skip
